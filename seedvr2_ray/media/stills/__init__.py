"""Still images, read and written by libraries made for them."""
