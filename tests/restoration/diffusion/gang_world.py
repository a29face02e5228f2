"""What the processes of a spawned gang do in ``test_gang_world.py``: many small cases in one start."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedvr2_ray.models.parallel import ALONE, SequenceParallel
from seedvr2_ray.models.seedvr2.config import WindowGrid
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.ranks.by_heads import HeadShares
from seedvr2_ray.models.seedvr2.transformer.ranks.by_windows import WindowShares
from seedvr2_ray.models.seedvr2.vae.config import FAST, FAST_ON_CPU, PLAIN, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares, split_rows
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from tests.models.seedvr2.conftest import tiny_config
from tests.restoration.diffusion.test_restorer import _clip, _restorer, _task

ROWS, COLUMNS, GROUPS = 11, 3, 2
"""Of latents, and of frames after the first: no number of ranks divides the rows."""
SMALL = VAEConfig(block_out_channels=(4, 8, 8), norm_groups=2, num_temporal_stages=1)
WAYS: dict[str, VAEOptions] = {
    "plain": PLAIN,
    "as on a CPU": FAST_ON_CPU,
    "as on a GPU": replace(FAST, conv_elements=3000, frames_in_flight=1),
}
SEGMENTS: dict[str, tuple[int, tuple[int, int], int, dict[str, Any]]] = {
    "still image": (1, (96, 24), 3, {}),
    "video": (7, (94, 30), 3, {"padding": "reflect_black"}),
    "alpha": (5, (96, 40), 4, {}),
}
CLIPS = {"video": (5, 14, 18), "still image": (1, 10, 6), "one token": (1, 2, 2)}


def run_cases(parallel: SequenceParallel = ALONE) -> dict[str, Tensor]:
    """Return the results of all cases, whole on rank 0; from one rank they are what others must give."""
    with torch.inference_mode():
        return {**_predictions(parallel), **_pictures(parallel), **_segments(parallel)}


def run_rank(rank: int, size: int, folder: str) -> None:
    """Be one process of the gang."""
    torch.set_num_threads(1)
    parallel = SequenceParallel.join(
        rank=rank, size=size, init_method=f"file://{folder}/meet", backend="gloo", timeout_seconds=120
    )
    results = run_cases(parallel)
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    parallel.agree(0)
    parallel.leave()


def _predictions(parallel: SequenceParallel) -> dict[str, Tensor]:
    results = {}
    for variant in ("3b", "7b"):
        torch.manual_seed(0)
        config = replace(tiny_config(variant), num_heads=24, head_dim=12, windows=WindowGrid(counts=(4, 16, 16)))
        network = SeedVR2Transformer(config).requires_grad_(False)
        for name, size in CLIPS.items():
            clip, text = torch.randn(*size, config.in_channels), torch.randn(7, config.text_dim)
            for shares in (WindowShares, HeadShares):
                execution = Execution(band_tokens=60)
                if parallel.size > 1:
                    execution = replace(execution, sharing=shares(parallel))
                results[f"{variant} {name} {shares.__name__}"] = network(clip, text, 700.0, execution=execution)
    return results


def _pictures(parallel: SequenceParallel) -> dict[str, Tensor]:
    torch.manual_seed(1)
    vae, results = VideoVAE(SMALL, FAST).requires_grad_(False), {}
    stride, heights = SMALL.spatial_stride, split_rows(ROWS, parallel.size)
    for num_groups in (0, GROUPS):
        frames = torch.rand(1, 3, 1 + num_groups * SMALL.temporal_stride, ROWS * stride, COLUMNS * stride) * 2 - 1
        latents = torch.randn(1, SMALL.latent_channels, 1 + num_groups, ROWS, COLUMNS)
        own_frames = frames.split([rows * stride for rows in heights], dim=3)[parallel.rank]
        own_latents = latents.split(heights, dim=3)[parallel.rank]
        for way, options in WAYS.items():
            shared = replace(options, rows=RowShares(parallel, heights)) if parallel.size > 1 else options
            moments = vae.encode_moments(own_frames, slice_frames=SMALL.temporal_stride, options=shared)
            decoded = vae.decode(own_latents, slice_latents=1, options=shared)
            pixel_rows = [rows * stride for rows in heights]
            results[f"encode {num_groups} {way}"] = torch.cat(parallel.all_gather(moments, heights, dim=3), dim=3)
            results[f"decode {num_groups} {way}"] = torch.cat(parallel.all_gather(decoded, pixel_rows, dim=3), dim=3)
    return results


def _segments(parallel: SequenceParallel) -> dict[str, Tensor]:
    results = {}
    for name, (num_frames, size, channels, settings) in SEGMENTS.items():
        task = _task(num_frames, size, (24, 12), depth=16, colour_match="none", **settings)
        batches = list(_restorer(parallel=parallel).restore(_clip(num_frames, (24, 12), channels=channels), task))
        if batches:
            results[f"segment {name}"] = torch.cat([batch.data_TCHW for batch in batches]).float() / 65535
    return results
