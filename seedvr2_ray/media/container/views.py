"""Further pictures inside the stream of the first: spatial video of phones, 3D discs, transparency."""

from itertools import islice

from seedvr2_ray.media.bitstream.nal_units import layer_of_hevc, length_size_of, split_units
from seedvr2_ray.media.container.source import Source, demux_video

_LOOKED_AT_PACKETS = 8
_MVC_SLICE = 20


def has_second_view(source: Source) -> bool:
    """Whether the packets of a freshly opened source hold further pictures, which decoders pass over.

    In HEVC they are a layer above the first (MV-HEVC, or Apple's alpha), in H.264 units of their own kind (MVC).
    """
    decoder = source.stream.codec_context
    codec = decoder.codec.canonical_name
    if codec not in ("h264", "hevc"):
        return False
    length_size = length_size_of(codec, decoder.extradata)
    for packet in islice(demux_video(source), _LOOKED_AT_PACKETS):
        for unit in split_units(bytes(packet), length_size):
            if codec == "hevc" and layer_of_hevc(unit):
                return True
            if codec == "h264" and unit[0] & 31 == _MVC_SLICE:
                return True
    return False
