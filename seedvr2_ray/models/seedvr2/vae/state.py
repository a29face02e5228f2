"""What a causal VAE remembers between the slices of a clip, as a value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.vae.config import VAEOptions
from seedvr2_ray.models.seedvr2.vae.layout import layout_of


@dataclass(frozen=True, slots=True)
class VAEState:
    """The last input frames of every causal convolution, in the order in which they run.

    It belongs to one network (encoder or decoder), one frame size and the options it was made
    with. The tensors are compact copies: keeping a state keeps nothing else alive.
    """

    caches: tuple[Tensor, ...]
    num_seen: int
    """Frames (encoder) or latents (decoder) since the clip began."""

    @property
    def num_bytes(self) -> int:
        return sum(cache.numel() * cache.element_size() for cache in self.caches)


class SlicePass:
    """One slice's walk through the layers: the caches it finds and those it leaves behind.

    The layers run in a fixed order, so a cache is known by its place in that order. Without
    ``keep`` nothing is saved: the slice is the whole clip.
    """

    def __init__(self, options: VAEOptions, state: VAEState | None, *, keep: bool, overwrite: bool) -> None:
        self.options = options
        self.num_seen = 0 if state is None else state.num_seen
        self.place = 0
        self._caches: dict[int, Tensor] = {} if state is None else dict(enumerate(state.caches))
        # Caches that this pass made may be written over; those of the caller only when allowed.
        self._writable = set(self._caches) if overwrite else set()
        self._keep = keep

    @classmethod
    def whole_clip(cls, options: VAEOptions) -> Self:
        """A pass over a clip that no other slice precedes or follows."""
        return cls(options, None, keep=False, overwrite=False)

    def load(self) -> Tensor | None:
        """The cache of the layer that asks, or None where the clip begins."""
        return self._caches.get(self.place)

    def store(self, frames_BCTHW: Tensor) -> None:
        """Save a compact copy for the layer that asks, and move on to the next layer."""
        if self._keep and self.place in self._writable:
            self._caches[self.place].copy_(frames_BCTHW)
        elif self._keep:
            self._caches[self.place] = frames_BCTHW.clone(memory_format=layout_of(frames_BCTHW))
            self._writable.add(self.place)
        self.place += 1

    def claim(self, like_BCTHW: Tensor, num_frames: int) -> Tensor | None:
        """Memory for the asking layer's cache, to be filled before the next layer runs; None if nothing is kept.

        It may be the old cache's own memory.
        """
        place, self.place = self.place, self.place + 1
        if not self._keep:
            return None
        if place not in self._writable:
            batch, channels, _, height, width = like_BCTHW.shape
            shape, layout = (batch, channels, num_frames, height, width), layout_of(like_BCTHW)
            self._caches[place] = torch.empty(
                shape, dtype=like_BCTHW.dtype, device=like_BCTHW.device, memory_format=layout
            )
            self._writable.add(place)
        return self._caches[place]

    def in_steps(self, x_BCTHW: Tensor, num_frames: int | None, stage: Callable[[Tensor], Tensor]) -> Tensor:
        """Run a stage that keeps the number of frames on a few frames after another, each step after the last."""
        if num_frames is None or x_BCTHW.shape[2] <= num_frames:
            return stage(x_BCTHW)
        start, keep, self._keep = self.place, self._keep, True
        pieces = []
        for first in range(0, x_BCTHW.shape[2], num_frames):
            self.place = start
            pieces.append(stage(x_BCTHW[:, :, first : first + num_frames]))
        self._keep = keep
        return torch.cat(pieces, dim=2)

    def finish(self, num_new: int) -> VAEState:
        """The state after this slice of ``num_new`` frames or latents."""
        return VAEState(tuple(self._caches[place] for place in sorted(self._caches)), self.num_seen + num_new)
