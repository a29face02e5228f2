"""Frames in memory: read from a file, restored, and compared.

Shape letters: T frames, C channels, H height, W width.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from seedvr2_ray.api.files import FileName
from seedvr2_ray.api.report import open_report
from seedvr2_ray.errors import InputError, SettingsError
from seedvr2_ray.frames import Frames, FrameSpan
from seedvr2_ray.html import render_grid, render_picture
from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.gang.choice import settle_gang
from seedvr2_ray.restoration.load import LoadOptions, load_restorer
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS, parse_resolution, plan_geometry
from seedvr2_ray.restoration.report.comparison import ComparisonPicture, compare_frames, side_by_side
from seedvr2_ray.restoration.report.quality import measure_segment
from seedvr2_ray.restoration.report.versions import VersionsPage, render_versions
from seedvr2_ray.restoration.restorer import SegmentTask, close_restorer
from seedvr2_ray.restoration.run import Progress
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import publish_bytes, require_source

_DECODED_AT_ONCE = 8
_FIGURES = ("frame", "PSNR", "SSIM")
FIGURES_HINT = (
    "They say that nothing was lost, moved or tinted; a plain enlargement scores highest, so they do not say which is "
    "better. For that, look."
)
"""Beside every table of PSNR and SSIM."""


def read_frames(source: FileName, start: int = 0, stop: int | None = None) -> Frames:
    """Decode frames ``start`` to ``stop - 1`` of a video, or an image, into memory.

    Args:
        start: number of the first frame, from 0.
        stop: number of the first frame that is not wanted; by default, all that follow.

    Returns:
        R'G'B' of T x 3 x H x W, or with alpha T x 4 x H x W: uint8, or uint16 spread over 0..65535 where the source
        has more than 8 bits; turned upright, pixels as stored. A 1080p frame of 8 bits takes 6 MB.

    Raises:
        MediaError: the file cannot be read.
        InputError: it has no such frames.
    """
    require_source(str(source))
    media = probe(str(source))
    end = media.video.num_frames if stop is None else stop
    if not 0 <= start < end <= media.video.num_frames:
        raise InputError(f"{source} has frames 0 to {media.video.num_frames - 1}; {start} to {end - 1} are not in it")
    return _decoded(media, start, end)


def restore_frames(
    frames: Frames,
    settings: RestoreSettings | None = None,
    *,
    first_frame: int = 0,
    options: LoadOptions | None = None,
    progress: Progress | None = None,
) -> Frames:
    """Restore frames in memory; see :func:`seedvr2_ray.restore`, which is this where its source is frames."""
    chosen = settings or RestoreSettings()
    if chosen.reference:
        raise SettingsError("reference follows the published script from a file to a file; name a source and a target")
    height, width = frames.data_TCHW.shape[-2:]
    geometry = plan_geometry(
        width,
        height,
        Fraction(1),
        parse_resolution(chosen.resolution),
        even=len(frames) > 1,
        max_pixels=DEFAULT_MAX_PIXELS,
    )
    task = SegmentTask(
        first_frame=first_frame,
        num_frames=len(frames),
        geometry=geometry,
        settings=chosen,
        output_depth=8 if frames.data_TCHW.dtype == torch.uint8 else 16,
    )
    if progress is not None:
        progress.stage("load")
    options = settle_gang(chosen, options or LoadOptions(), task)
    restorer = load_restorer(chosen, options)
    if progress is not None:
        progress.stage("restore")
    restored: list[Frames] = []
    try:
        for batch in restorer.restore(_in_batches(frames), task):
            restored.append(batch)
            if progress is not None:
                progress.restored(len(batch))
    finally:
        close_restorer(restorer)
    return _joined(restored)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedFrame:
    """One frame before and after."""

    number: int
    picture: ComparisonPicture = field(repr=False)
    psnr: float
    """Decibels between the source and the result scaled down to its size. A plain enlargement scores highest:
    the figure says that nothing was lost, not that the result is better."""
    ssim: float
    """Likewise; 1 is identical."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two versions of some frames; in a notebook, a slider over each."""

    frames: tuple[ComparedFrame, ...]
    width: int = 640
    """Of the page, in CSS pixels."""
    names: tuple[str, str] = ("before", "after")
    """Of the two versions."""

    @property
    def figures(self) -> tuple[tuple[str, str, str], ...]:
        """Return a row per frame for people: its number in the first version, PSNR and SSIM."""
        return tuple((str(each.number), f"{each.psnr:.2f}", f"{each.ssim:.4f}") for each in self.frames)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page of one file, with the report's slider.

        Raises:
            TargetError: it may not be written there.
        """
        page = VersionsPage(
            title=" and ".join(name.rstrip("/").rpartition("/")[2] for name in self.names),
            kicker="Comparison",
            lead=f"A: {self.names[0]} · B: {self.names[1]}",
            heading="A and B over each other",
            pictures=[each.picture for each in self.frames],
            before="A",
            after="B",
            even=False,
            columns=_FIGURES,
            rows=self.figures,
            hint="Between the first and the second, scaled down to the first's size. " + FIGURES_HINT,
        )
        publish_bytes(render_versions(page).encode(), os.fspath(path), overwrite=True)

    def _repr_html_(self) -> str:
        shown = "".join(_slider(each.picture, self.width) for each in self.frames)
        return f"<div>{shown}{render_grid(_FIGURES, self.figures)}</div>"


def compare(
    before: FileName | Frames, after: FileName | Frames, frames: Sequence[int] | None = None, *, width: int = 640
) -> Comparison:
    """Show two versions of a video or image over each other, with figures.

    Args:
        before: a file, or frames in memory.
        after: another version of the same frames; its size may differ. Of an excerpt and the whole or its source, those
            frames are compared that are shown at the same time: the provenance beside an excerpt says where it begins.
        frames: which, by their numbers in ``before``; by default the middle one of those that both have.
        width: of the pictures on the page, in CSS pixels.

    Raises:
        MediaError: a file cannot be read.
        InputError: the two have different numbers of frames, or there is no such frame.
    """
    one, other = Version(before), Version(after)
    common = one.shared_with(other)
    wanted = frames or [common[len(common) // 2]]
    return Comparison(
        frames=tuple(_compared(one, other, number) for number in wanted), width=width, names=(one.name, other.name)
    )


def spread_frames(before: FileName | Frames, after: FileName | Frames, count: int) -> list[int]:
    """Return numbers of so many frames that two versions share, spread over them evenly; fewer where there are fewer.

    Raises:
        InputError: they share none.
    """
    common = Version(before).shared_with(Version(after))
    places = {len(common) * (2 * index + 1) // (2 * count) for index in range(count)}
    return [common[place] for place in sorted(places)]


def contact_sheet(before: Frames, after: Frames, number: int = 0) -> bytes:
    """Return a PNG file with one frame before and after, side by side and labelled.

    Args:
        before: T x 3|4 x H x W; shown at the size of ``after``, enlarged bicubically.
        after: the same frames, restored.
        number: which of them, from 0.

    Raises:
        InputError: one of them has no such frame.
    """
    return side_by_side(*(Version(frames)[number].data_TCHW[0] for frames in (before, after)))


class Version:
    """Gives single frames of a file, or of what is in memory, and knows when they are shown."""

    def __init__(self, source: FileName | Frames) -> None:
        """Probe a file; nothing is decoded yet."""
        self._frames = source if isinstance(source, Frames) else None
        self._media = None if isinstance(source, Frames) else probe(str(source))
        self.name = "frames in memory" if isinstance(source, Frames) else printable(str(source))
        self._begins = None if isinstance(source, Frames) else _excerpt_start(str(source))

    def __len__(self) -> int:
        return len(self._frames) if self._frames is not None else self._info.video.num_frames

    @property
    def _info(self) -> MediaInfo:
        assert self._media is not None
        return self._media

    def __getitem__(self, number: int) -> Frames:
        if not 0 <= number < len(self):
            raise InputError(f"there are frames 0 to {len(self) - 1}, and no frame {number}")
        if self._frames is None:
            return _decoded(self._info, number, number + 1)
        frames = self._frames
        return Frames(frames.data_TCHW[number : number + 1], frames.pts[number : number + 1], frames.time_base)

    def shared_with(self, other: "Version") -> Sequence[int]:
        """Return the numbers of the frames that another version has too.

        Raises:
            InputError: there are none, or they are no versions of one video.
        """
        if len(self) == len(other) and self._begins == other._begins:
            return range(len(self))
        if (self._begins is None and other._begins is None) or self._media is None or other._media is None:
            raise InputError(
                f"the first has {len(self)} frames and the second {len(other)}; compare versions of one video"
            )
        found = [number for number in range(len(self)) if self.counterpart(other, number) is not None]
        if not found:
            raise InputError("the two are excerpts that share no frame; compare one with the whole or its source")
        return found

    def counterpart(self, other: "Version", number: int) -> int | None:
        """Return the number in another version of the frame that is shown at the same time."""
        if self._begins == other._begins:
            return number if number < len(other) else None
        time = self._time(number)
        base = other._info.video.time_base
        place = bisect_left(other._info.frame_pts, other._info.frame_pts[0] + (time - (other._begins or 0)) / base)
        near = [each for each in (place - 1, place) if 0 <= each < len(other)]
        nearest = min(near, key=lambda each: abs(other._time(each) - time))
        return nearest if abs(other._time(nearest) - time) < 1 / (2 * other._info.video.frame_rate) else None

    def _time(self, number: int) -> Fraction:
        """Seconds after the first frame of the video of which this is all or an excerpt."""
        pts = self._info.frame_pts
        return (pts[number] - pts[0]) * self._info.video.time_base + (self._begins or 0)


def _excerpt_start(source: str) -> Fraction | None:
    """Return where an excerpt begins, by the provenance beside it; None of what is no excerpt."""
    try:
        excerpt = open_report(source).provenance.get("excerpt")
    except InputError:
        return None  # A source, or a file that somebody else made.
    return Fraction(str(excerpt["start_seconds"])) if excerpt else None


def _compared(one: Version, other: Version, number: int) -> ComparedFrame:
    before, counterpart = one[number], one.counterpart(other, number)
    if counterpart is None:
        raise InputError(f"frame {number} of the first is not in the second, which is an excerpt of other frames")
    after = other[counterpart]
    # Containers count time in ticks of their own; which frame is which is known by number here.
    quality = measure_segment(before, Frames(after.data_TCHW, before.pts, before.time_base))
    return ComparedFrame(
        number=number,
        picture=compare_frames(before.data_TCHW[0], after.data_TCHW[0], f"frame {number}"),
        psnr=quality.psnr,
        ssim=quality.ssim,
    )


def _slider(picture: ComparisonPicture, width: int) -> str:
    """Lay one picture over the other, cut off where a range input says; needs no library and no kernel."""
    below = render_picture(picture.after, "image/jpeg", f"{picture.caption}, after", width=width)
    above = render_picture(picture.before, "image/jpeg", f"{picture.caption}, before", width=width)
    move = "this.parentElement.querySelector('.before').style.clipPath='inset(0 '+(100-this.value)+'% 0 0)'"
    return (
        f"<div style='position:relative;width:{width}px;max-width:100%'>{below}"
        f"<div class='before' style='position:absolute;inset:0;clip-path:inset(0 50% 0 0)'>{above}</div>"
        f"<input type='range' value='50' style='width:100%' aria-label='how much of before is shown' "
        f'oninput="{move}"></div>'
    )


def _decoded(media: MediaInfo, start: int, stop: int) -> Frames:
    span = FrameSpan(start, tuple(media.frame_pts[start:stop]))
    return _joined(list(decode_span(media.path, media.video, span, batch_frames=_DECODED_AT_ONCE)))


def _in_batches(frames: Frames) -> Iterator[Frames]:
    for start in range(0, len(frames), _DECODED_AT_ONCE):
        stop = start + _DECODED_AT_ONCE
        yield Frames(frames.data_TCHW[start:stop], frames.pts[start:stop], frames.time_base)


def _joined(batches: Sequence[Frames]) -> Frames:
    pts = tuple(each for batch in batches for each in batch.pts)
    return Frames(torch.cat([batch.data_TCHW for batch in batches]), pts, batches[0].time_base)
