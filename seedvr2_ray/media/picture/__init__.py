"""What a decoded picture is: colour, pixel formats, sampling, and converting between them."""
