"""What a restoration asks of a GPU, counted and predicted without one: arithmetic per frame, and memory.

    python -m benchmarks.estimates

Prints the tables of ``docs/performance.md``. Arithmetic follows from the architectures. Memory is what the planner
predicts from ``memory_costs.json`` of ``restoration/planning``, whose numbers are estimates until they are measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.flops import count_flops
from seedvr2_ray.models.seedvr2.vae.config import FAST
from seedvr2_ray.models.seedvr2.vae.costs import vae_flops
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.weights.catalogue import CATALOGUE
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryCosts, MemoryPlan, plan_memory
from seedvr2_ray.restoration.planning.segment_plan import (
    ModelFacts,
    SegmentPlan,
    describe_model,
    describe_segment,
    plan_segment,
)
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.settings import RestoreSettings

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "2160p": (3840, 2160)}
MODELS = {"3B": "seedvr2-3b", "7B": "seedvr2-7b"}
TEXT_TOKENS = 58
SEGMENT_FRAMES = 250
GPUS_GIB = (16, 24, 32, 48, 80, 141)
GIB, TERA = 2**30, 1e12


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """TFLOP of one clip."""

    encode: float
    transform: float
    decode: float
    decode_done: float
    """What is done of it with the fused upsampler."""


def main() -> None:
    """Print every table as Markdown."""
    facts = {name: _facts(entry) for name, entry in MODELS.items()}
    _print_arithmetic(facts)
    _print_memory(facts)


def _facts(entry_name: str) -> ModelFacts:
    entry = CATALOGUE[entry_name]
    config = entry.seedvr2
    with torch.device("meta"):
        transformer = SeedVR2Transformer(config.transformer).to(torch.bfloat16)
        vae = VideoVAE(config.vae).to(torch.bfloat16)
    return describe_model(transformer, vae, FAST, dtype=torch.bfloat16, anchor_rows=config.anchor_rows)


def _task(size: tuple[int, int], num_frames: int, settings: RestoreSettings) -> SegmentTask:
    geometry = Geometry(source_width=size[0] // 2, source_height=size[1] // 2, width=size[0], height=size[1])
    return SegmentTask(first_frame=0, num_frames=num_frames, geometry=geometry, settings=settings, output_depth=8)


def _plan(facts: ModelFacts, task: SegmentTask, available_gib: float) -> SegmentPlan:
    demand = describe_segment(task, facts)
    memory = plan_memory(demand, MemoryCosts.for_device("NVIDIA"), int(available_gib * GIB), may_offload=True)
    return plan_segment(task, facts, memory)


def count(facts: ModelFacts, task: SegmentTask) -> Arithmetic:
    """Count a clip's arithmetic, chunks and padding included."""
    plan = _plan(facts, task, 10_000)
    height, width = plan.padding.padded_height, plan.padding.padded_width
    latent = (height // facts.vae.spatial_stride, width // facts.vae.spatial_stride)
    transform = sum(count_flops(facts.transformer, ((len(c), *latent),), (TEXT_TOKENS,)) for c in plan.chunks)
    frames = facts.vae.num_frames(plan.chunks[-1].stop)
    plain = vae_flops(facts.vae, frames, height, width)
    fused = vae_flops(facts.vae, frames, height, width, fused_upsampler=True)
    return Arithmetic(plain.encode / TERA, transform / TERA, plain.decode / TERA, fused.decode / TERA)


def _print_arithmetic(facts: dict[str, ModelFacts]) -> None:
    print("\nTFLOP per frame\n")
    header = ["output", "frames", "encode", "decode", "decode, fused"]
    rows = []
    for name, size in SIZES.items():
        for num_frames in (21, 121):
            counted = {model: count(fact, _task(size, num_frames, RestoreSettings())) for model, fact in facts.items()}
            vae = counted["3B"]
            row = [vae.encode, vae.decode, vae.decode_done]
            for one in counted.values():
                done = one.encode + one.transform + one.decode_done
                row += [one.transform, done]
            rows.append([name, str(num_frames), *(f"{value / num_frames:.1f}" for value in row)])
    for model in facts:
        header += [f"{model} transformer", f"{model} in all, fused"]
    _print_table(header, rows)


def _print_memory(facts: dict[str, ModelFacts]) -> None:
    print(
        f"\nPredicted peak, GiB, for a segment of {SEGMENT_FRAMES} frames: {MemoryCosts.for_device('NVIDIA').source}\n"
    )
    rows = []
    for model, fact in facts.items():
        for name, size in SIZES.items():
            for tile in (0, 1024) if name == "2160p" else (0,):
                task = _task(size, SEGMENT_FRAMES, RestoreSettings(vae_tile=tile))
                cells = [_describe(fact, task, gigabytes) for gigabytes in GPUS_GIB]
                rows.append([model, name + (f", vae_tile {tile}" if tile else ""), *cells])
    _print_table(["model", "output", *(f"{gigabytes} GiB" for gigabytes in GPUS_GIB)], rows)


def _describe(facts: ModelFacts, task: SegmentTask, gigabytes: int) -> str:
    try:
        memory = _plan(facts, task, gigabytes).memory
    except CapacityError:
        return "-"
    return f"{memory.stages.peak / GIB:.0f} ({_rung(memory)})"


def _rung(memory: MemoryPlan) -> int:
    return LADDER.index(memory.knobs) + 1


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
