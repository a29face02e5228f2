"""Who may do what, what may be fetched, and how untrusted files are looked at."""
