"""Live streams: read as they come, restored without an end in sight, written as they go. Knows no Ray."""
