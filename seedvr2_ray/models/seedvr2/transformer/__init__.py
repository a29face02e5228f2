"""The diffusion transformer: windows, packing, attention blocks."""
