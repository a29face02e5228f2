"""Still images: what they are, wholly decoded or refused, with everything that stands beside the picture.

The libraries made for stills are loaded when the first one is read. A picture is measured before it is
decoded, and every warning of a decoder that means missing samples is damage.
"""

import importlib
import io
import os
import warnings
from array import array
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.errors import MediaError
from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.container.index import FrameIndex
from seedvr2_ray.media.container.preflight import preflight
from seedvr2_ray.media.container.samples import Samples
from seedvr2_ray.media.container.still_kinds import StillKind, still_kind
from seedvr2_ray.media.info import MediaInfo, Notice, VideoInfo
from seedvr2_ray.media.picture.colour import fill_in, tags_from_codes
from seedvr2_ray.media.picture.pixel_formats import bit_depth_of, chroma_of
from seedvr2_ray.media.stills.colour import to_rgb
from seedvr2_ray.media.stills.exif import read_exif, turn_of
from seedvr2_ray.media.stills.formats import (
    read_avif,
    read_dpx,
    read_heif,
    read_ico,
    read_jpeg,
    read_jpeg2000,
    read_jpegxl,
    read_png,
    read_webp,
)
from seedvr2_ray.media.stills.pnm import read_pnm
from seedvr2_ray.media.stills.raster import (
    DAMAGED_PICTURE,
    Raster,
    SizeCheck,
    StillTags,
    damaged_still,
    to_frame,
    without_needless_alpha,
)
from seedvr2_ray.media.stills.with_pillow import NONSENSE_ERRORS, read_with_pillow
from seedvr2_ray.media.stills.with_tifffile import read_tiff

_OWN_READERS: dict[StillKind, Any] = {
    "png": read_png,
    "tiff": read_tiff,
    "webp": read_webp,
    "jpeg2000": read_jpeg2000,
    "heif": read_heif,
    "avif": read_avif,
    "jpegxl": read_jpegxl,
    "pnm": read_pnm,
    "ico": read_ico,
    "dpx": read_dpx,
}
_TURNED_BY_THEIR_DECODER = frozenset({"heif", "jpegxl"})


@dataclass(frozen=True, slots=True)
class Still:
    """One decoded still image."""

    kind: StillKind
    frame: av.VideoFrame
    """``gray`` or planar ``gbrp``, with ``gbrap`` where something is transparent; 8 or 16 bits, not yet upright."""
    tags: StillTags
    """What describes the picture; its orientation is the one that is still due."""
    notices: tuple[Notice, ...]

    @property
    def is_damaged(self) -> bool:
        """Whether only a part of the picture is the source's own."""
        return any(notice.subject == DAMAGED_PICTURE for notice in self.notices)


def read_still(path: str, *, require_size: SizeCheck = lambda width, height: None, salvage: bool = False) -> Still:
    """Decode a still image wholly.

    Args:
        require_size: told the size as stored before anything is decoded; raises what is too large.
        salvage: give what was read of a damaged JPEG.

    Raises:
        DamagedMediaError: it is damaged, a part can be read, and ``salvage`` is off.
        MediaError: it is no still image, is damaged, or of a variant that is not read.
    """
    kind = still_kind(path)
    if kind is None:
        raise MediaError(f"{path} is no still image any more; run the command again")
    raster = without_needless_alpha(to_rgb(_read(path, kind, require_size, salvage=salvage)))
    return Still(kind, to_frame(raster), raster.tags, raster.notices)


def load_readers() -> None:
    """Load the libraries for stills now: a process that forks others for one file each does it once for all.

    Only what every still needs, and what takes longest; each codec is loaded when a file asks for it.
    """
    for name in ("PIL.Image", "PIL.ImageCms", "imagecodecs", "pillow_heif", "simplejpeg", "tifffile"):
        importlib.import_module(name)


def read_tags(path: str) -> StillTags:
    """Return what describes a still image, with the profile that holds for its restored picture."""
    return read_still(path, salvage=True).tags


def describe_still(path: str, *, require_size: SizeCheck, salvage: bool) -> MediaInfo:
    """Decode a still image and say what it is; see :func:`read_still`."""
    still = read_still(path, require_size=require_size, salvage=salvage)
    frame = still.frame
    rotation, mirrored = turn_of(still.tags.orientation)
    samples = Samples(
        pixel_format=frame.format.name,
        width=frame.width,
        height=frame.height,
        colour=_colour(still.tags),
        rotation=rotation,
        mirrored=mirrored,
        is_askew=False,
        has_alpha=frame.format.name.startswith("gbrap"),
        is_interlaced=False,
        first_field="",
        num_combed_places=0,
        is_telecined=False,
        is_soft_telecined=False,
        has_second_view=False,
        crop=(),
        side_data=frozenset(),
    )
    video = _describe(still.kind, samples)
    index = FrameIndex(pts=array("q", [0]), timestamps="counted", lost=(), num_undecodable_at_start=0, missing_bytes=0)
    return MediaInfo(
        path=path,
        size_bytes=os.path.getsize(path),
        container=still.kind,
        kind="image",
        video=video,
        frame_pts=index.pts,
        damaged_frames=((0, 1),) if still.is_damaged else (),
        streams=(),
        chapters=(),
        metadata={},
        preflight=(*preflight(video, samples, index, is_image=True, further_videos=()), *still.notices),
    )


def _read(path: str, kind: StillKind, require_size: SizeCheck, *, salvage: bool) -> Raster:
    # What Pillow warns of besides (odd tags, an icon's size) is no loss of samples.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        if kind == "jpeg":
            raster = read_jpeg(path, require_size, salvage=salvage)
        elif kind in _OWN_READERS:
            raster = _OWN_READERS[kind](path, require_size)
        else:
            raster = read_with_pillow(path, kind, require_size)
        return replace(raster, tags=_completed(raster.tags, is_upright=kind in _TURNED_BY_THEIR_DECODER))
    except NONSENSE_ERRORS as error:
        raise damaged_still(path, error) from error


def _completed(tags: StillTags, *, is_upright: bool) -> StillTags:
    """Take the way up and the print resolution from EXIF where the file says them nowhere else."""
    if tags.exif is None:
        return tags
    exif = read_exif(io.BytesIO(tags.exif))
    orientation = 1 if is_upright else exif.orientation if tags.orientation == 1 else tags.orientation
    return replace(tags, orientation=orientation, dpi=tags.dpi or exif.dpi)


def _colour(tags: StillTags) -> ColourTags:
    primaries, transfer = tags.code_points or (2, 2)
    return tags_from_codes(primaries=primaries, transfer=transfer, matrix=2, colour_range=2)


def _describe(kind: StillKind, samples: Samples) -> VideoInfo:
    chroma = chroma_of(samples.pixel_format)
    turned = samples.rotation % 180 != 0
    return VideoInfo(
        stream_index=0,
        codec=kind,
        pixel_format=samples.pixel_format,
        width=samples.height if turned else samples.width,
        height=samples.width if turned else samples.height,
        # A print resolution is no pixel aspect: whatever shows pictures ignores it.
        sample_aspect=Fraction(1),
        rotation=samples.rotation,
        mirrored=samples.mirrored,
        bit_depth=bit_depth_of(samples.pixel_format),
        chroma=chroma,
        has_alpha=samples.has_alpha,
        colour=fill_in(
            samples.colour, kind="image", width=samples.width, height=samples.height, is_rgb=chroma == "rgb"
        ),
        guessed_colour=False,
        time_base=Fraction(1, 25),
        frame_rate=Fraction(1),
        is_variable_rate=False,
        num_frames=1,
        field_order="progressive",
        timestamps="counted",
        is_still=True,
    )
