"""A stream through the three parts: encode, take the velocity off, decode. What it remembers is a value.

The transformer remembers nothing: what it needs of the past are the degraded latents of the chunk before. So the
chunks of one stream may be transformed anywhere and in any order, as soon as they are encoded.

Shapes: T frames or latents, C channels, H and W pixels or latent pixels, L prompt tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.models.swiftvr.config import NUM_LEADING_FRAMES, SwiftVRConfig
from seedvr2_ray.models.swiftvr.execution import DEFAULT_EXECUTION, Execution
from seedvr2_ray.models.swiftvr.reae import Memories, ReAE
from seedvr2_ray.models.swiftvr.schedule import Chunk
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftVR:
    """The loaded networks, folded."""

    config: SwiftVRConfig
    transformer: SwiftVRTransformer
    reae: ReAE


@dataclass(frozen=True, slots=True)
class EncoderState:
    """What a stream remembers on its way in."""

    memories: Memories | None = None
    recent_TCHW: Tensor | None = None
    """The latest degraded latents, as many as a middle chunk has at most."""


def prepare_frames(frames_TCHW: Tensor, height: int, width: int, multiple: int) -> Tensor:
    """Scale frames as the published pipeline does: bilinear, without a kernel that widens; then fill up in black.

    Args:
        frames_TCHW: in 0..1.
        multiple: both padded sides become multiples of it; filled below and to the right.
    """
    if frames_TCHW.shape[-2:] != (height, width):
        frames_TCHW = F.interpolate(frames_TCHW, size=(height, width), mode="bilinear", align_corners=False)
    return F.pad(frames_TCHW, (0, -width % multiple, 0, -height % multiple))


def encode_chunk(model: SwiftVR, pieces: Iterable[Tensor], state: EncoderState) -> tuple[Tensor, EncoderState]:
    """Encode the next chunk of a stream.

    Args:
        pieces: its frames from :func:`prepare_frames`, T x C x H x W. In how many pieces of whole groups of 4 they
            come bounds memory and changes nothing else.

    Returns:
        Degraded latents T x C x H x W, and what the next chunk needs.
    """
    memories, encoded = state.memories, []
    for piece_TCHW in pieces:
        latents_TCHW, memories = model.reae.encode(piece_TCHW.to(model.reae.dtype), memories)
        encoded.append(latents_TCHW)
    degraded_TCHW = torch.cat(encoded)
    seen_TCHW = degraded_TCHW if state.recent_TCHW is None else torch.cat([state.recent_TCHW, degraded_TCHW])
    # A copy, so that a view of a few latents does not keep all of them alive.
    recent_TCHW = seen_TCHW[-model.config.clip_latents :].clone()
    return degraded_TCHW, EncoderState(memories, recent_TCHW)


def front_of(chunk: Chunk, before: EncoderState, config: SwiftVRConfig) -> int:
    """Return how many earlier latents the transformer sees in front of a chunk of the published schedule."""
    if chunk.kind == "last":
        return chunk.front_latents
    return 0 if before.recent_TCHW is None else config.overlap


def restore_latents(
    model: SwiftVR,
    degraded_TCHW: Tensor,
    recent_TCHW: Tensor | None,
    *,
    front: int,
    execution: Execution = DEFAULT_EXECUTION,
) -> Tensor:
    """Take the predicted velocity off a chunk's degraded latents: the whole flow in one step.

    Args:
        degraded_TCHW: of the chunk.
        recent_TCHW: degraded latents before the chunk; None at the start of a stream.
        front: how many latents the transformer sees in front of the chunk. At the start of a stream, where there
            are none, it sees zeros.

    Returns:
        The restored latents of the chunk alone.
    """
    seen_TCHW = degraded_TCHW
    if front and recent_TCHW is None:
        seen_TCHW = torch.cat([degraded_TCHW.new_zeros(front, *degraded_TCHW.shape[1:]), degraded_TCHW])
    elif front and recent_TCHW is not None:
        if len(recent_TCHW) < front:
            raise ValueError(f"{front} latents are wanted in front of the chunk and {len(recent_TCHW)} are known")
        seen_TCHW = torch.cat([recent_TCHW[-front:], degraded_TCHW])
    velocity_BCTHW: Tensor = model.transformer(seen_TCHW.transpose(0, 1)[None], execution)
    return degraded_TCHW - velocity_BCTHW[0].transpose(0, 1)[front:]


def decode_latents(model: SwiftVR, restored_TCHW: Tensor, memories: Memories | None) -> tuple[Tensor, Memories]:
    """Decode the next latents of a stream; a chunk may come in pieces, which bounds memory and changes nothing else.

    Args:
        memories: what the previous call returned; None at the start of a stream, whose first three frames stand
            for nothing and are left out.

    Returns:
        Padded frames T x 3 x H x W in about 0..1, not clamped, and what the next latents need.
    """
    frames_TCHW, after = model.reae.decode(restored_TCHW, memories)
    return frames_TCHW[NUM_LEADING_FRAMES:] if memories is None else frames_TCHW, after
