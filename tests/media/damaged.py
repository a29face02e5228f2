"""Copies of clips that end too early, or hold bytes that nobody wrote. Not a test module."""

from pathlib import Path


def cut_short(path: str | Path, share: float) -> str:
    """Write a copy that ends after a share of the bytes; return its path."""
    source = Path(path)
    target = source.with_name(f"cut-{source.name}")
    target.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    return str(target)


def damage(path: str | Path, share: float = 0.5, length: int = 200) -> str:
    """Write a copy with bytes overwritten from a share of the file on; return its path."""
    source = Path(path)
    data = bytearray(source.read_bytes())
    start = int(len(data) * share)
    data[start : start + length] = bytes((index * 37 + 11) % 256 for index in range(length))
    target = source.with_name(f"damaged-{source.name}")
    target.write_bytes(data)
    return str(target)
