"""Files as they come: opened, scanned and indexed, before anybody vouches for them."""
