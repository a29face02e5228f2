"""One forward pass of the transformer on several devices: who holds which tokens, and what moves between them."""
