"""SeedVR2: one-step diffusion transformer and causal video autoencoder."""
