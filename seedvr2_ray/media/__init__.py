"""Files to frames and back; no models."""
