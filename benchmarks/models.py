"""Time, throughput and memory of the diffusion models, stage by stage, without Ray and without files.

    python -m benchmarks.models --models 3b,7b --resolutions 1280x720,2560x1440 --frames 21,121 --dtype bfloat16

Numbers do not care what the weights are, so they are random and of the real size unless a folder with
checkpoints is named. Each run restores the clip once to warm up and once to measure. Rows are kept in
``benchmarks/results/models-<machine>.json``, the latest of each kind, and drawn beside it.
"""

import argparse
import dataclasses
import json
import os
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import describe_machine, results_folder
from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import BACKENDS, AttentionBackend
from seedvr2_ray.models.seedvr2.config import DiTConfig, SeedVR2Config
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.flops import count_flops
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.transformer.rope import rope_frequencies
from seedvr2_ray.models.seedvr2.vae.config import FAST, FAST_ON_CPU, PLAIN, VAEConfig, VAEOptions, fastest_options
from seedvr2_ray.models.seedvr2.vae.costs import vae_flops
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.weights.catalogue import CATALOGUE, ModelEntry
from seedvr2_ray.restoration.device import default_dtype, device_name, release_memory
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.diffusion.stages import DiffusionModel, Stage
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.segment_plan import SegmentPlan
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings

STAGES: tuple[Stage, ...] = ("encode", "transform", "decode", "finish")
TEXT_TOKENS = 58
GIB = 2**30

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 5090": 209.0, "RTX 4090": 165.0}
"""Dense bfloat16 with float32 accumulation, from the vendor's data sheets."""

TINY = ModelEntry(
    name="tiny",
    summary="Random weights, smaller than anything useful: shows that the benchmark runs",
    licence="none",
    networks=SeedVR2Config(
        transformer=DiTConfig(
            width=64,
            num_layers=4,
            num_heads=2,
            head_dim=32,
            mlp="swiglu",
            rope="video_and_text",
            num_dual_layers=2,
            has_output_modulation=True,
            modulates_last_text=False,
            text_dim=40,
        ),
        vae=VAEConfig(block_out_channels=(8, 16, 32, 32), norm_groups=4),
    ),
)


class StageWatch:
    """Adds up the time of every stage and keeps its highest memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak_bytes = dict.fromkeys(STAGES, 0)

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Measure one step. A GPU is waited for before and after, or the time would land on a later stage."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        began = time.perf_counter()
        yield
        if on_gpu:
            torch.cuda.synchronize(self._device)
        self.seconds[stage] += time.perf_counter() - began
        self.peak_bytes[stage] = max(self.peak_bytes[stage], _peak_bytes(self._device))


def main() -> None:
    """Run every combination that was asked for; a combination that fails is reported and the others go on."""
    arguments = _parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else default_dtype(device)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"models-{file_name(device)}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in arguments.models.split(","):
        entry = _find_entry(name)
        model = _build(entry, device, dtype, arguments.weights_dir)
        compiling = {}
        if arguments.compile:
            compiling["compile_seconds"] = round(_restorer(model, device, arguments).compile(), 1)
        for resolution in arguments.resolutions.split(","):
            for num_frames in map(int, arguments.frames.split(",")):
                row = _describe(entry.name, resolution, num_frames, dtype, arguments) | compiling
                release_memory(device)
                try:
                    row |= measure(model, resolution, num_frames, device, arguments)
                except (SeedVR2Error, RuntimeError) as error:
                    row["failed"] = str(error).splitlines()[0]
                print(json.dumps(row, indent=2))
                rows = [*(old for old in rows if _key(old) != _key(row)), row]
                path.write_text(json.dumps({"rows": sorted(rows, key=_key)}, indent=2) + "\n")
        del model
    _draw(rows, path.with_suffix(".png"))


def measure(
    model: DiffusionModel, resolution: str, num_frames: int, device: torch.device, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Restore a clip of noise twice and return what the second time took."""
    width, height = map(int, resolution.split("x"))
    task = SegmentTask(
        first_frame=0,
        num_frames=num_frames,
        geometry=Geometry(source_width=width // 2, source_height=height // 2, width=width, height=height),
        settings=RestoreSettings(
            chunk_frames=arguments.chunk_frames, padding=arguments.padding, vae_tile=arguments.vae_tile
        ),
        output_depth=8,
    )
    for _ in range(2):
        watch = StageWatch(device)
        restorer = _restorer(model, device, arguments, watch)
        plan = restorer.plan(task)
        began = time.perf_counter()
        count = sum(len(frames) for frames in restorer.restore(_source(task), task))
        seconds = time.perf_counter() - began
        assert count == num_frames
    return _figures(model, plan, watch, seconds, device)


def _restorer(
    model: DiffusionModel, device: torch.device, arguments: argparse.Namespace, watch: StageWatch | None = None
) -> DiffusionRestorer:
    ways: dict[str, VAEOptions] = {"fast": FAST, "fast_on_cpu": FAST_ON_CPU, "plain": PLAIN}
    return DiffusionRestorer(
        model,
        RestorerIdentity("benchmark", ""),
        device=device,
        attention=arguments.attention,
        vae_options=ways[arguments.vae] if arguments.vae else fastest_options(device.type),
        watch=watch or StageWatch(device),
    )


def _figures(
    model: DiffusionModel, plan: SegmentPlan, watch: StageWatch, seconds: float, device: torch.device
) -> dict[str, Any]:
    teraflops = count_teraflops(model, plan)
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in device_name(device)), None)
    stages = {}
    for stage in STAGES:
        taken = watch.seconds[stage]
        figures = {
            "seconds": round(taken, 4),
            "peak_gib": round(watch.peak_bytes[stage] / GIB, 2),
        }
        if stage in teraflops:
            rate = teraflops[stage] / taken
            figures |= {"tflop": round(teraflops[stage], 3), "tflop_per_second": round(rate, 3)}
            if peak is not None:
                figures["share_of_peak"] = round(rate / peak, 3)
        stages[stage] = figures
    predicted = plan.memory.stages
    frame_tokens = plan.padding.padded_height * plan.padding.padded_width // _token_pixels(model)
    num_tokens = sum(len(chunk) for chunk in plan.chunks) * frame_tokens
    return {
        "seconds": round(seconds, 4),
        "frames_per_second": round(plan.task.known_frames / seconds, 4),
        "tokens": num_tokens,
        "tokens_per_second": round(num_tokens / watch.seconds["transform"], 1),
        "peak_gib": round(max(watch.peak_bytes.values()) / GIB, 2),
        "predicted_gib": {
            "encode": round(predicted.encode / GIB, 2),
            "transform": round(predicted.transform / GIB, 2),
            "decode": round(predicted.decode / GIB, 2),
        },
        "padded": [plan.padding.padded_width, plan.padding.padded_height],
        "chunks": len(plan.chunks),
        "knobs": dataclasses.asdict(plan.memory.knobs),
        "stages": stages,
    }


