"""Frames per second, latency and memory of SwiftVR, stage by stage, without Ray and without files.

    python -m benchmarks.swiftvr --resolutions 1920x1080,2560x1440,3840x2160 --frames 121 --dtype bfloat16
    python -m benchmarks.swiftvr --against-plain

Numbers do not care what the weights are, so they are random and of the released size. Each run restores the clip once
to warm up and once to measure. The second form compares our networks with a plain writing of the specification
(``benchmarks/swiftvr_plain.py``), smaller than the released ones, on this machine. Rows are kept in
``benchmarks/results/swiftvr-<machine>.json``, the latest of each kind.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine, results_folder
from benchmarks.models import GIB, PEAK_TFLOPS, StageWatch, file_name
from benchmarks.swiftvr_plain import plain_decode, plain_encode, plain_velocity, random_reae, random_transformer
from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import BACKENDS
from seedvr2_ray.models.swiftvr.config import SPACE_STRIDE, SWIFTVR, ReAEConfig, SwiftVRConfig, TransformerConfig
from seedvr2_ray.models.swiftvr.flops import reae_flops, transformer_flops
from seedvr2_ray.models.swiftvr.reae import ReAE
from seedvr2_ray.models.swiftvr.schedule import plan_schedule
from seedvr2_ray.models.swiftvr.stream import SwiftVR
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer, parameter_dtype
from seedvr2_ray.restoration.device import default_dtype, device_name, release_memory
from seedvr2_ray.restoration.diffusion.stages import Stage
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.swiftvr.restorer import SwiftVRPlan, SwiftVRRestorer
from seedvr2_ray.settings import RestoreSettings

TINY = SwiftVRConfig(
    transformer=TransformerConfig(
        num_layers=2,
        num_heads=2,
        head_dim=32,
        ffn_width=128,
        text_dim=24,
        prompt_tokens=7,
        time_channels=16,
        latent_channels=8,
        window=(4, 4),
    ),
    reae=ReAEConfig(latent_channels=8, encoder_width=8, decoder_widths=(16, 12, 10, 8)),
    clip_frames=8,
)
"""Smaller than anything useful: shows that the benchmark runs."""
SMALL = replace(SWIFTVR.transformer, num_layers=4, num_heads=8, ffn_width=4096, text_dim=512, prompt_tokens=512)
"""The released transformer in a width and depth that a CPU computes while one waits."""


class StreamWatch(StageWatch):
    """Also adds up the time of every chunk, from its first frame's encoding to its last frame on the host."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.chunk_seconds: list[float] = []

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Measure one step."""
        before = self.seconds[stage]
        with super().__call__(stage):
            yield
        if stage == "encode":
            self.chunk_seconds.append(0.0)
        self.chunk_seconds[-1] += self.seconds[stage] - before


def main() -> None:
    """Run what was asked for; a size that fails is reported and the others go on."""
    arguments = _parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"swiftvr-{file_name(device)}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for row in _rows(arguments, device):
        rows = [other for other in rows if _key(other) != _key(row)] + [row]
        path.write_text(json.dumps({"rows": sorted(rows, key=_key)}, indent=1) + "\n")
        print(json.dumps(row, indent=1))


def _rows(arguments: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else default_dtype(device)
    if arguments.against_plain:
        yield from compare_with_plain(arguments.rounds, device)
        return
    config = {"released": SWIFTVR, "tiny": TINY}[arguments.size]
    model = build_random(config, device, dtype)
    compile_seconds = None
    if arguments.compile:
        restorer = SwiftVRRestorer(model, RestorerIdentity("swiftvr", "0"), device=device)
        compile_seconds = round(restorer.compile(), 1)
    for resolution in arguments.resolutions.split(","):
        width, height = (int(side) for side in resolution.split("x"))
        row = {
            "kind": "stream",
            "size": arguments.size,
            "resolution": resolution,
            "frames": arguments.frames,
            "dtype": str(dtype).removeprefix("torch."),
            "attention": arguments.attention,
            "colour_match": arguments.colour_match,
            "compiled": arguments.compile,
            "compile_seconds": compile_seconds,
            **_circumstances(),
        }
        try:
            yield {**row, **measure_stream(model, device, height, width, arguments)}
        except (SeedVR2Error, torch.OutOfMemoryError) as error:
            yield {**row, "failed": str(error).splitlines()[0]}
        release_memory(device)


def measure_stream(
    model: SwiftVR, device: torch.device, height: int, width: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Restore a clip twice and measure the second time."""
    task = SegmentTask(
        first_frame=0,
        num_frames=arguments.frames,
        geometry=Geometry(source_width=width // 2, source_height=height // 2, width=width, height=height),
        settings=RestoreSettings(colour_match=arguments.colour_match),
        output_depth=8,
    )

    source = list(_source(task))

    def restore(watch: StreamWatch) -> tuple[SwiftVRPlan, float]:
        restorer = SwiftVRRestorer(
            model, RestorerIdentity("swiftvr", "0"), device=device, attention=arguments.attention, watch=watch
        )
        began = time.perf_counter()
        num_frames = sum(len(frames) for frames in restorer.restore(source, task))
        assert num_frames == task.known_frames
        return restorer.plan(task), time.perf_counter() - began

    restore(StreamWatch(device))
    release_memory(device)
    watch = StreamWatch(device)
    plan, seconds = restore(watch)
    return describe_run(model.config, plan, watch, seconds, device)


def describe_run(
    config: SwiftVRConfig, plan: SwiftVRPlan, watch: StreamWatch, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Turn what was measured into a row."""
    teraflops = count_teraflops(config, plan)
    peak_tflops = next((peak for name, peak in PEAK_TFLOPS.items() if name in device_name(device)), None)
    stages = {}
    for stage, stage_seconds in watch.seconds.items():
        stages[stage] = {"seconds": round(stage_seconds, 4), "peak_gib": round(watch.peak_bytes[stage] / GIB, 2)}
        if stage in teraflops and stage_seconds:
            rate = teraflops[stage] / stage_seconds
            stages[stage] |= {"tflop": float(f"{teraflops[stage]:.4g}"), "tflop_per_second": float(f"{rate:.4g}")}
            if peak_tflops:
                stages[stage]["share_of_peak"] = round(rate / peak_tflops, 3)
    # The first chunk is longer and the last one shorter than those a long stream consists of.
    middle = watch.chunk_seconds[1:-1] or watch.chunk_seconds
    return {
        "padded": [plan.padded_width, plan.padded_height],
        "seconds": round(seconds, 3),
        "frames_per_second": round(plan.task.known_frames / seconds, 3),
        "middle_frames_per_second": round(config.clip_frames / statistics.median(middle), 3),
        "chunk_frames": config.clip_frames,
        "chunk_latency_seconds": {
            "first": round(watch.chunk_seconds[0], 4),
            "median": round(statistics.median(middle), 4),
            "longest": round(max(middle), 4),
        },
        "latents_at_once": plan.memory.latents_at_once,
        "peak_gib": round(max(watch.peak_bytes.values()) / GIB, 2),
        "predicted_gib": round(plan.memory.stages.peak / GIB, 2),
        "stages": stages,
    }


def count_teraflops(config: SwiftVRConfig, plan: SwiftVRPlan) -> dict[str, float]:
    """Count what the architecture asks for, padding and repeats included."""
    height, width = plan.padded_height, plan.padded_width
    side = SPACE_STRIDE * config.transformer.patch
    chunks = plan_schedule(plan.task.known_frames, config.clip_frames)
    num_frames = sum(4 * chunk.num_latents for chunk in chunks)
    codec = reae_flops(config.reae, height, width)
    transform = sum(
        transformer_flops(config.transformer, (chunk.num_latents + chunk.front_latents, height // side, width // side))
        for chunk in chunks
    )
    return {
        "encode": codec.encode * num_frames / 1e12,
        "transform": transform / 1e12,
        "decode": codec.decode * num_frames / 1e12,
    }


def build_random(config: SwiftVRConfig, device: torch.device, dtype: torch.dtype) -> SwiftVR:
    """Build networks with random weights, each in its own type: never in float32 first."""
    with torch.device("meta"):
        transformer, reae = SwiftVRTransformer(config.transformer), ReAE(config.reae)
    _fill(transformer, device, lambda name: parameter_dtype(dtype, name))
    _fill(reae, device, lambda name: dtype)
    prompt_KC = torch.randn(config.transformer.prompt_tokens, config.transformer.text_dim, device=device)
    transformer.requires_grad_(False).eval().fold(prompt_KC)
    release_memory(device)
    return SwiftVR(config=config, transformer=transformer, reae=reae.requires_grad_(False).eval())


def compare_with_plain(rounds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Time our networks and a plain writing of the specification on the same numbers, by turns."""
    torch.manual_seed(0)
    state, prompt_KC = random_transformer(SMALL), torch.randn(SMALL.prompt_tokens, SMALL.text_dim)
    transformer = SwiftVRTransformer(SMALL)
    transformer.load_state_dict(state)
    transformer.requires_grad_(False).eval().to(device).fold(prompt_KC.to(device))
    state = {name: tensor.to(device) for name, tensor in state.items()}
    latents_CTHW = torch.randn(SMALL.latent_channels, 6, 48, 64, device=device)
    yield _compared(
        "transformer",
        "4 layers of width 1024, a chunk of 6 latents at 1024x768",
        lambda: transformer(latents_CTHW[None])[0],
        lambda: plain_velocity(state, SMALL, latents_CTHW, prompt_KC.to(device)),
        rounds,
    )
    weights = random_reae(SWIFTVR.reae)
    reae = ReAE(SWIFTVR.reae)
    reae.load_state_dict(weights)
    reae.requires_grad_(False).eval().to(device)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    frames_TCHW = torch.rand(8, 3, 192, 256, device=device)
    latents_TCHW = torch.randn(2, SWIFTVR.reae.latent_channels, 12, 16, device=device)
    what = "the released size, 8 frames of 256x192"
    yield _compared(
        "encoder", what, lambda: reae.encode(frames_TCHW, None)[0], lambda: plain_encode(weights, frames_TCHW), rounds
    )
    yield _compared(
        "decoder", what, lambda: reae.decode(latents_TCHW, None)[0], lambda: plain_decode(weights, latents_TCHW), rounds
    )


@torch.inference_mode()
def _compared(
    part: str, what: str, ours: Callable[[], Tensor], plain: Callable[[], Tensor], rounds: int
) -> dict[str, Any]:
    made, expected = ours(), plain()
    error = float((made - expected).abs().max() / expected.abs().max())
    if not error < 1e-3:
        raise SystemExit(f"our {part} differs from the plain one by {error:.2g} of its range; there is nothing to time")
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds):
        for name, compute in (("plain", plain), ("ours", ours)):
            began = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
            compute()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - began)
            else:
                seconds[name].append(time.process_time() - began)
    ours_seconds, plain_seconds = (statistics.median(seconds[name]) for name in ("ours", "plain"))
    return {
        "kind": "against plain",
        "part": part,
        "what": what,
        "clock": "wall" if torch.cuda.is_available() else "processor",
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "ours_seconds": [round(each, 4) for each in seconds["ours"]],
        "plain_seconds": [round(each, 4) for each in seconds["plain"]],
        "times_as_fast": round(plain_seconds / ours_seconds, 3),
        "largest_difference": float(f"{error:.2g}"),
        **_circumstances(),
    }


