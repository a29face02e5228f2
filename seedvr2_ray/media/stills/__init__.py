"""Still images, read by libraries made for them, and what a written one says about itself."""
