"""How a restored video or image is stored: the format every segment is encoded in.

The rules, in the order in which :func:`plan_master` applies them:

* The *container* follows the target's ending unless the settings name one. A printf pattern
  (``frame_%06d.png``) or a folder (``frames/``) asks for an image sequence.
* The *codec* is H.264 for 8 bits and HEVC above, AV1 in WebM, FFV1 in AVI, and an image's own.
* *Chroma* of the lossy codecs is 4:2:0, which every player shows. Only when the codec was asked for
  by name is a source's 4:2:2 or 4:4:4 kept. FFV1 keeps what the source has, R'G'B' and grey included.
* *Depth* is the source's, or the next one the codec has; HDR never gets less than 10 bits.
* *Alpha* is kept where the codec can and otherwise left out, and a notice says so.
* *Colour*: a BT.601 matrix in a picture that becomes HD is replaced by BT.709's, because HD players
  assume it even where the tag says otherwise. Primaries are tagged as they were: converting them
  would move colours that the restorer has just been careful to keep.
* HDR10's *static metadata* goes into the codec's own messages and into the container, *closed captions*
  into the new pictures, where codec and container can hold them.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import av

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.codecs import CODECS, IMAGE_CONTAINERS, SUFFIXES, CodecFacts, codecs_for, ffv1_slices
from seedvr2_ray.media.container.frame_rates import grid_rate
from seedvr2_ray.media.info import MediaInfo, Notice, VideoInfo
from seedvr2_ray.media.picture.colour import HDR_TRANSFERS, LUMA_WEIGHTS
from seedvr2_ray.media.picture.hdr import NO_HDR, StaticHdr, svt_av1_params, x265_params
from seedvr2_ray.media.tracks.caption_text import TEXT_CODECS
from seedvr2_ray.media.tracks.captions import CARRIERS
from seedvr2_ray.settings import RestoreSettings

_SEQUENCE = re.compile(r"%(?:0\d{1,2})?d")
"""``%d`` and ``%06d``. Other forms of printf's are parts of names: a %20 that a download left undecoded."""
_CHROMA_UPWARDS = {"410": "420", "411": "422", "440": "444"}
"""Rare samplings to the common one that loses nothing."""
_SD_MATRICES = frozenset({"smpte170m", "bt470bg", "fcc", "smpte240m"})
_HD_MIN_WIDTH, _HD_MIN_HEIGHT = 1280, 720
_MAX_KEYFRAME_SECONDS = 5
_HDR_CONTAINERS = frozenset({"mp4", "mov", "mkv", "webm"})
_X264_THREADS = 8
_X265_POOL, _X265_FRAME_THREADS = 8, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class MasterFormat:
    """Codec, container and pixel format of the output. Made by :func:`plan_master`, pure data.

    The lossless intermediates carry the same pixel format and colour, so that a frame is converted
    from RGB exactly once and finishing a segment costs no further rounding.
    """

    kind: Literal["video", "image", "image_sequence"]
    container: Literal["mp4", "mov", "mkv", "webm", "avi", "png", "tiff", "webp", "jpeg"]
    codec: str
    """FFmpeg's name of the encoder: ``libx264``, ``libx265``, ``libsvtav1``, ``prores_ks``, ``ffv1``, ``png`` ..."""
    pixel_format: str
    """Of frames and intermediates. Image encoders that want another order of the same samples get it."""
    options: tuple[tuple[str, str], ...]
    """Encoder options; the same for every segment, or the parts could not be joined by copying."""
    width: int
    height: int
    sample_aspect: Fraction
    frame_rate: Fraction
    time_base: Fraction
    colour: ColourTags
    """Of the encoded numbers: an SD source that becomes HD is converted to BT.709 and tagged so."""
    source_colour: ColourTags
    """Of the R'G'B' frames handed to the encoder: says which conversion is due."""
    hdr: StaticHdr = NO_HDR
    """Static metadata for the container to say; the encoder has it among its options."""

    @property
    def bit_depth(self) -> int:
        """Bits per sample of the encoded picture."""
        return max(component.bits for component in av.VideoFormat(self.pixel_format).components)

    @property
    def has_alpha(self) -> bool:
        """Whether the encoded picture carries transparency."""
        return len(av.VideoFormat(self.pixel_format).components) == 4

    @property
    def working_depth(self) -> Literal[8, 16]:
        """Bits of the RGB codes the encoder wants: 8 for an 8-bit master, else 16."""
        return 8 if self.bit_depth == 8 else 16


