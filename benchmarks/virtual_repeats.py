"""What a virtual GPU has counted once is not run again: layers, steps and slices that are like earlier ones.

A transformer has a few dozen layers of two or three kinds, and a clip goes through the VAE in steps and slices of which
all but the first two are alike. What such a part asks for is known after the first one of its kind: how much
beside what was alive before, how many launches, what comes out. With that a table of all sizes takes minutes.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.virtual_device import StageTally, Tally
from seedvr2_ray.models.seedvr2.transformer.block import Block
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.layer_steps import TimeSlots
from seedvr2_ray.models.seedvr2.transformer.packing import PackingPlan
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import Exchange
from seedvr2_ray.models.seedvr2.vae import blocks, steps
from seedvr2_ray.models.seedvr2.vae.blocks import ResnetBlock
from seedvr2_ray.models.seedvr2.vae.config import VAEOptions
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.state import SlicePass, VAEState
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tensor without even a device."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "_Shape":
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def made_on(self, device: torch.device) -> Tensor:
        return torch.empty_strided(self.size, self.strides, dtype=self.dtype, device=device)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part of the work asked for."""

    tally: StageTally
    more_bytes: int
    """At its fullest, beside what was alive when it began."""
    made: tuple[_Shape, ...]
    places: int = 0
    """Layers of the VAE that it went through."""


