"""The released models at full size on a GPU that is not there: memory, arithmetic and traffic, stage by stage.

    python -m benchmarks.virtual_gpu --models 3b,7b --resolutions 1280x720,3840x2160 --rungs 1,9

The real restorer runs on tensors without data (:mod:`benchmarks.virtual_device`), so this takes seconds and any machine
with torch. Peaks are exact up to what kernels need for scratch; times are **predicted** from public rates
(``gpu_rates.json``): of every launch the longer of arithmetic and traffic. Rows are kept in
``benchmarks/results/virtual_gpu.json``.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch

from benchmarks.machine import describe_machine, results_folder
from benchmarks.virtual_device import MOST_ELEMENTS, StageTally, Tally, counting, virtual_device
from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.frames import Frames
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
from seedvr2_ray.restoration.planning.memory import LADDER, ExactKnobs
from seedvr2_ray.restoration.planning.segment_plan import SegmentPlan
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings

STAGES = ("encode", "transform", "decode", "finish")
TEXT_TOKENS = 58
GIB = 2**30
LAUNCH_SECONDS = 3e-6
"""The least that one launch takes: an assumption, the same for every GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a vendor promises of a GPU."""

    name: str
    memory_gib: float
    bf16_tflops: float
    fp32_tflops: float
    gigabytes_per_second: float
    source: str

    def seconds(self, flops: float, num_bytes: int, *, is_fp32: bool) -> float:
        """Return the shortest time one launch can take."""
        rate = self.fp32_tflops if is_fp32 else self.bf16_tflops
        return max(flops / (rate * 1e12), num_bytes / (self.gigabytes_per_second * 1e9), LAUNCH_SECONDS)


@lru_cache(maxsize=1)
def known_rates() -> dict[str, Rates]:
    """Return every GPU whose rates are stored."""
    table = json.loads((Path(__file__).parent / "gpu_rates.json").read_text())
    return {name: Rates(**rates) for name, rates in table.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualRun:
    """One segment, restored without data."""

    plan: SegmentPlan
    weight_bytes: int
    stages: dict[str, StageTally]
    seconds: dict[str, dict[str, float]]
    """By GPU and stage; predicted."""


class Roofline:
    """Adds up the shortest times of launches."""

    def __init__(self) -> None:
        self.seconds: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in known_rates()}

    def __call__(self, stage: str, flops: float, num_bytes: int, is_fp32: bool) -> None:
        """Count one launch."""
        for name, rates in known_rates().items():
            self.seconds[name][stage] += rates.seconds(flops, num_bytes, is_fp32=is_fp32)


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
) -> VirtualRun:
    """Restore one segment with given knobs.

    Args:
        channels: 4 for a source with alpha.
        free_bytes: what the restorer is told is free; nothing ever runs out.
    """
    plan_packing.cache_clear()
    roofline = Roofline()
    try:
        with counting(roofline) as tally, _forced(knobs, free_bytes), patch.object(placement, "_exchange", tally.move):
            model = build(entry, dtype)
            weight_bytes = tally.live_bytes
            restorer = _restorer(model, tally)
            plan = restorer.plan(task)
            count = sum(len(frames) for frames in restorer.restore(_source(task, channels), task))
            assert count == task.known_frames
    finally:
        plan_packing.cache_clear()
    seconds = {gpu: dict(stages) for gpu, stages in roofline.seconds.items()}
    return VirtualRun(plan=plan, weight_bytes=weight_bytes, stages=dict(tally.stages), seconds=seconds)


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


def _restorer(model: DiffusionModel, tally: Tally) -> DiffusionRestorer:
    return DiffusionRestorer(
        model,
        RestorerIdentity("virtual", ""),
        device=virtual_device(),
        draw=lambda seed, numbers, size: torch.empty(len(numbers), *size),
        watch=tally.watch,
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
            "peak_gib": round(tally.peak_bytes / GIB, 2),
            "planned_gib": round(getattr(predicted, stage) / GIB, 2),
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
            "largest_convolution": round(tally.largest_convolution / 2**31, 3),
            "predicted_seconds": {gpu: round(seconds.get(stage, 0.0), 3) for gpu, seconds in ran.seconds.items()},
        }
    return {
        "padded": [ran.plan.padding.padded_width, ran.plan.padding.padded_height],
        "weights_gib": round(ran.weight_bytes / GIB, 2),
        "stages": stages,
    }


def _megabytes(moved: Counter[str]) -> dict[str, float]:
    return {place: round(count / 1e6, 3) for place, count in moved.items()}


def main() -> None:
    """Run every combination that was asked for, print a table, keep the figures."""
    arguments = _parse()
    path = results_folder() / "virtual_gpu.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows: dict[str, Any] = kept.get("rows", {})
    for model in arguments.models.split(","):
        for resolution in arguments.resolutions.split(","):
            for rung in map(int, arguments.rungs.split(",")):
                width, height = map(int, resolution.split("x"))
                try:
                    task = describe_task((width, height), arguments.frames)
                    ran = run(CATALOGUE[f"seedvr2-{model}"], task, LADDER[rung - 1], channels=arguments.channels)
                except SeedVR2Error as error:
                    print(f"{model} {resolution} rung {rung}: {error}")
                    continue
                rows[f"{model} {resolution} {arguments.frames} frames, rung {rung}"] = figures(ran)
                _print_row(model, resolution, rung, ran)
    sources = {name: rates.source for name, rates in known_rates().items()}
    document = {"benchmark": "virtual_gpu", "machine": describe_machine(), "rates": sources, "rows": rows}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _print_row(model: str, resolution: str, rung: int, ran: VirtualRun) -> None:
    cells = [model, resolution, str(rung)]
    for stage in ("encode", "transform", "decode"):
        planned = getattr(ran.plan.memory.stages, stage)
        cells.append(f"{max(_peak(ran, stage), 0) / GIB:.1f} / {planned / GIB:.1f}")
    largest = max(tally.largest_convolution for tally in ran.stages.values()) / MOST_ELEMENTS
    cells.append(f"{largest:.2f}")
    total = {gpu: sum(stages.get(stage, 0) for stage in STAGES) for gpu, stages in ran.seconds.items()}
    cells += [f"{ran.plan.task.known_frames / seconds:.2f}" for seconds in total.values()]
    print("| " + " | ".join(cells) + " |", flush=True)


def _peak(ran: VirtualRun, stage: str) -> int:
    return ran.stages[stage].peak_bytes if stage in ran.stages else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="3b,7b", help="3b, 7b; several with commas")
    parser.add_argument("--resolutions", default="1280x720,1920x1080,2560x1440,3840x2160", help="output sizes")
    parser.add_argument("--rungs", default="1,9", help=f"rungs of the ladder, 1 to {len(LADDER)}")
    parser.add_argument("--frames", type=int, default=45, help="length of the segment")
    parser.add_argument("--channels", type=int, choices=(3, 4), default=3, help="4 for a source with alpha")
    return parser.parse_args()


if __name__ == "__main__":
    main()
