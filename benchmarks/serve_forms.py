"""Bodies of requests that carry files: whole for small ones, piece by piece for those too large for that."""

import json
from collections.abc import Iterator
from pathlib import Path

from seedvr2_ray.settings import RestoreSettings

_EDGE = "benchmark-of-the-service"
_PIECE_BYTES = 1 << 20


def form_of(source: Path, settings: RestoreSettings) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a form that submits a file."""
    head, tail, headers = form_around(source.name, settings)
    return head + source.read_bytes() + tail, headers


def form_around(name: str, settings: RestoreSettings) -> tuple[bytes, bytes, dict[str, str]]:
    """Return what stands before and after the file's bytes in a form, and the form's headers."""
    head = (
        f'--{_EDGE}\r\nContent-Disposition: form-data; name="settings"\r\n\r\n{json.dumps(settings.to_mapping())}\r\n'
    )
    head += f'--{_EDGE}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary={_EDGE}"}
    return head.encode(), f"\r\n--{_EDGE}--\r\n".encode(), headers


def padded(video: bytes, num_bytes: int) -> Iterator[bytes]:
    """Yield an MP4 file of exactly so many bytes: a video, and a box of zeros that players skip."""
    missing = num_bytes - len(video)
    if missing < 8 or missing >= 1 << 32:
        raise ValueError(f"a video of {len(video)} bytes cannot be padded to {num_bytes}")
    yield video + missing.to_bytes(4, "big") + b"free"
    left = missing - 8
    while left:
        piece = min(left, _PIECE_BYTES)
        yield bytes(piece)
        left -= piece
