"""What SwiftVR needs of a device's memory, decided before anything is allocated.

One knob, and an exact one: how many latents go through the autoencoder at once. Its convolutions over whole frames
are what needs most; a chunk's tokens are few beside them.

Units: bytes, and padded output pixels of one frame.
"""

from dataclasses import dataclass

import torch

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.swiftvr.config import SPACE_STRIDE, TIME_STRIDE, SwiftVRConfig
from seedvr2_ray.models.swiftvr.execution import DEFAULT_EXECUTION
from seedvr2_ray.models.swiftvr.reae import ReAE
from seedvr2_ray.models.swiftvr.stream import SwiftVR
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer, parameter_dtype
from seedvr2_ray.models.swiftvr.windows import window_starts
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import MemoryCosts, StageBytes
from seedvr2_ray.restoration.planning.segment_plan import weight_bytes

SOURCE = "counted from the shapes of SwiftVR's activations; not measured on a GPU"
_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftVRFacts:
    """What a plan must know about the networks: numbers only."""

    config: SwiftVRConfig
    weight_bytes: int
    """Of both networks, folded; they stay on the device."""
    item_bytes: int
    """Of one number while computing: 2 for bfloat16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftVRMemory:
    """What was decided for one segment."""

    latents_at_once: int
    """That go through the autoencoder together, four frames each."""
    stages: StageBytes
    available_bytes: int


def describe_swiftvr(model: SwiftVR) -> SwiftVRFacts:
    """Collect what plans need to know about loaded networks."""
    return SwiftVRFacts(
        config=model.config,
        weight_bytes=weight_bytes(model.transformer) + weight_bytes(model.reae),
        item_bytes=model.reae.dtype.itemsize,
    )


def foresee_swiftvr(config: SwiftVRConfig, dtype: torch.dtype) -> SwiftVRFacts:
    """Say the same of networks that are not loaded: shapes without numbers."""
    with torch.device("meta"):
        transformer, reae = SwiftVRTransformer(config.transformer), ReAE(config.reae).to(dtype)
        for name, parameter in transformer.named_parameters():
            parameter.data = parameter.data.to(parameter_dtype(dtype, name))
        transformer.fold(torch.empty(config.transformer.prompt_tokens, config.transformer.text_dim))
    return describe_swiftvr(SwiftVR(config=config, transformer=transformer, reae=reae))


def padded_size(geometry: Geometry, config: SwiftVRConfig) -> tuple[int, int]:
    """Return height and width of the frames that the model sees."""
    multiple = config.multiple
    return -(-geometry.height // multiple) * multiple, -(-geometry.width // multiple) * multiple


def plan_swiftvr_memory(
    facts: SwiftVRFacts, costs: MemoryCosts, padded_height: int, padded_width: int, available_bytes: int
) -> SwiftVRMemory:
    """Choose the most latents at once that fit.

    Args:
        costs: of the device; its scratch space, its reserve and what a float32 picture takes.
        available_bytes: what is free on the device, plus what the networks' weights occupy on it already.

    Raises:
        CapacityError: nothing fits; names what is needed, what there is, and what would help.
    """
    usable = int(available_bytes * (1 - costs.reserve_share))
    longest = facts.config.clip_latents + 1
    for latents_at_once in range(longest, 0, -1):
        stages = predict_swiftvr(facts, costs, padded_height, padded_width, latents_at_once)
        if stages.peak <= usable:
            return SwiftVRMemory(latents_at_once=latents_at_once, stages=stages, available_bytes=available_bytes)
    raise CapacityError(
        f"{padded_width}x{padded_height} with SwiftVR needs {stages.peak / _GIB:.1f} GiB and {usable / _GIB:.1f} GiB "
        "can be used; choose a smaller resolution or a device with more memory"
    )


def predict_swiftvr(
    facts: SwiftVRFacts, costs: MemoryCosts, padded_height: int, padded_width: int, latents_at_once: int
) -> StageBytes:
    """Return what each stage will need at its peak."""
    pixels, item = padded_height * padded_width, facts.item_bytes
    frames = TIME_STRIDE * latents_at_once
    # What the stream remembers is there twice while the next memory is made beside it.
    past = 2 * _past_numbers(facts.config) * pixels * item
    held = facts.weight_bytes + past + costs.workspace_bytes
    encode, decode = (numbers * pixels * frames * item for numbers in _frame_numbers(facts.config))
    # Finished in float32, when what decoding held is gone.
    pictures = costs.frame_tensors * 3 * 4 * pixels * frames
    return StageBytes(
        encode=round(held + encode),
        transform=round(held + _token_bytes(facts, padded_height, padded_width)),
        decode=round(held + decode),
        finish=round(held + pictures),
    )


def _past_numbers(config: SwiftVRConfig) -> float:
    """What a stream remembers, per pixel: a frame in front of each of the three blocks at each of three levels."""
    encoder, (sixteenth, eighth, quarter, _) = config.reae.encoder_width, config.reae.decoder_widths
    levels = ((encoder + quarter) / 4**2, (encoder + eighth) / 8**2, (encoder + sixteenth) / 16**2)
    return 3 * sum(levels)


def _frame_numbers(config: SwiftVRConfig) -> tuple[float, float]:
    """Return what exists at once while encoding and while decoding, per pixel and frame."""
    reae, picture = config.reae, 3
    # Encoding: the picture and its squares, what the first layer makes of them at half the size, that once more in the
    # layout of the next convolution, and its result at half the rate.
    encode = 2 * picture + reae.encoder_width / 2**2 * 2.5
    # Decoding: frames at half the size before and after the last but one convolution.
    _, eighth, quarter, half = reae.decoder_widths
    last = picture + (quarter + half) / 2**2
    # Or, at a quarter of the size and half the rate, a block with its pairs of frames.
    encode_block, decode_block = (6 * width / 4**2 / 2 for width in (reae.encoder_width, quarter))
    return max(encode, encode_block), max(last, decode_block, eighth / 4**2)


def _token_bytes(facts: SwiftVRFacts, padded_height: int, padded_width: int) -> float:
    config = facts.config.transformer
    side = SPACE_STRIDE * config.patch
    frames = facts.config.clip_latents + 1 + facts.config.overlap
    height, width = padded_height // side, padded_width // side
    tokens = frames * height * width
    gathered = max(
        frames
        * rows
        * columns
        * len(window_starts(height, rows, shifted=odd))
        * len(window_starts(width, columns, shifted=odd))
        for rows, columns in [(min(config.window[0], height), min(config.window[1], width))]
        for odd in (False, True)
    )
    # The residual stream, its normalised copy, queries, keys and values, and of one of these three float32 numbers
    # before and after they are rotated; then queries, keys, values and results, window by window.
    attention = (5 * tokens + 4 * gathered) * config.width * facts.item_bytes + 2 * tokens * config.width * 4
    band = min(tokens, DEFAULT_EXECUTION.band_tokens)
    mlp = (tokens * config.width + band * 2 * (config.width + config.ffn_width)) * facts.item_bytes
    return max(attention, mlp)
