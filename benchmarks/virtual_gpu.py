"""The released models at full size on a GPU that is not there: memory, arithmetic and traffic, stage by stage.

    python -m benchmarks.virtual_gpu --models 3b,7b --resolutions 1280x720,3840x2160 --rungs 1,9

The real restorer runs on tensors without data (:mod:`benchmarks.virtual_device`), so this takes seconds and any machine
with torch. Peaks are exact up to what kernels need for scratch; times are **predicted** from public rates
(:mod:`seedvr2_ray.restoration.planning.gpus`): of every launch the longer of arithmetic and traffic. Rows are kept in
``benchmarks/results/virtual_gpu.json``.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch

from benchmarks.machine import describe_machine, results_folder
from benchmarks.virtual_device import MOST_ELEMENTS, StageTally, Tally, counting, virtual_device
from benchmarks.virtual_ranks import VirtualRank, sharing_planned
from benchmarks.virtual_repeats import Repeats
from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.packing import plan_packing
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.vae.config import FAST
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.weights.catalogue import CATALOGUE, ModelEntry
from seedvr2_ray.restoration.diffusion import placement
from seedvr2_ray.restoration.diffusion import restorer as diffusion
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.diffusion.stages import DiffusionModel
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.gpus import known_gpus
from seedvr2_ray.restoration.planning.memory import LADDER, ExactKnobs
from seedvr2_ray.restoration.planning.segment_plan import SegmentPlan
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings

STAGES = ("encode", "transform", "decode", "finish")
TEXT_TOKENS = 58
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualRun:
    """One segment, restored without data."""

    plan: SegmentPlan
    weight_bytes: int
    stages: dict[str, StageTally]


def price(flops: float, num_bytes: int, is_fp32: bool) -> dict[str, float]:
    """Return the shortest time of one launch on every GPU."""
    return {name: rates.seconds(flops, num_bytes, is_fp32=is_fp32) for name, rates in known_gpus().items()}


def build(entry: ModelEntry, dtype: torch.dtype = torch.bfloat16) -> DiffusionModel:
    """Return networks on the virtual device; inside :func:`~benchmarks.virtual_device.counting` only."""
    config = entry.seedvr2
    device = virtual_device()
    with torch.device("meta"):
        transformer, vae = SeedVR2Transformer(config.transformer), VideoVAE(config.vae, FAST)
    for network in (transformer, vae):
        state = {
            name: torch.empty(tensor.shape, device=device, dtype=parameter_dtype(dtype, name))
            for name, tensor in network.state_dict().items()
        }
        network.load_state_dict(state, assign=True)
    text_dim = config.transformer.text_dim
    return DiffusionModel(
        transformer=transformer.requires_grad_(False).eval(),
        vae=vae.requires_grad_(False).eval(),
        positive_LC=torch.empty(TEXT_TOKENS, text_dim, device=device),
        negative_LC=torch.empty(TEXT_TOKENS, text_dim, device=device),
        anchor_rows=config.anchor_rows,
    )


def describe_task(
    size: tuple[int, int], num_frames: int, settings: RestoreSettings | None = None, depth: Literal[8, 16] = 8
) -> SegmentTask:
    """Return a segment of a source at half the size."""
    width, height = size
    return SegmentTask(
        first_frame=0,
        num_frames=num_frames,
        geometry=Geometry(source_width=width // 2, source_height=height // 2, width=width, height=height),
        settings=settings or RestoreSettings(),
        output_depth=depth,
    )


def run(
    entry: ModelEntry,
    task: SegmentTask,
    knobs: ExactKnobs,
    *,
    channels: int = 3,
    free_bytes: int = 2**60,
    dtype: torch.dtype = torch.bfloat16,
    repeats: Repeats | None = None,
    rank: tuple[int, int] = (0, 1),
) -> VirtualRun:
    """Restore one segment with given knobs.

    Args:
        rank: which one of how many GPUs that restore it together is counted.
        repeats: what was counted before and need not be run again; None runs everything.
        channels: 4 for a source with alpha.
        free_bytes: what the restorer is told is free; nothing ever runs out.
    """
    plan_packing.cache_clear()
    try:
        with (
            counting(price) as tally,
            _forced(knobs, free_bytes),
            patch.object(placement, "_exchange", tally.move),
            sharing_planned(),
            repeats.reused(tally, (entry.seedvr2, rank, dtype)) if repeats else nullcontext(),
        ):
            model = build(entry, dtype)
            weight_bytes = tally.live_bytes
            restorer = _restorer(model, tally, VirtualRank(*rank))
            plan = restorer.plan(task)
            count = sum(len(frames) for frames in restorer.restore(_source(task, channels), task))
            assert count == (task.known_frames if rank[0] == 0 else 0)
    finally:
        plan_packing.cache_clear()
    return VirtualRun(plan=plan, weight_bytes=weight_bytes, stages=dict(tally.stages))


class _forced:
    """Let a restorer see one rung and so much free memory."""

    def __init__(self, knobs: ExactKnobs, free_bytes: int) -> None:
        self._patches = (
            patch("seedvr2_ray.restoration.planning.memory.LADDER", (knobs,)),
            patch.object(diffusion, "free_bytes", lambda device: free_bytes),
        )

    def __enter__(self) -> None:
        for one in self._patches:
            one.start()

    def __exit__(self, *_: object) -> None:
        for one in self._patches:
            one.stop()


def _restorer(model: DiffusionModel, tally: Tally, rank: SequenceParallel) -> DiffusionRestorer:
    return DiffusionRestorer(
        model,
        RestorerIdentity("virtual", ""),
        device=virtual_device(),
        draw=lambda seed, numbers, size: torch.empty(len(numbers), *size),
        watch=tally.watch,
        parallel=rank,
    )


def _source(task: SegmentTask, channels: int) -> Iterator[Frames]:
    size = (1, channels, task.geometry.source_height, task.geometry.source_width)
    for number in range(task.known_frames):
        yield Frames(torch.empty(size, dtype=torch.uint8), (number,), Fraction(1, 25))


def figures(ran: VirtualRun) -> dict[str, Any]:
    """Return what is kept of a run."""
    predicted = ran.plan.memory.stages
    stages = {}
    for stage in STAGES:
        tally = ran.stages.get(stage, StageTally())
        stages[stage] = {
            "peak_bytes": tally.peak_bytes,
            "planned_bytes": getattr(predicted, stage),
            "peak_at": tally.peak_at,
            "tflop": round(sum(tally.flops.values()) / 1e12, 2),
            "gigabytes": round(sum(tally.bytes_by_operation.values()) / 1e9, 1),
            "gigabytes_by_operation": {k: round(v / 1e9, 1) for k, v in tally.bytes_by_operation.most_common(8)},
            "launches": sum(tally.launches.values()),
            "to_device_megabytes": _megabytes(tally.to_device),
            "to_host_megabytes": _megabytes(tally.to_host),
            "syncs": dict(tally.syncs),
            "mixed": dict(tally.mixed),
            "layouts": dict(tally.layouts),
            "largest_convolution": tally.largest_convolution,
            "predicted_seconds": {gpu: round(seconds, 3) for gpu, seconds in tally.seconds.items()},
        }
    return {
        "padded": [ran.plan.padding.padded_width, ran.plan.padding.padded_height],
        "weight_bytes": ran.weight_bytes,
        "stages": stages,
    }


def _megabytes(moved: Counter[str]) -> dict[str, float]:
    return {place: round(count / 1e6, 3) for place, count in moved.items()}


def main() -> None:
    """Run every combination that was asked for, print a table, keep the figures."""
    arguments = _parse()
    path = arguments.into or results_folder() / "virtual_gpu.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    repeats = Repeats()
    asked = product(
        arguments.resolutions.split(","),
        map(int, arguments.rungs.split(",")),
        arguments.models.split(","),
        map(int, arguments.channels.split(",")),
        [_rank(rank) for rank in arguments.ranks.split(",")],
    )
    for resolution, rung, model, channels, rank in asked:
        width, height = map(int, resolution.split("x"))
        name = row_name(model, (width, height), rung, arguments.frames, channels, rank)
        if name in rows and not arguments.again:
            continue
        try:
            task = describe_task((width, height), arguments.frames)
            entry = CATALOGUE[f"seedvr2-{model}"]
            ran = run(entry, task, LADDER[rung - 1], channels=channels, repeats=repeats, rank=rank)
        except SeedVR2Error as error:
            print(f"{name}: {error}")
            continue
        rows[name] = figures(ran)
        _print_row(name, ran)
        _write(path, rows)


def _rank(text: str) -> tuple[int, int]:
    rank, _, size = text.partition("/")
    return int(rank), int(size)


def row_name(
    model: str,
    size: tuple[int, int],
    rung: int,
    num_frames: int,
    channels: int = 3,
    rank: tuple[int, int] = (0, 1),
) -> str:
    """Return under which name a run is kept."""
    alpha = ", alpha" if channels == 4 else ""
    which = f", rank {rank[0]} of {rank[1]}" if rank[1] > 1 else ""
    return f"{model} {size[0]}x{size[1]} rung {rung}, {num_frames} frames{alpha}{which}"


def _write(path: Path, rows: dict[str, Any]) -> None:
    """Keep all rows, one a line; after every one, because a whole table takes long."""
    head = {
        "benchmark": "virtual_gpu",
        "machine": describe_machine(),
        "rates": {name: rates.source for name, rates in known_gpus().items()},
    }
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    text = f'{json.dumps(head, indent=1)[:-2]},\n "rows": {{\n{lines}\n }}\n}}\n'
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def _print_row(name: str, ran: VirtualRun) -> None:
    cells = [name]
    for stage in ("encode", "transform", "decode"):
        planned = getattr(ran.plan.memory.stages, stage)
        cells.append(f"{max(_peak(ran, stage), 0) / GIB:.1f} / {planned / GIB:.1f}")
    largest = max(tally.largest_convolution for tally in ran.stages.values()) / MOST_ELEMENTS
    cells.append(f"{largest:.2f}")
    for gpu in known_gpus():
        seconds = sum(ran.stages[stage].seconds[gpu] for stage in STAGES if stage in ran.stages)
        cells.append(f"{ran.plan.task.known_frames / seconds:.2f}")
    print("| " + " | ".join(cells) + " |", flush=True)


def _peak(ran: VirtualRun, stage: str) -> int:
    return ran.stages[stage].peak_bytes if stage in ran.stages else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="3b,7b", help="3b, 7b; several with commas")
    parser.add_argument("--resolutions", default="1280x720,1920x1080,2560x1440,3840x2160", help="output sizes")
    parser.add_argument("--rungs", default="1,9", help=f"rungs of the ladder, 1 to {len(LADDER)}")
    parser.add_argument("--frames", type=int, default=45, help="length of the segment")
    parser.add_argument("--ranks", default="0/1", help="0/4,1/4 for the first two of four GPUs")
    parser.add_argument("--into", type=Path, help="the file of rows, by default benchmarks/results/virtual_gpu.json")
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--channels", default="3", help="3, and 4 for sources with alpha")
    return parser.parse_args()


if __name__ == "__main__":
    main()
