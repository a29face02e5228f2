"""The causal video VAE: layers, blocks, streaming state, tiles."""
