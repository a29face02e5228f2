"""What every encoder of a master is told, whether it writes packets or image files."""

from fractions import Fraction

import av

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.media.picture.colour import MATRICES, PRIMARIES, TRANSFERS, UNKNOWN

BITEXACT = 0x0400
"""FFmpeg's AVFMT_FLAG_BITEXACT: no random identifiers, dates or version numbers in the file."""

_LIMITED, _FULL = 1, 2
_FASTEST_STAMPS = Fraction(500)
_USUAL_RATE = Fraction(25)


def stamp_rate(master: MasterFormat) -> Fraction:
    """Return the rate at which parts count their frames: the nominal one, unless milliseconds cannot count so fast."""
    return master.frame_rate if 1 <= master.frame_rate <= _FASTEST_STAMPS else _USUAL_RATE


def tag_frame(frame: av.VideoFrame, colour: ColourTags) -> None:
    """Write a colour description onto a frame."""
    frame.color_primaries = PRIMARIES.get(colour.primaries, PRIMARIES[UNKNOWN])
    frame.color_trc = TRANSFERS.get(colour.transfer, TRANSFERS[UNKNOWN])
    frame.colorspace = MATRICES.get(colour.matrix, MATRICES[UNKNOWN])
    frame.color_range = _FULL if colour.full_range else _LIMITED


def configure_encoder(context: av.VideoCodecContext, master: MasterFormat) -> None:
    """Set what every encoder of a master must agree on, except its options."""
    context.width, context.height = master.width, master.height
    context.pix_fmt = master.pixel_format
    context.sample_aspect_ratio = master.sample_aspect
    context.color_primaries = PRIMARIES.get(master.colour.primaries, PRIMARIES[UNKNOWN])
    context.color_trc = TRANSFERS.get(master.colour.transfer, TRANSFERS[UNKNOWN])
    context.colorspace = MATRICES.get(master.colour.matrix, MATRICES[UNKNOWN])
    context.color_range = _FULL if master.colour.full_range else _LIMITED
