"""The tiny checkpoint in the released layout, and the numbers the published code computed with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from seedvr2_ray.models.swiftvr.config import ReAEConfig, SwiftVRConfig, TransformerConfig
from seedvr2_ray.models.swiftvr.reae import ReAE
from seedvr2_ray.models.swiftvr.stream import SwiftVR
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer
from seedvr2_ray.models.weights.catalogue import CATALOGUE, Component, ModelEntry
from seedvr2_ray.models.weights.checkpoint import build_from_checkpoint, read_embedding

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "swiftvr"
CHECKPOINT = GOLDEN / "checkpoint"
CASES: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())

CONFIG = SwiftVRConfig(
    transformer=TransformerConfig(
        num_layers=4,
        num_heads=2,
        head_dim=20,
        ffn_width=96,
        text_dim=24,
        prompt_tokens=7,
        time_channels=16,
        latent_channels=8,
        window=(2, 2),
    ),
    reae=ReAEConfig(latent_channels=8, encoder_width=8, decoder_widths=(16, 12, 10, 8)),
    clip_frames=8,
)


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def load_transformer(
    window: tuple[int, int] = (2, 2), *, dtype: torch.dtype = torch.float32, folded: bool = True
) -> SwiftVRTransformer:
    config = replace(CONFIG.transformer, window=window)
    transformer = build_from_checkpoint(
        lambda: SwiftVRTransformer(config),
        CHECKPOINT / "transformer" / "diffusion_pytorch_model.safetensors",
        device=torch.device("cpu"),
        dtype_of=lambda name: dtype,
    )
    if folded:
        transformer.fold(load_prompt())
    return transformer


def load_prompt() -> Tensor:
    return read_embedding(CHECKPOINT / "prompt_embedding.safetensors", "prompt_emb", CONFIG.transformer.text_dim)


def load_reae() -> ReAE:
    return build_from_checkpoint(
        lambda: ReAE(CONFIG.reae),
        CHECKPOINT / "reae.safetensors",
        device=torch.device("cpu"),
        dtype_of=lambda name: torch.float32,
    )


def load_model(*, window: tuple[int, int] = (2, 2), clip_frames: int = 8, overlap: int = 0) -> SwiftVR:
    return SwiftVR(
        config=replace(
            CONFIG,
            transformer=replace(CONFIG.transformer, window=window),
            clip_frames=clip_frames,
            overlap=overlap,
        ),
        transformer=load_transformer(window),
        reae=load_reae(),
    )


def tiny_entry() -> ModelEntry:
    """The released entry of the catalogue with the tiny networks, and so without what is published of the files."""
    released = CATALOGUE["swiftvr"]
    components = tuple(
        Component(
            role=part.role,
            files=tuple(replace(file, sha256=None, size_bytes=None) for file in part.files),
        )
        for part in released.components
    )
    return replace(released, networks=CONFIG, components=components)
