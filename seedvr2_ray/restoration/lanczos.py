"""The classical baseline: Lanczos resampling, honest and fast, that every network is compared with."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.frames import Frames, to_codes, to_unit_range
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.storage.address import digest_of

CODE_VERSION = 1
"""Raised when a change here changes pictures."""

_FAINTEST_ALPHA = 1 / 65535 / 4

LANCZOS = RestorerIdentity("lanczos", digest_of({"restorer": "lanczos", "version": CODE_VERSION}))


class LanczosRestorer:
    """Enlarges frames with a Lanczos-3 filter on the CPU; adds no detail and needs no weights.

    Opaque 8-bit frames that stay 8-bit go through torch's integer kernel, one frame per thread. Like
    Pillow it rounds between its two passes and is at most about one level off the exact result;
    everything else is computed in float32 and rounded once.
    """

    def __init__(self) -> None:
        _require_kernel()

    @property
    def identity(self) -> RestorerIdentity:
        """Who this is."""
        return LANCZOS

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        """Resize one segment as a stream, with a few frames in memory at a time.

        Args:
            frames: the segment's frames in order, in batches of any length.
            task: the size and depth wanted.

        Yields:
            The same frames one by one.
        """
        size_HW = (task.geometry.height, task.geometry.width)
        dtype = torch.uint8 if task.output_depth == 8 else torch.uint16
        num_threads = torch.get_num_threads()
        with ThreadPoolExecutor(num_threads, thread_name_prefix="lanczos") as pool:
            for batch in frames:
                # The integer kernel asserts that no picture is reduced to one pixel.
                is_integer = batch.data_TCHW.dtype == dtype == torch.uint8 and size_HW != (1, 1)
                is_integer = is_integer and _is_opaque(batch.data_TCHW)
                # Torch splits the work of the float kernel over its own threads, and of the integer one not.
                group = num_threads if is_integer else 1
                resize = _resize_uint8 if is_integer else _resize_float(dtype)
                for start in range(0, len(batch), group):
                    task.check_cancelled()
                    singles = torch.split(batch.data_TCHW[start : start + group], 1)
                    resized = pool.map(resize, singles, [size_HW] * len(singles))
                    for pts, frame_1CHW in zip(batch.pts[start : start + group], resized, strict=True):
                        yield Frames(frame_1CHW, (pts,), batch.time_base)


def _resize_uint8(frame_1CHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    # With channels last the kernel is twice as fast, and decoder and encoder hold frames so anyway.
    return _lanczos(frame_1CHW.contiguous(memory_format=torch.channels_last), size_HW)


def _resize_float(dtype: torch.dtype) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    def resize(frame_1CHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
        unit_1CHW = to_unit_range(frame_1CHW)
        if _is_opaque(frame_1CHW):
            return to_codes(_lanczos(unit_1CHW, size_HW), dtype)
        return to_codes(_resize_transparent(unit_1CHW, size_HW), dtype)

    return resize


def _resize_transparent(unit_14HW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Resize colour weighted by its alpha, so that the colour of invisible pixels does not bleed into edges."""
    colour, alpha = unit_14HW[:, :3], unit_14HW[:, 3:]
    weighted = _lanczos(torch.cat([colour * alpha, alpha], dim=1), size_HW)
    # Not clamped before the division: where alpha overshoots one, the weighted colour does as well.
    new_alpha = weighted[:, 3:]
    new_colour = torch.where(new_alpha > 0, weighted[:, :3] / new_alpha.clamp(min=_FAINTEST_ALPHA), 0.0)
    return torch.cat([new_colour, new_alpha], dim=1)


def _is_opaque(frames_TCHW: Tensor) -> bool:
    if frames_TCHW.shape[1] == 3:
        return True
    peak = torch.iinfo(frames_TCHW.dtype).max
    return bool((frames_TCHW[:, 3].to(torch.int32) == peak).all())


def _lanczos(frames_TCHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    if tuple(frames_TCHW.shape[2:]) == size_HW:
        return frames_TCHW
    return F.interpolate(frames_TCHW, size=size_HW, mode="lanczos", antialias=True)


def _require_kernel() -> None:
    try:
        _lanczos(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), (4, 4))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise DeploymentError(
            f"torch {torch.__version__} has no Lanczos filter; install torch 2.13 or newer, or choose another model"
        ) from error
