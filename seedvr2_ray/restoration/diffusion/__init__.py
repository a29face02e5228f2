"""Restoring a segment with a diffusion model: chunks, noise, padding, stitching, placement."""