def _fill(network: nn.Module, device: torch.device, dtype_of: Callable[[str], torch.dtype]) -> None:
    for name, parameter in list(network.named_parameters()):
        owner = network.get_submodule(name.rpartition(".")[0]) if "." in name else network
        fan_in = max(1, math.prod(parameter.shape[1:])) if parameter.ndim > 1 else 64
        weights = torch.empty(parameter.shape, device=device, dtype=dtype_of(name)).normal_(std=fan_in**-0.5)
        if "norm" in name and name.endswith("weight"):
            weights.fill_(1.0)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(weights, requires_grad=False))


def _source(task: SegmentTask) -> Iterator[Frames]:
    generator = torch.Generator().manual_seed(0)
    size = (1, 3, task.geometry.source_height, task.geometry.source_width)
    codes = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    for number in range(task.known_frames):
        yield Frames(codes.roll(number, dims=3), (number,), Fraction(1, 25))


def _circumstances() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _key(row: dict[str, Any]) -> str:
    names = ("kind", "part", "size", "resolution", "frames", "dtype", "attention", "colour_match", "compiled")
    return " ".join(f"{row.get(name)!s:>6}" for name in names)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("released", "tiny"), default="released")
    parser.add_argument("--resolutions", default="1920x1080,2560x1440,3840x2160")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--attention", choices=BACKENDS, default="sdpa")
    parser.add_argument(
        "--colour-match", default="none", help="none, as the authors measure; by default jobs use wavelet"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cudnn-benchmark", action="store_true")
    parser.add_argument("--against-plain", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=results_folder())
    return parser.parse_args()


if __name__ == "__main__":
    main()