def plan_master(
    media: MediaInfo, settings: RestoreSettings, *, width: int, height: int, target: str
) -> tuple[MasterFormat, tuple[Notice, ...]]:
    """Choose the output's format, and say what of the source it cannot keep.

    Args:
        width, height: of the restored picture.
        target: where the output goes; its name says which container is meant.

    Raises:
        SettingsError: codec, container, depth, size or quality do not go together.
    """
    kind, container = _kind_and_container(media, settings, target)
    name = _codec_name(media.video, settings, container)
    facts = CODECS[name]
    alpha = media.video.has_alpha and facts.has_alpha
    chroma = _chroma(media.video, settings, facts, alpha=alpha)
    bits = _bit_depth(media.video, settings, name, chroma, alpha=alpha)
    _require_size(name, chroma, width, height)
    colour = _master_colour(media.video.colour, facts, container, chroma, width=width, height=height)
    hdr = media.video.hdr if container in _HDR_CONTAINERS else NO_HDR
    pixel_format = facts.formats[chroma, bits, alpha]
    slices = ffv1_slices(width, height, pixel_format)
    master = MasterFormat(
        kind=kind,
        container=container,  # type: ignore[arg-type]  # one of the values of SUFFIXES or of the setting
        codec=facts.encoder,
        pixel_format=pixel_format,
        options=_encoder_options(name, settings, media.video.frame_rate, hdr, slices=slices),
        width=width,
        height=height,
        sample_aspect=Fraction(1),
        frame_rate=_frame_rate(media, container) or media.video.frame_rate,
        time_base=media.video.time_base,
        colour=colour,
        source_colour=replace(media.video.colour, matrix="rgb", full_range=True),
        hdr=hdr,
    )
    notices = _notices(media.video, name, chroma, bits, colour, alpha=alpha)
    return master, (*notices, *_inside_the_pictures(media.video, master))


def is_sequence(target: str) -> bool:
    """Whether a target names a folder, or an image by a printf pattern, that is: one image per frame.

    Of a source that is one picture, even a pattern is its target's name; only the plan knows.
    """
    if target.endswith(("/", os.sep)):
        return True
    name = os.path.basename(target)
    is_image = SUFFIXES.get(os.path.splitext(name)[1].lower()) in IMAGE_CONTAINERS
    return is_image and _SEQUENCE.search(name) is not None


def sequence_name(target: str, container: str, index: int) -> str:
    """Return the file name of one image of a sequence: the pattern's, or ``frame_000001.png`` in a folder."""
    pattern = os.path.basename(target) or f"frame_%06d.{container}"
    *_, last = _SEQUENCE.finditer(pattern)
    return f"{pattern[: last.start()]}{last.group() % index}{pattern[last.end() :]}"


def _kind_and_container(
    media: MediaInfo, settings: RestoreSettings, target: str
) -> tuple[Literal["video", "image", "image_sequence"], str]:
    is_folder = target.endswith(("/", os.sep))
    sequence = is_folder or (is_sequence(target) and media.kind == "video")
    suffix = os.path.splitext(target)[1].lower()
    container = SUFFIXES.get(suffix, "")
    if is_folder:
        container = settings.codec if settings.codec in IMAGE_CONTAINERS else "png"
    if settings.container != "auto":
        container = settings.container
    if not container:
        known = " ".join(sorted(SUFFIXES))
        raise SettingsError(f"{target!r} does not end in a format this project writes; use one of {known}")
    if container not in IMAGE_CONTAINERS:
        if media.kind == "image":
            raise SettingsError(f"an image cannot be stored as {container}; name the target .png, .tiff, .webp or .jpg")
        if sequence:
            raise SettingsError(f"{target!r} asks for one file per frame, which needs an image format, not {container}")
        if container == "avi" and _frame_rate(media, container) is None:
            raise SettingsError(
                "avi stores no times and the source has a variable frame rate; choose .mkv, .mp4 or .mov"
            )
        return "video", container
    if sequence:
        return "image_sequence", container
    if media.video.num_frames > 1:
        stem = os.path.splitext(target)[0]
        raise SettingsError(
            f"{target!r} holds one picture and the source has {media.video.num_frames} frames; "
            f"use a pattern ({stem}_%06d{suffix}), a folder (frames/), or a video container"
        )
    return "image", container


def _frame_rate(media: MediaInfo, container: str) -> Fraction | None:
    """The rate to count frames at; nothing where AVI is asked for and the frames lie on no grid."""
    if container != "avi" or not media.video.is_variable_rate:
        return media.video.frame_rate
    return grid_rate(media.frame_pts, media.video.time_base)


def _codec_name(video: VideoInfo, settings: RestoreSettings, container: str) -> str:
    possible = codecs_for(container)
    if settings.codec != "auto":
        if settings.codec not in possible:
            homes = ", ".join(CODECS[settings.codec].containers)
            raise SettingsError(
                f"codec {settings.codec} cannot be stored in {container}; {container} holds {', '.join(possible)}, "
                f"and {settings.codec} goes into {homes}"
            )
        return settings.codec
    if container in ("mp4", "mov", "mkv"):
        return "h264" if _wanted_bits(video, settings) == 8 else "hevc"
    return possible[0]


