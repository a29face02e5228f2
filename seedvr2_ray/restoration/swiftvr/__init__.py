"""Restoring a segment with SwiftVR: chunks as they come, memory, loading."""
