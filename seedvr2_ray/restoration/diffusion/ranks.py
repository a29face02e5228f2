"""One rank's part in restoring a segment: its share of pictures, and keeping in step with the other ranks.

Every rank runs the same stages on the same segment. Latents are small, so each of them holds all of them, draws
all noise and stitches all chunks. Pictures are large: before and after the VAE a rank has some whole frames, so that
scaling, colours and alpha are what one device does; in the VAE it has some rows of every frame. Finished frames are
gathered on rank 0, which yields them; the others yield nothing.

Shape letters: T frames or latents, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from seedvr2_ray.errors import NotFiniteError, SeedVR2Error, StoppedElsewhereError
from seedvr2_ray.models.parallel import ALONE, SequenceParallel
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares, split_rows
from seedvr2_ray.restoration.diffusion.padding import crop_frames
from seedvr2_ray.restoration.planning.padding import SpatialPadding

Item = TypeVar("Item")
PICTURES = "pictures/source"
DECODED = "pictures/decoded"
CODES = "pictures/codes"
LATENTS = "latents"


class PictureShare:
    """Which part of a segment's pictures is this rank's."""

    rows: RowShares | None
    """Of the VAE's frames; None where they are whole."""

    def __init__(
        self, parallel: SequenceParallel = ALONE, padding: SpatialPadding | None = None, spatial_stride: int = 1
    ) -> None:
        """Share pictures out.

        Args:
            padding: what is cut off again after decoding; None if that has been done.
            spatial_stride: rows of a frame per row of latents.

        Raises:
            SettingsError: the pictures have too few rows for so many ranks.
        """
        self._parallel = parallel
        self._padding = padding
        self._stride = spatial_stride
        self.rows = None
        if parallel.size > 1:
            assert padding is not None, "pictures that are spread out must be known"
            self.rows = RowShares(parallel, split_rows(padding.padded_height // spatial_stride, parallel.size))

    def frames(self, batch: Sequence[Item]) -> Sequence[Item]:
        """Of some frames, those that this rank has whole."""
        start, stop = self._frame_edges(len(batch), self._parallel.rank)
        return batch[start:stop]

    def to_rows(self, mine_TCHW: Tensor, num_frames: int) -> Tensor:
        """From this rank's whole frames to its rows of all of them."""
        if self.rows is None:
            return mine_TCHW
        heights = [rows * self._stride for rows in self.rows.latent_rows]
        shape = (*mine_TCHW.shape[1:2], heights[self._parallel.rank], *mine_TCHW.shape[3:])
        shapes = [(stop - start, *shape) for start, stop in self._all_frame_edges(num_frames)]
        pieces = [piece.contiguous() for piece in torch.split(mine_TCHW, heights, dim=2)]
        return torch.cat(self._parallel.all_to_all(pieces, shapes, PICTURES))

    def whole_frames(self, rows_TCHW: Tensor) -> Tensor:
        """From this rank's rows of all frames to the pictures it has whole, the fill around them cut off."""
        if self.rows is not None:
            edges = self._all_frame_edges(len(rows_TCHW))
            start, stop = edges[self._parallel.rank]
            heights = [rows * self._stride for rows in self.rows.latent_rows]
            shapes = [(stop - start, rows_TCHW.shape[1], height, rows_TCHW.shape[3]) for height in heights]
            pieces = [rows_TCHW[first:last].contiguous() for first, last in edges]
            rows_TCHW = torch.cat(self._parallel.all_to_all(pieces, shapes, DECODED), dim=2)
        return rows_TCHW if self._padding is None else crop_frames(rows_TCHW, self._padding)

    def rows_of(self, frames_TCHW: Tensor) -> Tensor:
        """Of whole frames that every rank has, this rank's rows."""
        return self._cut(frames_TCHW, dim=2, scale=self._stride)

    def latents(self, latents_THWC: Tensor) -> Tensor:
        """Of the latents that every rank has, this rank's rows."""
        return self._cut(latents_THWC, dim=1, scale=1)

    def whole_latents(self, mine_THWC: Tensor) -> Tensor:
        """Put every rank's rows of latents together, on all of them."""
        if self.rows is None:
            return mine_THWC
        return torch.cat(self._parallel.all_gather(mine_THWC, self.rows.latent_rows, dim=1, kind=LATENTS), dim=1)

    def collect(self, codes_TCHW: Tensor, num_frames: int) -> Tensor | None:
        """Put every rank's frames together on rank 0; None on the others."""
        rank, size = self._parallel.rank, self._parallel.size
        if size == 1:
            return codes_TCHW
        edges = self._all_frame_edges(num_frames) if rank == 0 else [(0, 0)] * size
        shapes = [(stop - start, *codes_TCHW.shape[1:]) for start, stop in edges]
        pieces = [codes_TCHW if other == 0 else codes_TCHW[:0] for other in range(size)]
        parts = self._parallel.all_to_all(pieces, shapes, CODES)
        if rank != 0:
            return None
        # Joined as bytes: not every device joins unsigned 16-bit integers.
        return torch.cat([part.view(torch.uint8) for part in parts]).view(codes_TCHW.dtype)

    def _cut(self, whole: Tensor, *, dim: int, scale: int) -> Tensor:
        if self.rows is None:
            return whole
        return torch.split(whole, [rows * scale for rows in self.rows.latent_rows], dim=dim)[self._parallel.rank]

    def _frame_edges(self, num_frames: int, rank: int) -> tuple[int, int]:
        size = self._parallel.size
        return num_frames * rank // size, num_frames * (rank + 1) // size

    def _all_frame_edges(self, num_frames: int) -> list[tuple[int, int]]:
        return [self._frame_edges(num_frames, rank) for rank in range(self._parallel.size)]


class InStep:
    """Ranks that end a segment together, however it ends.

    Before each step they tell each other whether to go on. So whoever is cancelled, whose source fails, or whose caller
    takes no more frames does not leave the others waiting, and all of them are ready for the next segment.

    Whatever goes wrong inside a step, as memory that runs out on one rank, finds the others in the middle of an
    exchange. Then the rank leaves its group, so that theirs fails: the gang has to be started again.
    """

    def __init__(self, parallel: SequenceParallel) -> None:
        self.parallel = parallel
        self._ended_together = False

    def least(self, number: int) -> int:
        """Return the least of what ranks give."""
        return min(self.parallel.agree(number))

    def check(self, check: Callable[[], None]) -> None:
        """Call something on every rank that raises to stop, and stop on all of them if it does on one.

        Raises:
            StoppedElsewhereError: it did on another one.
        """
        if self.parallel.size == 1:
            check()
            return
        error: Exception | None = None
        try:
            check()
        except Exception as stopped:  # noqa: BLE001  (raised again once the others know)
            error = stopped
        self._go_on_unless(error)

    def read(self, items: Iterable[Item]) -> Iterator[Item]:
        """Read what is the same on all ranks; a source that fails on one of them stops all."""
        if self.parallel.size == 1:
            yield from items
            return
        iterator, item = iter(items), None
        while True:
            error: Exception | None = None
            try:
                item = next(iterator, None)
            except Exception as failed:  # noqa: BLE001  (raised again once the others know)
                error = failed
            self._go_on_unless(error)
            if item is None:
                return
            yield item

    def through(self, stream: Iterator[Item]) -> Iterator[Item]:
        """Yield a segment's frames; what ends it here ends it everywhere."""
        if self.parallel.size == 1:
            yield from stream
            return
        self._ended_together = False
        try:
            yield from stream
            self._go_on_unless(None)
        except GeneratorExit:
            # The others are at the beginning of their next step, or at the end of the segment.
            self.parallel.agree(1)
            raise
        except BaseException as error:
            if not self._ended_together and not isinstance(error, NotFiniteError):
                self.parallel.leave()
            raise

    def same_everywhere(self, decide: Callable[[], Item]) -> Item:
        """Return what all ranks decide from the same numbers; if that is an error, all of them raise it."""
        try:
            return decide()
        except SeedVR2Error:
            self._ended_together = True
            raise

    def _go_on_unless(self, error: Exception | None) -> None:
        answers = self.parallel.agree(int(error is not None))
        if not any(answers):
            return
        self._ended_together = True
        if error is not None:
            raise error
        raise StoppedElsewhereError(
            f"rank {answers.index(1)} stopped this segment, so rank {self.parallel.rank} did; the gang can take another"
        )
