"""How far a restoration went from its source: figures that are cheap enough to be taken from every segment.

There is no truth to compare with, so the source stands in for it: the restored frame is reduced to
the source's size, and the two are compared. High figures say that nothing was lost, moved or tinted.
They do not say that the result is better: noise that was removed lowers them, and a plain
enlargement scores highest of all. Use them to find the segment that differs from its neighbours.

Shape letters: T frames, C channels, H height, W width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.frames import Frames, FrameSpan, to_unit_range
from seedvr2_ray.restoration.report.joins import step_between

BEST_PSNR = 100.0
"""Decibels reported for frames that do not differ at all."""

_SSIM_RADIUS = 5
_SSIM_SIGMA = 1.5
_SSIM_K1, _SSIM_K2 = 0.01, 0.03
_SSIM_CROP = 512
_COLOUR_CELLS = 16
_FRAMES_PER_SAMPLE = 48
_MOST_SAMPLES = 4
_LUMA = (0.2126, 0.7152, 0.0722)


def psnr(reference_TCHW: Tensor, candidate_TCHW: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each frame in decibels; infinite where nothing differs.

    Args:
        reference_TCHW: float, in 0..1.
        candidate_TCHW: likewise, of the same shape.
    """
    _require_same_shape(reference_TCHW, candidate_TCHW)
    return -10.0 * torch.log10((reference_TCHW - candidate_TCHW).square().mean(dim=(1, 2, 3)))


def ssim(reference_TCHW: Tensor, candidate_TCHW: Tensor) -> Tensor:
    """Return the structural similarity of each frame, the mean over its channels; 1 is identical.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), with
    its Gaussian window of 11 x 11 and sigma 1.5, where the window fits wholly inside. Pictures
    smaller than the window get the largest odd one that fits.

    Args:
        reference_TCHW: float, in 0..1.
        candidate_TCHW: likewise, of the same shape.
    """
    _require_same_shape(reference_TCHW, candidate_TCHW)
    x, y = reference_TCHW, candidate_TCHW
    num_frames, num_channels = x.shape[:2]
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = moments.split_with_sizes([num_channels] * 5, dim=1)
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return similarity.reshape(num_frames, -1).mean(dim=1)


