"""After a run: the report page with figures from the records and pictures from the files themselves."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from torch import Tensor

import seedvr2_ray
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.info import MediaInfo, VideoInfo
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.report.comparison import ComparisonPicture, compare_frames
from seedvr2_ray.restoration.report.page import ReportData, SegmentFigures, write_report
from seedvr2_ray.restoration.work.assemble import Assembly
from seedvr2_ray.storage.faults import printable

MAX_PICTURES = 4


def write_run_report(
    url: str, plan: Plan, assembly: Assembly, *, source_path: str, elapsed_seconds: float, restored_frames: int
) -> None:
    """Publish the page that shows what a run did.

    Args:
        url: where the page goes.
        source_path: where the source's bytes lie on this machine.
        elapsed_seconds: how long the run took.
        restored_frames: frames that this run restored itself.
    """
    media, recipe = plan.media, plan.recipe
    data = ReportData(
        source=printable(recipe.source),
        target=printable(assembly.target),
        kind=media.kind,
        model=recipe.restorer.name,
        source_size=(media.video.width, media.video.height),
        target_size=(recipe.geometry.width, recipe.geometry.height),
        source_codec=media.video.codec,
        target_codec=recipe.master.codec,
        num_frames=media.video.num_frames,
        duration_seconds=float(media.duration_seconds),
        frame_rate=_rate(media),
        elapsed_seconds=elapsed_seconds,
        restored_frames=restored_frames,
        segments=tuple(_figures(record, plan) for record in assembly.provenance["segments"]),
        notices=assembly.notices,
        version=seedvr2_ray.__version__,
        provenance=assembly.provenance,
    )
    write_report(url, data, list(_pictures(plan, assembly, source_path)))


def _figures(record: Mapping[str, Any], plan: Plan) -> SegmentFigures:
    segment = plan.segments[record["segment"]]
    restored = record["restored"]
    quality = restored.get("quality") or {}
    return SegmentFigures(
        index=segment.index,
        shot=segment.shot,
        first_frame=segment.span.start - plan.first_frame,
        num_frames=segment.num_frames,
        seconds=restored["seconds"],
        psnr=quality.get("psnr"),
        ssim=quality.get("ssim"),
        colour_error=quality.get("colour_error"),
        boundary_step=record.get("boundary_step"),
        num_missing=len(restored["missing_frames"]),
    )


def _pictures(plan: Plan, assembly: Assembly, source_path: str) -> Iterator[ComparisonPicture]:
    master = probe(assembly.local_paths[0])
    middles = [s.span.start + (s.encoded.start + s.encoded.stop) // 2 for s in plan.segments if s.has_part]
    for number in _spread([middle - plan.first_frame for middle in middles], MAX_PICTURES):
        yield _picture(plan, assembly, master, number, source_path)


def picture_of(plan: Plan, assembly: Assembly, *, source_path: str) -> ComparisonPicture:
    """Return the frame in the middle of a video before and after."""
    master = probe(assembly.local_paths[0])
    return _picture(plan, assembly, master, plan.media.video.num_frames // 2, source_path)


def _picture(plan: Plan, assembly: Assembly, master: MediaInfo, number: int, source_path: str) -> ComparisonPicture:
    pts, in_source = plan.media.frame_pts, plan.first_frame + number
    before = read_frame(source_path, plan.recipe.video, in_source, pts[number], plan.recipe.settings.deinterlace)
    if plan.recipe.master.kind == "image_sequence":
        path = assembly.local_paths[number]
        image = probe(path)
        after = read_frame(path, image.video, 0, image.frame_pts[0])
    else:
        after = read_frame(assembly.local_paths[0], master.video, number, master.frame_pts[number])
    from_start = Fraction(0) if plan.excerpt is None else plan.excerpt.start_seconds
    seconds = float((pts[number] - pts[0]) * plan.media.video.time_base + from_start)
    caption = f"frame {in_source}, {seconds:.2f} s" if plan.media.video.num_frames > 1 else ""
    return compare_frames(before, after, caption)


def read_frame(
    path: str, video: VideoInfo, number: int, pts: int, deinterlace: Literal["refuse", "bwdif", "off"] = "off"
) -> Tensor:
    """Decode one frame of a local file; C, H, W."""
    (batch,) = decode_span(path, video, FrameSpan(number, (pts,)), deinterlace=deinterlace, salvage=True)
    return batch.data_TCHW[0]


def _spread(numbers: Sequence[int], limit: int) -> list[int]:
    if len(numbers) <= limit:
        return list(numbers)
    return [numbers[round(index * (len(numbers) - 1) / (limit - 1))] for index in range(limit)]


def _rate(media: MediaInfo) -> str:
    rate = f"{float(media.video.frame_rate):.3f}".rstrip("0").rstrip(".")
    return f"about {rate} (variable)" if media.video.is_variable_rate else rate
