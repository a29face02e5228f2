"""Files as they come: opened, scanned, indexed and probed. Imports errors, frames and settings; no networks."""