def low_frequency_colour_error(source_TCHW: Tensor, restored_TCHW: Tensor) -> Tensor:
    """Return how far the colours of large areas moved, for each frame, in codes of 8 bits.

    Both are averaged over a grid of 16 cells along the shorter side, so that neither detail nor
    noise counts; the sizes may differ.

    Args:
        source_TCHW: float, in 0..1.
        restored_TCHW: likewise, as many frames and channels.
    """
    height, width = source_TCHW.shape[2:]
    short = min(height, width)
    cells = min(_COLOUR_CELLS, short)
    grid = (max(1, height * cells // short), max(1, width * cells // short))
    difference = F.adaptive_avg_pool2d(source_TCHW, grid) - F.adaptive_avg_pool2d(restored_TCHW, grid)
    return difference.abs().mean(dim=(1, 2, 3)) * 255.0


def boundary_step(source_TCHW: Tensor, restored_TCHW: Tensor, join: int) -> float:
    """Say how visible a join is: what the restoration adds to the change from one frame to the next there.

    The change across the join less the mean change around it, in the result less in the source.
    Motion and cuts are in both and cancel.

    Args:
        source_TCHW: consecutive frames around the join, float, in 0..1.
        restored_TCHW: the same frames restored; their size may differ.
        join: position of the first frame after the join.

    Returns:
        Codes of 8 bits; 0 when the join cannot be told from its surroundings.
    """
    num_frames = len(source_TCHW)
    if len(restored_TCHW) != num_frames or num_frames < 3 or not 1 <= join < num_frames:
        raise ValueError(f"a join at {join} needs 3 frames or more of both, got {num_frames} and {len(restored_TCHW)}")
    return _step_at(restored_TCHW, join) - _step_at(source_TCHW, join)


def luma_of_rgb(frames_TCHW: Tensor) -> Tensor:
    """Return the luma T x 1 x H x W of R'G'B' frames, by BT.709's weights."""
    weights = torch.tensor(_LUMA, dtype=frames_TCHW.dtype, device=frames_TCHW.device)
    return torch.einsum("tchw,c->thw", frames_TCHW, weights)[:, None]


@dataclass(frozen=True, slots=True)
class SegmentQuality:
    """Means over the frames that were compared; see the top of this file for what they tell."""

    num_frames: int
    psnr: float
    """Decibels over R'G'B', at most :data:`BEST_PSNR`."""
    ssim: float
    """Of the luma, in the middle 512 x 512 pixels at most."""
    colour_error: float
    """Codes of 8 bits; see :func:`low_frequency_colour_error`."""


def measure_segment(source: Frames, restored: Frames) -> SegmentQuality:
    """Compare some frames of a segment with their restorations.

    Args:
        source: as decoded.
        restored: of the same timestamps, of any size and depth. They are compared at the smaller of both
            sizes; transparent pixels count as black.
    """
    if source.pts != restored.pts:
        raise ValueError(f"the frames to compare are not the same: {source.pts[:4]}... and {restored.pts[:4]}...")
    size_HW = _common_size(source.data_TCHW, restored.data_TCHW)
    totals = torch.zeros(3)
    for index in range(len(source)):
        one_1CHW = _flatten(to_unit_range(_reduce(source.data_TCHW[index : index + 1], size_HW)))
        other_1CHW = _flatten(to_unit_range(_reduce(restored.data_TCHW[index : index + 1], size_HW)))
        similarity = ssim(_luma_of_centre(one_1CHW), _luma_of_centre(other_1CHW))
        closeness = psnr(one_1CHW, other_1CHW).clamp(max=BEST_PSNR)
        totals += torch.cat([closeness, similarity, low_frequency_colour_error(one_1CHW, other_1CHW)]).cpu()
    mean_psnr, mean_ssim, colour_error = (totals / len(source)).tolist()
    return SegmentQuality(len(source), mean_psnr, mean_ssim, colour_error)


class QualitySampler:
    """Watches a segment's frames go in and come out, and keeps a few pairs to compare.

    Which frames depends on the segment alone. The pictures kept are of the source's size. The two
    watching methods may be called from different threads.
    """

    def __init__(self, span: FrameSpan) -> None:
        """Choose the frames: one in 48, four at most, and one at least, evenly spread."""
        num = max(1, min(_MOST_SAMPLES, len(span) // _FRAMES_PER_SAMPLE))
        self._wanted = frozenset(span.pts[(2 * index + 1) * len(span) // (2 * num)] for index in range(num))
        self._source: dict[int, Frames] = {}
        self._restored: dict[int, Frames] = {}

    def watch_source(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        """Pass the decoded frames on and keep copies of the chosen ones."""
        for batch in frames:
            for single in self._chosen(batch):
                self._source[single.pts[0]] = Frames(single.data_TCHW.clone(), single.pts, single.time_base)
            yield batch

    def watch_restored(self, frames: Frames) -> None:
        """Keep the chosen ones of these restored frames, reduced to the source's size."""
        for single in self._chosen(frames):
            source = self._source.get(single.pts[0])
            if source is not None:
                reduced = _reduce(single.data_TCHW, _common_size(source.data_TCHW, single.data_TCHW))
                kept = reduced.clone() if reduced is single.data_TCHW else reduced
                self._restored[single.pts[0]] = Frames(kept, single.pts, single.time_base)

    def measure(self) -> dict[str, float]:
        """Return :class:`SegmentQuality` as plain values, rounded; empty when no chosen frame came out."""
        pairs = [(self._source[pts], self._restored[pts]) for pts in sorted(self._restored)]
        if not pairs:
            return {}
        measured = [measure_segment(source, restored) for source, restored in pairs]
        names = [name for name in asdict(measured[0]) if name != "num_frames"]
        means = {name: sum(getattr(each, name) for each in measured) / len(measured) for name in names}
        return {"num_frames": len(measured), **{name: round(value, 4) for name, value in means.items()}}

    def _chosen(self, frames: Frames) -> Iterator[Frames]:
        for index, pts in enumerate(frames.pts):
            if pts in self._wanted:
                yield Frames(frames.data_TCHW[index : index + 1], (pts,), frames.time_base)


def _common_size(one_TCHW: Tensor, other_TCHW: Tensor) -> tuple[int, int]:
    return (min(one_TCHW.shape[2], other_TCHW.shape[2]), min(one_TCHW.shape[3], other_TCHW.shape[3]))


def _reduce(frames_TCHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Scale codes down with a bicubic kernel that widens; uint16 comes back as uint16."""
    if tuple(frames_TCHW.shape[2:]) == size_HW:
        return frames_TCHW
    # PyTorch's kernel for bytes takes a picture of one pixel for one of another memory format and asserts.
    if frames_TCHW.dtype == torch.uint8 and size_HW != (1, 1):
        return F.interpolate(frames_TCHW, size=size_HW, mode="bicubic", antialias=True)
    reduced = F.interpolate(frames_TCHW.to(torch.float32), size=size_HW, mode="bicubic", antialias=True)
    peak = 255 if frames_TCHW.dtype == torch.uint8 else 65535
    return reduced.round_().clamp_(0, peak).to(torch.int32).to(frames_TCHW.dtype)


def _flatten(frames_TCHW: Tensor) -> Tensor:
    """Put transparent frames on black."""
    return frames_TCHW if frames_TCHW.shape[1] == 3 else frames_TCHW[:, :3] * frames_TCHW[:, 3:]


def _luma_of_centre(frames_TCHW: Tensor) -> Tensor:
    height, width = frames_TCHW.shape[2:]
    top, left = max(0, height - _SSIM_CROP) // 2, max(0, width - _SSIM_CROP) // 2
    centre = frames_TCHW[:, :, top : top + _SSIM_CROP, left : left + _SSIM_CROP]
    return luma_of_rgb(centre)


def _blur(frames_TCHW: Tensor) -> Tensor:
    num_channels, height, width = frames_TCHW.shape[1:]
    radius = min(_SSIM_RADIUS, (min(height, width) - 1) // 2)
    if radius == 0:
        return frames_TCHW
    offsets = torch.arange(-radius, radius + 1, dtype=frames_TCHW.dtype, device=frames_TCHW.device)
    weights = torch.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    kernel = (weights / weights.sum()).expand(num_channels, 1, -1)
    # Channels last is several times faster for one small kernel per channel.
    columns = F.conv2d(
        frames_TCHW.contiguous(memory_format=torch.channels_last),
        kernel[..., :, None].contiguous(),
        groups=num_channels,
    )
    return F.conv2d(columns, kernel[..., None, :].contiguous(), groups=num_channels)


def _step_at(frames_TCHW: Tensor, join: int) -> float:
    changes: list[float] = (frames_TCHW[1:] - frames_TCHW[:-1]).abs().mean(dim=(1, 2, 3)).mul(255.0).tolist()
    return step_between(changes, join)


def _require_same_shape(one_TCHW: Tensor, other_TCHW: Tensor) -> None:
    if one_TCHW.shape != other_TCHW.shape:
        raise ValueError(
            f"frames to compare must be of one shape, got {tuple(one_TCHW.shape)}, {tuple(other_TCHW.shape)}"
        )