class Repeats:
    """Parts that were counted, for any number of runs."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, _Part] = {}

    @contextmanager
    def reused(self, tally: Tally, scope: Hashable) -> Iterator[None]:
        """Look up parts instead of running them once more.

        Args:
            scope: the networks' configurations and type: parts of others are not mistaken for theirs.
        """
        counted = _Counted(tally, scope, self._parts)
        with ExitStack() as patches:
            for owner, name, like in (
                (Block, "forward", counted.layer),
                (SlicePass, "in_steps", counted.steps),
                (steps, "banded_step", counted.convolution),
                (blocks, "banded_step", counted.convolution),
                (VideoVAE, "encode_slice", counted.slices),
                (VideoVAE, "decode_slice", counted.slices),
            ):
                patches.enter_context(patch.object(owner, name, like(getattr(owner, name))))
            yield


class _Counted:
    """The parts of one run."""

    def __init__(self, tally: Tally, scope: Hashable, parts: dict[Hashable, _Part]) -> None:
        self._tally, self._parts = tally, parts
        self._transformer, self._vae = scope[0], scope[1:]  # type: ignore[index]
        self._dtype = self._vae[-1]

    def layer(self, forward: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
        """Wrap a transformer's layer."""

        def like_another(
            block: Block,
            video_LD: Tensor,
            text_LD: Tensor,
            time: TimeSlots | None,
            plan: PackingPlan,
            execution: Execution,
            exchange: Exchange,
        ) -> tuple[Tensor, Tensor]:
            bands = tuple((band.windows.batches, band.ranks and band.ranks.counts) for band in plan.bands)
            kind = (
                type(exchange),
                "vid" in block.ada,
                block.is_last,
                block.has_plain_text,
                time is None,
                execution.band_tokens,
            )
            shapes = (_Shape.of(video_LD), _Shape.of(text_LD))
            key = ("layer", self._transformer, self._dtype, kind, bands, shapes)
            part = self._parts.get(key)
            if part is None:
                with self._recorded(key, video_LD.untyped_storage()) as done:
                    out = done.made = forward(block, video_LD, text_LD, time, plan, execution, exchange)
                return out
            self._tally.repeat(part.tally, part.more_bytes)
            video, text = part.made
            return video.made_on(video_LD.device), text.made_on(text_LD.device)

        return like_another

    def steps(self, in_steps: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap what runs a few frames after another; names are given up early, as they are there."""

        def of_known_steps(
            run: SlicePass,
            x_BCTHW: Tensor,
            num_frames: int | None,
            stage: Callable[[Tensor], Tensor],
            *,
            num_out: int | None = None,
        ) -> Tensor:
            def like_another(piece_BCTHW: Tensor) -> Tensor:
                found = run.load()
                past = None if found is None else _Shape.of(found)
                state = (run.place, min(run.num_seen, 2), past, run._keep, run.place in run._writable)
                name = getattr(stage, "__qualname__", "")
                key = ("step", self._vae, name, _Shape.of(piece_BCTHW), state, run.options)
                part, handed = self._parts.get(key), [piece_BCTHW]
                del piece_BCTHW
                if part is None:
                    with self._recorded(key, handed[0].untyped_storage()) as done:
                        first = run.place
                        out_BCTHW = stage(handed.pop())
                        done.made, done.places = (out_BCTHW,), run.place - first
                    return out_BCTHW
                run.place += part.places
                self._tally.repeat(part.tally, part.more_bytes)
                return part.made[0].made_on(handed.pop().device)

            handed = [x_BCTHW]
            del x_BCTHW
            return in_steps(run, handed.pop(), num_frames, like_another, num_out=num_out)

        return of_known_steps

    def convolution(self, banded_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap norm, activation and convolution in bands, where memory of the past is there already or none is kept."""

        def like_another(
            conv: CausalConv3d,
            x_BCTHW: Tensor,
            run: SlicePass,
            norm: FrameNorm | None = None,
            *,
            fp32: bool = False,
            out: Tensor | None = None,
            residual: Callable[[slice], Tensor] | None = None,
        ) -> Tensor:
            remembers = bool(conv.num_remembered)
            found = run.load() if remembers else None
            given = (
                None if found is None else _Shape.of(found),
                run.place in run._writable,
                run._keep,
                None if out is None else (out is x_BCTHW, _Shape.of(out)),
                _what_is_added(residual),
            )
            layer = (tuple(conv.weight.shape), conv.padding, conv.stride, norm is None, fp32)
            key = ("convolution", self._vae, layer, given, _Shape.of(x_BCTHW), run.options)
            part = self._parts.get(key)
            if part is None:
                with self._recorded(key, x_BCTHW.untyped_storage()) as done:
                    made = banded_step(conv, x_BCTHW, run, norm, fp32=fp32, out=out, residual=residual)
                    done.made = () if made is out else (made,)
                return made
            run.place += remembers
            self._tally.repeat(part.tally, part.more_bytes)
            if not part.made:
                assert out is not None
                return out
            return part.made[0].made_on(x_BCTHW.device)

        return like_another

    def slices(self, run_slice: Callable[..., tuple[Tensor, VAEState]]) -> Callable[..., tuple[Tensor, VAEState]]:
        """Wrap encoding or decoding a slice; the first one leaves a state behind and is always run."""

        def like_another(
            vae: VideoVAE,
            x_BCTHW: Tensor,
            state: VAEState | None,
            *,
            overwrite: bool = False,
            options: VAEOptions | None = None,
        ) -> tuple[Tensor, VAEState]:
            if state is None or not overwrite:
                return run_slice(vae, x_BCTHW, state, overwrite=overwrite, options=options)
            key = ("slice", self._vae, run_slice.__name__, _Shape.of(x_BCTHW), min(state.num_seen, 2), options)
            part = self._parts.get(key)
            if part is None:
                with self._recorded(key, x_BCTHW.untyped_storage()) as done:
                    out, after = run_slice(vae, x_BCTHW, state, overwrite=True, options=options)
                    done.made = (out,)
                return out, after
            self._tally.repeat(part.tally, part.more_bytes)
            return part.made[0].made_on(x_BCTHW.device), replace(state, num_seen=state.num_seen + x_BCTHW.shape[2])

        return like_another

    @contextmanager
    def _recorded(self, key: Hashable, given: torch.UntypedStorage) -> Iterator["_Done"]:
        """Keep what is done meanwhile, unless more than its result stays behind or that lies where it was given."""
        done, before, place = _Done(), self._tally.live_bytes, given._cdata
        del given
        with self._tally.apart() as part:
            yield done
            grown = self._tally.live_bytes - before
        storages = [tensor.untyped_storage() for tensor in done.made]
        is_new = place not in [storage._cdata for storage in storages]
        if is_new and grown <= sum(storage.nbytes() for storage in storages):
            shapes = tuple(_Shape.of(tensor) for tensor in done.made)
            self._parts[key] = _Part(part, part.peak_bytes - before, shapes, done.places)


def _what_is_added(residual: Callable[[slice], Tensor] | None) -> Hashable:
    """Describe a residual without computing it: the block it belongs to, and that block's input."""
    cells = [] if residual is None else [cell.cell_contents for cell in residual.__closure__ or ()]
    block = [cell.has_shortcut for cell in cells if isinstance(cell, ResnetBlock)]
    return (*block, *(_Shape.of(cell) for cell in cells if isinstance(cell, Tensor)))


class _Done:
    """What a part made."""

    made: tuple[Any, ...] = ()
    places: int = 0