def count_teraflops(model: DiffusionModel, plan: SegmentPlan) -> dict[str, float]:
    """Count what the architecture asks for.

    Shortcuts that save arithmetic (the fused upsampler, skipped text) do not lower the count, so they show as speed.
    """
    vae_config = model.vae.config
    height = plan.padding.padded_height // vae_config.spatial_stride
    width = plan.padding.padded_width // vae_config.spatial_stride
    text = (len(model.positive_LC),)
    transform = sum(
        count_flops(model.transformer.config, ((len(chunk), height, width),), text) for chunk in plan.chunks
    )
    num_frames = vae_config.num_frames(plan.chunks[-1].stop)
    vae = vae_flops(vae_config, num_frames, plan.padding.padded_height, plan.padding.padded_width)
    return {"encode": vae.encode / 1e12, "transform": transform / 1e12, "decode": vae.decode / 1e12}


def _source(task: SegmentTask) -> Iterator[Frames]:
    generator = torch.Generator().manual_seed(0)
    size = (1, 3, task.geometry.source_height, task.geometry.source_width)
    for number in range(task.known_frames):
        codes = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        yield Frames(codes, (number,), Fraction(1, 25))


def _find_entry(name: str) -> ModelEntry:
    known = {**CATALOGUE, **{key.removeprefix("seedvr2-"): entry for key, entry in CATALOGUE.items()}, "tiny": TINY}
    entry = known.get(name)
    if entry is None or not isinstance(entry.networks, SeedVR2Config):
        names = [key for key, other in known.items() if isinstance(other.networks, SeedVR2Config)]
        raise SystemExit(f"unknown model {name!r}; known are {', '.join(names)}")
    return entry


