"""Checkpoints: which there are, where they lie, whether they are intact, and how they become networks."""
