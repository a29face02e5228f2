"""What a causal VAE remembers between the slices of a clip, as a value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.vae.config import VAEOptions
from seedvr2_ray.models.seedvr2.vae.layout import empty_frames, layout_of


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

    def remember(self, new_BCTHW: Tensor, past_BCTHW: Tensor | None, num_frames: int) -> None:
        """Save the last frames of what the asking layer remembered and what is new, and move on to the next layer."""
        num_new = new_BCTHW.shape[2]
        if past_BCTHW is None or num_new >= num_frames:
            self.store(new_BCTHW[:, :, -num_frames:])
            return
        target = self.claim(new_BCTHW, num_frames)
        if target is None:
            return
        past = past_BCTHW.shape[2]
        for frame in range(num_frames - num_new):
            # From front to back: the past may lie in the same memory.
            target[:, :, frame] = past_BCTHW[:, :, past + num_new - num_frames + frame]
        target[:, :, -num_new:] = new_BCTHW

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

    def in_steps(
        self, x_BCTHW: Tensor, num_frames: int | None, stage: Callable[[Tensor], Tensor], *, num_out: int | None = None
    ) -> Tensor:
        """Run a stage on a few frames after another, each step after the last.

        Args:
            num_frames: frames per step; None takes all at once.
            stage: what is run.
            num_out: frames that all steps make together; as many as there are by default.
        """
        if num_frames is None or x_BCTHW.shape[2] <= num_frames:
            # Handed over: a name here would keep alive what the stage is done with.
            whole = [x_BCTHW]
            del x_BCTHW
            return stage(whole.pop())
        start, keep, seen, self._keep = self.place, self._keep, self.num_seen, True
        out_BCTHW: Tensor | None = None
        done = 0
        for first in range(0, x_BCTHW.shape[2], num_frames):
            # What matters to a layer is whether it has seen no frame, one, or more.
            self.place, self.num_seen = start, seen + first
            piece_BCTHW = stage(x_BCTHW[:, :, first : first + num_frames])
            if out_BCTHW is None:
                out_BCTHW = empty_frames(piece_BCTHW, frames=num_out or x_BCTHW.shape[2])
            out_BCTHW[:, :, done : done + piece_BCTHW.shape[2]] = piece_BCTHW
            done += piece_BCTHW.shape[2]
            del piece_BCTHW
        self._keep, self.num_seen = keep, seen
        assert out_BCTHW is not None
        return out_BCTHW

    def finish(self, num_new: int) -> VAEState:
        """The state after this slice of ``num_new`` frames or latents."""
        return VAEState(tuple(self._caches[place] for place in sorted(self._caches)), self.num_seen + num_new)
