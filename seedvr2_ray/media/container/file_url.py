"""Paths as libav must be given them."""


def file_url(path: str) -> str:
    """Name a local file so that libav takes the name literally: ``10:30.mp4`` is no protocol called 10."""
    return f"file:{path}"
