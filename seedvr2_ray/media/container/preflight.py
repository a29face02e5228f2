"""What will be kept, converted, left out or refused of a source, said before anything is spent."""

from collections.abc import Iterator

from seedvr2_ray.media.container.index import FrameIndex
from seedvr2_ray.media.container.picture_data import PictureData
from seedvr2_ray.media.container.samples import Samples
from seedvr2_ray.media.info import Notice, VideoInfo
from seedvr2_ray.media.picture.colour import HDR_TRANSFERS, LUMA_WEIGHTS
from seedvr2_ray.media.picture.pixel_formats import is_floating_point

_LOST_WITH_THE_CODEC = {
    "SPHERICAL": ("spherical video", "the projection; without it players show the flat picture"),
    "STEREO3D": ("3D layout", "how two views share a picture; players must be told by hand"),
    "ICC_PROFILE": ("colour profile", "the embedded ICC profile; the numbers are restored as they are"),
}
"""What lives inside the coded pictures and has no place in a new encode."""

_DYNAMIC_HDR = {
    "HDR10+": "scene-by-scene tone mapping",
    "HDR Vivid": "scene-by-scene tone mapping",
    "Dolby Vision": "the enhancement data; the base layer is restored",
}


def preflight(
    video: VideoInfo,
    samples: Samples,
    index: FrameIndex,
    *,
    is_image: bool,
    further_videos: tuple[tuple[int, str], ...],
) -> tuple[Notice, ...]:
    """List what is out of the ordinary; the plan adds what depends on the target.

    Args:
        is_image: stills never say more about colour than their format implies.
        further_videos: indices of video streams besides the one that is restored, and why each is not.
    """
    return (
        *_fields(video, samples),
        *_geometry(video, samples),
        *_colour(video, samples, is_image=is_image),
        *_timing(video),
        *_damage(index),
        *_left_out(samples, further_videos),
        *_inside_the_pictures(video, index.picture_data),
    )


def _fields(video: VideoInfo, samples: Samples) -> Iterator[Notice]:
    unflagged = f"; no flag says so, the pictures do, {video.first_field} field first" if video.first_field else ""
    if video.field_order == "telecined":
        yield Notice(
            "refused",
            "telecine",
            f"film was spread over interlaced frames (3:2 pulldown){unflagged}; undo that with an inverse telecine "
            "filter first, or pass --deinterlace bwdif to blend it",
        )
    elif video.field_order == "interlaced":
        yield Notice(
            "refused",
            "interlacing",
            f"every frame holds two moments{unflagged}; pass --deinterlace bwdif to merge them, "
            "or --deinterlace off to restore the frames as they are",
        )
    if samples.num_combed_places:
        yield Notice(
            "kept",
            "interlacing",
            f"at {samples.num_combed_places} of the places looked at, frames hold two moments, most others do not; "
            "cut those parts out and restore them with --deinterlace bwdif if combs show",
        )
    if samples.is_soft_telecined:
        yield Notice("kept", "telecine flags", "the film's own progressive frames are restored, each with its own time")


def _geometry(video: VideoInfo, samples: Samples) -> Iterator[Notice]:
    if video.rotation or video.mirrored:
        turn = f"turned {video.rotation} degrees clockwise" if video.rotation else ""
        flip = "mirrored" if video.mirrored else ""
        how = " and ".join(part for part in (flip, turn) if part)
        yield Notice(
            "converted", "rotation", f"the stored picture is {how} to {video.width}x{video.height}, as it is meant"
        )
    if samples.is_askew:
        yield Notice(
            "left_out", "rotation", "the picture is meant to be turned by an odd angle; only quarter turns are"
        )
    if video.sample_aspect != 1:
        aspect = f"{video.sample_aspect.numerator}:{video.sample_aspect.denominator}"
        yield Notice("converted", "pixel aspect", f"pixels are {aspect}; the output has square ones of the same shape")
    if video.has_alpha:
        yield Notice("kept", "alpha", "transparency is enlarged along with the picture where the target can hold it")