def _wanted_bits(video: VideoInfo, settings: RestoreSettings) -> int:
    floor = 10 if video.colour.transfer in HDR_TRANSFERS else 8
    return settings.bit_depth or max(video.bit_depth, floor)


def _chroma(video: VideoInfo, settings: RestoreSettings, facts: CodecFacts, *, alpha: bool) -> str:
    available = facts.chromas(alpha=alpha)
    source = _CHROMA_UPWARDS.get(video.chroma, video.chroma)
    if len(available) == 1:
        return next(iter(available))
    if facts.encoder == "ffv1":
        return source if source in available else "444"
    return source if settings.codec != "auto" and source in ("422", "444") else "420"


def _bit_depth(video: VideoInfo, settings: RestoreSettings, name: str, chroma: str, *, alpha: bool) -> int:
    available = CODECS[name].depths(chroma, alpha=alpha)
    if settings.codec == "auto" and name == "hevc" and not settings.bit_depth:
        available = [10]  # What every HEVC player decodes; 12 bits are for those who ask for them.
    wanted = _wanted_bits(video, settings)
    if settings.bit_depth and settings.bit_depth not in available:
        able = [
            other for other, facts in CODECS.items() if settings.bit_depth in {bits for _, bits, _ in facts.formats}
        ]
        raise SettingsError(
            f"codec {name} has {_listed(available)} bits, not {settings.bit_depth}; "
            f"leave bit_depth at 0 or take a codec that can: {', '.join(able)}"
        )
    depth = next((bits for bits in available if bits >= wanted), available[-1])
    if depth < 10 and video.colour.transfer in HDR_TRANSFERS:
        raise SettingsError(f"HDR ({video.colour.transfer}) needs 10 bits or more and this {name} would have {depth}; "
                            "choose hevc, av1 or ffv1 for video, png or tiff for images, with bit_depth 0")  # fmt: skip
    return depth


def _require_size(name: str, chroma: str, width: int, height: int) -> None:
    if name == "ffv1" or chroma in ("444", "rgb", "grey"):
        return
    if width % 2 or (chroma == "420" and height % 2):
        raise SettingsError(
            f"{width}x{height} is an odd size, which 4:{chroma[1]}:{chroma[2]} {name} cannot have; "
            "choose a resolution with even sides, or codec ffv1 or prores4444"
        )


def _master_colour(
    source: ColourTags, facts: CodecFacts, container: str, chroma: str, *, width: int, height: int
) -> ColourTags:
    if chroma == "rgb":
        return replace(source, matrix="rgb", full_range=True)
    if chroma == "grey":
        # FFmpeg knows no limited range of grey.
        return replace(source, matrix=_usual_matrix(source), full_range=True)
    if container == "jpeg":
        # JFIF files say nothing of their matrix: every reader takes BT.601 in full range.
        return replace(source, matrix="smpte170m", full_range=True)
    full_range = source.full_range and source.matrix != "rgb" and facts.holds_full_range and container != "avi"
    is_hd = width >= _HD_MIN_WIDTH or height >= _HD_MIN_HEIGHT
    if source.matrix not in _SD_MATRICES or not is_hd:
        matrix = source.matrix if source.matrix in LUMA_WEIGHTS else _usual_matrix(source)
        return replace(source, matrix=matrix, full_range=full_range)
    # BT.601 and BT.709 share their transfer function, so the HD name is as true as the SD one.
    transfer = "bt709" if source.transfer == "smpte170m" else source.transfer
    return replace(source, matrix="bt709", transfer=transfer, full_range=full_range)


def _usual_matrix(source: ColourTags) -> str:
    return "bt2020nc" if source.primaries == "bt2020" else "bt709"


