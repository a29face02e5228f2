"""Files as they come: opened, scanned, indexed and probed, before anybody vouches for them."""
