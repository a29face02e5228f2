"""Where objects lie: local folders and object stores, written atomically, found by address."""
