"""What was decided about one stream of a source, between the planning and the writing of it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What becomes of one stream of the source."""

    index: int
    action: Literal["copy", "convert", "attach"]
    codec: str = ""
    """FFmpeg's encoder, for ``convert``."""
    layout: str = ""
    """Channel layout of the sound that is written, where the source's own cannot be."""
    rate: int = 0
    """Samples per second of sound that is encoded anew."""
