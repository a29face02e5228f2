"""The work on one source: restoring, finishing and assembling its segments, and what is left of it."""