def _build(entry: ModelEntry, device: torch.device, dtype: torch.dtype, weights_dir: Path | None) -> DiffusionModel:
    if weights_dir is not None:
        # Reading checkpoints needs packages that a machine for benchmarks may lack.
        from seedvr2_ray.models.weights.download import WeightsSource, require_model
        from seedvr2_ray.restoration.diffusion.load import load_networks

        files = require_model(entry, WeightsSource(weights_dir=weights_dir), may_download=False)
        return load_networks(entry, files, device=device, dtype=dtype)
    config = entry.seedvr2
    with torch.device("meta"):
        transformer, vae = SeedVR2Transformer(config.transformer), VideoVAE(config.vae)
    text_dim = config.transformer.text_dim
    for network in (transformer, vae):
        _fill(network, device, dtype)
    for name, _ in list(transformer.named_buffers()):
        owner = transformer.get_submodule(name.rpartition(".")[0])
        owner.register_buffer(name.rpartition(".")[2], rope_frequencies(config.transformer).to(device))
    return DiffusionModel(
        transformer=transformer.requires_grad_(False).eval(),
        vae=vae.requires_grad_(False).eval(),
        positive_LC=torch.randn(TEXT_TOKENS, text_dim, device=device),
        negative_LC=torch.randn(TEXT_TOKENS, text_dim, device=device),
        anchor_rows=config.anchor_rows,
    )


def _fill(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give a network on the meta device random weights, each in its own type: never in float32 first."""
    for name, parameter in list(network.named_parameters()):
        owner = network.get_submodule(name.rpartition(".")[0]) if "." in name else network
        weights = torch.empty(parameter.shape, device=device, dtype=parameter_dtype(dtype, name)).normal_(std=0.02)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(weights, requires_grad=False))


def _describe(
    model: str, resolution: str, num_frames: int, dtype: torch.dtype, arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "model": model,
        "resolution": resolution,
        "frames": num_frames,
        "chunk_frames": arguments.chunk_frames,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": arguments.attention,
        "vae": arguments.vae or "default",
        "vae_tile": arguments.vae_tile,
        "compiled": arguments.compile,
        "weights": str(arguments.weights_dir.name) if arguments.weights_dir else "random",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    parts = (
        *("model", "resolution", "frames", "chunk_frames", "dtype", "attention", "vae", "vae_tile", "compiled"),
        "weights",
    )
    return tuple(f"{row[part]!s:>6}" for part in parts)


def _token_pixels(model: DiffusionModel) -> int:
    return (model.vae.config.spatial_stride * model.transformer.config.patch) ** 2


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def file_name(device: torch.device) -> str:
    name = device_name(device) if device.type == "cuda" else str(describe_machine()["processor"])
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds per frame of every row, stage upon stage."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed here; the figures are in the JSON file")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    good = [row for row in rows if "failed" not in row]
    labels = [
        f"{row['model']} {row['resolution']}\n{row['frames']} frames, {row['dtype']}, {row['vae']}" for row in good
    ]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.5 * len(good)), layout="constrained")
    left = [0.0] * len(good)
    for stage, colour in zip(STAGES, ("#4c78a8", "#f58518", "#54a24b", "#b279a2"), strict=True):
        lengths = [row["stages"][stage]["seconds"] / row["frames"] for row in good]
        axes.barh(labels, lengths, left=left, label=stage, color=colour)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    for place, row in enumerate(good):
        axes.text(
            left[place], place, f" {row['frames_per_second']:.3g} frames/s, {row['peak_gib']:.3g} GiB", va="center"
        )
    axes.set_xlabel("seconds per frame")
    if good:
        machine, load = good[0]["machine"], max(row["load_average"] for row in good)
        axes.set_title(f"{machine.get('gpu', machine['processor'])}, load average up to {load:g}", fontsize="medium")
    axes.margins(x=0.35)
    axes.invert_yaxis()
    figure.legend(ncols=4, fontsize="small", loc="outside lower center")
    figure.savefig(path, dpi=110)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="tiny", help="tiny, nano, 3b, 7b, 7b-sharp; several with commas")
    parser.add_argument("--resolutions", default="128x64", help="output sizes, WxH; several with commas")
    parser.add_argument("--frames", default="21", help="lengths of the clip; several with commas")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="by default the device's own")
    backends: tuple[AttentionBackend, ...] = BACKENDS
    parser.add_argument("--attention", choices=backends, default="sdpa")
    parser.add_argument("--vae", choices=("fast", "fast_on_cpu", "plain"), help="how the VAE is run")
    parser.add_argument("--chunk-frames", type=int, default=21)
    parser.add_argument("--padding", choices=("reflect_black", "reflect", "black"), default="reflect_black")
    parser.add_argument("--vae-tile", type=int, default=0, help="side of the VAE's tiles; 0 takes frames whole")
    parser.add_argument("--compile", action="store_true", help="compile the transformer; what it took is reported")
    parser.add_argument("--results", type=Path, default=results_folder(), help="folder of the JSON file and picture")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its kernels first")
    parser.add_argument("--weights-dir", type=Path, help="folder with checkpoints; without it weights are random")
    return parser.parse_args()


if __name__ == "__main__":
    main()