def _encoder_options(
    name: str, settings: RestoreSettings, frame_rate: Fraction, hdr: StaticHdr, *, slices: int
) -> tuple[tuple[str, str], ...]:
    """Everything that shapes the bytes, thread counts included: no default may depend on the machine."""
    crf = _quality(name, settings)
    preset = _preset(name, settings)
    keyframes = str(max(1, min(250, round(frame_rate * _MAX_KEYFRAME_SECONDS))))
    match name:
        case "h264":
            options = {"preset": preset, "crf": str(crf), "g": keyframes, "threads": str(_X264_THREADS)}
            # Without cpu-independent, x264's vector code for the macroblock tree rounds differently from
            # processor to processor, and with AVX-512 from run to run: guarded by test_encode.
            options |= {"x264-params": "cpu-independent=1:open-gop=0:sliced-threads=0"}
        case "hevc":
            threads = f"pools={_X265_POOL}:frame-threads={_X265_FRAME_THREADS}"
            options = {"preset": preset, "crf": str(crf), "g": keyframes}
            said = "" if hdr.is_empty else f":{x265_params(hdr)}"
            options |= {"x265-params": f"log-level=none:info=0:open-gop=0:{threads}{said}"}
        case "av1":
            options = {"preset": preset, "crf": str(crf), "g": keyframes}
            options |= {} if hdr.is_empty else {"svtav1-params": svt_av1_params(hdr)}
        case "prores" | "prores4444":
            options = {"profile": "4444" if name == "prores4444" else "hq", "vendor": "apl0"}
        case "ffv1":
            options = {"level": "3", "g": "1", "slices": str(slices), "slicecrc": "1"}
        case "tiff":
            options = {"compression_algo": "deflate"}
        case "webp":
            options = {"lossless": "1"} if crf is None else {"lossless": "0", "quality": str(100 - crf)}
        case "jpeg":
            options = {"qmin": str(crf), "qmax": str(crf)}
        case _:
            options = {}
    return tuple(sorted(options.items()))


def _quality(name: str, settings: RestoreSettings) -> int | None:
    facts = CODECS[name]
    if settings.crf == -1:
        return facts.crf
    if facts.max_crf == 0:
        raise SettingsError(f"codec {name} has no crf; leave it at -1")
    lowest = 1 if name == "jpeg" else 0
    if not lowest <= settings.crf <= facts.max_crf:
        raise SettingsError(f"crf of {name} must lie in {lowest}..{facts.max_crf}, got {settings.crf}")
    return settings.crf


def _preset(name: str, settings: RestoreSettings) -> str:
    facts = CODECS[name]
    if settings.preset == "auto":
        return facts.preset
    if not facts.presets:
        raise SettingsError(f"codec {name} has no presets; leave preset at auto")
    if settings.preset not in facts.presets:
        raise SettingsError(f"preset of {name} must be one of {', '.join(facts.presets)}; got {settings.preset!r}")
    return settings.preset


def _notices(video: VideoInfo, name: str, chroma: str, bits: int, colour: ColourTags, *, alpha: bool) -> list[Notice]:
    found: list[Notice] = []
    if video.has_alpha and not alpha:
        way_out = "choose codec prores4444 or ffv1 for video, png, tiff or webp for images"
        found.append(Notice("left_out", "alpha", f"{name} has no transparency; {way_out}"))
    if bits < video.bit_depth:
        found.append(
            Notice("converted", "bit depth", f"{video.bit_depth} bits become {bits}, the most {name} takes here")
        )
    if video.chroma in ("422", "444") and chroma == "420":
        reason = f"4:{video.chroma[1]}:{video.chroma[2]} becomes 4:2:0, which every player shows; "
        found.append(Notice("converted", "chroma", reason + "ask for a codec by name to keep it where the codec can"))
    if video.colour.matrix in _SD_MATRICES and colour.matrix == "bt709":
        reason = f"the {video.colour.matrix} matrix becomes bt709, which HD players expect, and is tagged so"
        found.append(Notice("converted", "colour matrix", reason))
    if video.colour.full_range and video.colour.matrix != "rgb" and not colour.full_range:
        found.append(
            Notice("converted", "colour range", f"full range becomes limited range, the only one in {name} here")
        )
    return found


def _inside_the_pictures(video: VideoInfo, master: MasterFormat) -> list[Notice]:
    found: list[Notice] = []
    if not video.hdr.is_empty and master.hdr.is_empty:
        reason = f"{master.container} has no place for mastering display and content light level; choose .mkv"
        found.append(Notice("left_out", "HDR10 metadata", reason))
    if video.has_captions and not has_a_way(master, video):
        reason = "captions hidden in the pictures, which nothing here can hold; choose .mkv, .mp4 or .mov"
        if video.timestamps != "pts":
            reason = "the source gives its pictures no times that captions could follow; store it as .mkv first"
        found.append(Notice("left_out", "closed captions", reason))
    elif video.has_captions and master.codec not in CARRIERS:
        reason = "EIA-608 text becomes a subtitle track; choose codec h264 or hevc to keep captions as they are"
        found.append(Notice("converted", "closed captions", reason))
    return found


def has_a_way(master: MasterFormat, video: VideoInfo) -> bool:
    """Whether captions of the source can come into a master: inside its pictures, or as a track of text."""
    by_frame = master.kind == "video" and video.timestamps == "pts"
    return by_frame and (master.codec in CARRIERS or master.container in TEXT_CODECS)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers[:-1]) + (" or " if len(numbers) > 1 else "") + str(numbers[-1])