def _colour(video: VideoInfo, samples: Samples, *, is_image: bool) -> Iterator[Notice]:
    colour = video.colour
    if video.chroma not in ("rgb", "grey") and colour.matrix not in LUMA_WEIGHTS:
        yield Notice(
            "refused", "colour matrix", f"{colour.matrix} cannot be decoded to R'G'B' here; convert it to BT.709 first"
        )
    if colour.transfer in HDR_TRANSFERS:
        name = "PQ" if colour.transfer == "smpte2084" else "HLG"
        yield Notice("kept", "HDR", f"{name} codes are restored as they are and tagged so")
    if video.guessed_colour and video.chroma != "rgb" and not is_image:
        yield Notice(
            "kept",
            "colour",
            f"not fully tagged; taken for primaries {colour.primaries}, transfer {colour.transfer}, "
            f"matrix {colour.matrix}, as players do",
        )
    if is_floating_point(samples.pixel_format):
        yield Notice("converted", "bit depth", "floating point becomes 16 bits; values beyond black and white are cut")
    elif video.bit_depth > 8:
        yield Notice("kept", "bit depth", f"{video.bit_depth} bits are decoded as 16 and stay more than 8")


def _timing(video: VideoInfo) -> Iterator[Notice]:
    if video.clock:
        times = "once" if len(video.clock) == 1 else f"{len(video.clock)} times"
        yield Notice(
            "converted",
            "clock",
            f"the file's clock starts anew or leaps {times}, as where recordings were joined; "
            "the output's goes on, for pictures, sound and text alike",
        )
    if video.last_ticks:
        seconds = float(video.last_ticks * video.time_base)
        yield Notice("kept", "last frame", f"it is shown for {seconds:.3f} s, as in the source")
    if video.is_variable_rate:
        yield Notice(
            "kept",
            "variable frame rate",
            f"every frame keeps its time; {float(video.frame_rate):.3f} per second on average",
        )


def _damage(index: FrameIndex) -> Iterator[Notice]:
    num_suspect = sum(stop - start for start, stop in index.suspect)
    num_lost = sum(stop - start for start, stop in index.lost) - num_suspect
    if num_suspect:
        yield Notice(
            "kept",
            "suspect frames",
            f"{num_suspect} of {len(index.pts)} are not what was written ({index.witness}); they are restored as the "
            "decoder gives them",
        )
    elif index.witness:
        yield Notice(
            "kept", "damage between pictures", f"sound, subtitles or times are not what was written ({index.witness})"
        )
    if num_lost:
        yield Notice(
            "converted", "damaged frames", f"{num_lost} of {len(index.pts)} cannot be read; their neighbours stand in"
        )
    if index.missing_bytes:
        yield Notice("left_out", "end of the file", f"the last {index.missing_bytes} bytes are missing")
    if index.num_undecodable_at_start:
        yield Notice(
            "left_out",
            "first frames",
            f"{index.num_undecodable_at_start} before the first key frame cannot be decoded: "
            "what they were predicted from is not in the file",
        )


def _left_out(samples: Samples, further_videos: tuple[tuple[int, str], ...]) -> Iterator[Notice]:
    for name, (subject, reason) in _LOST_WITH_THE_CODEC.items():
        if name in samples.side_data:
            yield Notice("left_out", subject, reason)
    if samples.has_second_view:
        yield Notice(
            "left_out",
            "second view",
            "the stream holds further pictures beside its own, for the other eye (3D) or for transparency; "
            "only its own are restored",
        )
    if samples.crop:
        sides = ", ".join(f"{pixels} pixels at the {side}" for side, pixels in samples.crop)
        reason = f"the file wants {sides} cut off by players; the whole picture is restored, crop the result by as much"
        yield Notice("left_out", "crop", reason)
    for index, reason in further_videos:
        yield Notice("left_out", f"video stream {index}", reason)


def _inside_the_pictures(video: VideoInfo, found: PictureData) -> Iterator[Notice]:
    if not video.hdr.is_empty:
        reason = "mastering display and content light level are written anew where the target can hold them"
        yield Notice("kept", "HDR10 metadata", reason)
    if video.has_captions:
        reason = f"found in {found.num_captioned} pictures; each keeps its own where the target's codec can carry them"
        yield Notice("kept", "closed captions", reason)
    for name in sorted(found.dynamic_hdr):
        yield Notice("left_out", name, f"{_DYNAMIC_HDR[name]}: it describes the source's pictures shot by shot")
    for form in sorted(found.other_captions):
        reason = "captions hidden in the pictures, in a form that new pictures cannot carry"
        yield Notice("left_out", f"{form} captions", reason)
