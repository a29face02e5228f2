"""What several GPUs would make of one segment: bytes on the way, memory per rank, predicted time, which strategy wins.

python -m benchmarks.gang

Bytes, exchanges and memory are counted: the networks run at full size on tensors without data, as one rank among others
that answer nothing. Times are **predicted** from these counts and the rates below; no GPU was measured. Measured
is a small decoder on processes of this machine that talk by gloo.
"""

import argparse
import json
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks.machine import describe_machine, results_folder
from seedvr2_ray.models.parallel import ALONE, SequenceParallel
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B, DiTConfig
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, fold_timestep
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.transformer.ranks.assignment import assign_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.by_windows import WindowShares
from seedvr2_ray.models.seedvr2.transformer.ranks.choice import (
    BYTES_PER_SECOND,
    OPERATIONS_PER_SECOND,
    SECONDS_PER_EXCHANGE,
    cheaper_strategy,
    predict_seconds,
)
from seedvr2_ray.models.seedvr2.transformer.ranks.traffic import head_bytes, window_bytes
from seedvr2_ray.models.seedvr2.vae.config import FAST, SEEDVR2_VAE, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.costs import vae_flops
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares, split_rows
from seedvr2_ray.models.seedvr2.vae.upsampler import Upsampler
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.restoration.planning.padding import plan_padding

SIZES = {"1080p": (1080, 1920), "1440p": (1440, 2560), "2160p": (2160, 3840), "4320p": (4320, 7680)}
MODELS = {"3B": SEEDVR2_3B, "7B": SEEDVR2_7B}
FRAMES, TEXT = 21, 58
CONVOLUTION_OPERATIONS_PER_SECOND = 3e14
META, BFLOAT16 = torch.device("meta"), torch.bfloat16


class SilentRank(SequenceParallel):
    """A rank whose others answer with memory that holds nothing: for counting."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.num_exchanges = 0

    def _swap(self, pieces: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        self.num_exchanges += 1


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is alive of the tensors made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in given:
                    self._known.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def build_vae(config: VAEConfig = SEEDVR2_VAE) -> VideoVAE:
    """Return a VAE without data as it would run on a GPU."""
    with META:
        vae = VideoVAE(config, FAST).requires_grad_(False)
    for name, parameter in vae.named_parameters():
        parameter.data = parameter.data.to(parameter_dtype(BFLOAT16, name))
    for module in vae.modules():
        if isinstance(module, Upsampler):
            module.fuse()
    return vae


@torch.inference_mode()
def count_vae(vae: VideoVAE, height: int, width: int, num_ranks: int) -> dict[str, Any]:
    """Encode and decode a chunk as a rank in the middle, slice by slice; count bytes, exchanges and memory.

    The first two slices are run; all further ones are like the second.
    """
    stride, time_stride = vae.config.spatial_stride, vae.config.temporal_stride
    further = (FRAMES - 1) // time_stride - 1
    parallel = SilentRank(num_ranks // 2, num_ranks)
    heights = split_rows(height // stride, num_ranks)
    rows = RowShares(parallel, heights) if num_ranks > 1 else None
    # Bands as tall a share of the rank's rows as of whole frames: buffers of one size would not fall with the ranks.
    assert FAST.conv_elements is not None
    options = replace(FAST, rows=rows, conv_elements=FAST.conv_elements // num_ranks)
    own = heights[parallel.rank]
    counted: dict[str, Any] = {}
    sent: Counter[str] = Counter()
    exchanges = 0
    for name in ("encode", "decode"):
        live, state = LiveBytes(), None
        with live:
            for times in (1, further):
                parallel.sent.clear()
                parallel.num_exchanges = 0
                new = 2 if state is None else 1
                if name == "encode":
                    num_frames = 1 + time_stride if state is None else time_stride
                    given = torch.empty(1, 3, num_frames, own * stride, width, dtype=BFLOAT16, device=META)
                    _, state = vae.encode_slice(given, state, overwrite=True, options=options)
                else:
                    shape = (1, vae.config.latent_channels, new, own, width // stride)
                    given = torch.empty(shape, dtype=BFLOAT16, device=META)
                    _, state = vae.decode_slice(given, state, overwrite=True, options=options)
                sent.update({kind: times * count for kind, count in parallel.sent.items()})
                exchanges += times * parallel.num_exchanges
        assert state is not None
        counted[name] = {"peak_bytes": live.peak, "state_bytes": state.num_bytes}
    return {**counted, "sent_bytes": dict(sent), "exchanges": exchanges}


@torch.inference_mode()
def transformer_peak(config: DiTConfig, size_THW: tuple[int, int, int], num_ranks: int) -> int:
    """Return the peak of one rank's activations where windows are shared out; weights are not counted."""
    grid = config.patched(size_THW)
    loads = assign_windows(grid, config.windows, num_ranks)[0].loads
    parallel = SilentRank(loads.index(max(loads)), num_ranks)
    with META:
        network = SeedVR2Transformer(config).requires_grad_(False)
        for name, parameter in network.named_parameters():
            parameter.data = parameter.data.to(parameter_dtype(BFLOAT16, name))
        fold_timestep(network)
        clip = torch.empty(*size_THW, config.in_channels, dtype=BFLOAT16)
        text = torch.empty(TEXT, config.text_dim, dtype=BFLOAT16)
    execution = Execution(sharing=WindowShares(parallel)) if num_ranks > 1 else Execution()
    network.blocks = network.blocks[:4]  # all layers of a kind are alike
    with LiveBytes() as live:
        network(clip, text, 1000.0, execution=execution)
    return int(live.peak)


def predict(model: str, size: str, num_ranks: int, vae: dict[str, Any], one: dict[str, Any] | None) -> dict[str, Any]:
    """Return one row: a chunk of 21 frames on so many GPUs."""
    config, (height, width) = MODELS[model], _padded(size)
    grid = config.patched((SEEDVR2_VAE.num_latents(FRAMES), height // 8, width // 8))
    flops = vae_flops(SEEDVR2_VAE, FRAMES, height, width, fused_upsampler=True)
    share = max(split_rows(height // 8, num_ranks)) / (height // 8)
    pictures = 2 * FRAMES * 3 * height * width * BFLOAT16.itemsize * (num_ranks - 1) // num_ranks**2
    vae_sent = sum(vae["sent_bytes"].values()) + pictures
    vae_seconds = (flops.encode + flops.decode) * share / CONVOLUTION_OPERATIONS_PER_SECOND
    vae_seconds += vae_sent / BYTES_PER_SECOND + vae["exchanges"] * SECONDS_PER_EXCHANGE
    by_strategy = {}
    for strategy, count in (("windows", window_bytes), ("ulysses", head_bytes)):
        if num_ranks == 1 or (strategy == "ulysses" and config.num_heads % num_ranks):
            continue
        sent = max(count(config, grid, TEXT, num_ranks, rank, 2).total() for rank in range(num_ranks))
        seconds = predict_seconds(config, grid, TEXT, num_ranks, strategy)
        by_strategy[strategy] = {"sent_bytes": sent, "predicted_seconds": round(seconds, 4)}
    winner = cheaper_strategy(config, grid, TEXT, num_ranks) if num_ranks > 1 else "windows"
    seconds = vae_seconds + predict_seconds(config, grid, TEXT, num_ranks, winner)
    alone = seconds if one is None else one["predicted_seconds"]
    return {
        "model": model,
        "size": size,
        "gpus": num_ranks,
        "strategy": winner if num_ranks > 1 else None,
        "transformer": by_strategy,
        "vae_sent_bytes": vae_sent,
        "vae_predicted_seconds": round(vae_seconds, 4),
        "predicted_seconds": round(seconds, 4),
        "predicted_frames_per_second": round(FRAMES / seconds, 2),
        "predicted_efficiency": round(alone / num_ranks / seconds, 3),
        "memory": {
            "vae_encode_peak_bytes": vae["encode"]["peak_bytes"],
            "vae_decode_peak_bytes": vae["decode"]["peak_bytes"],
            "vae_decode_state_bytes": vae["decode"]["state_bytes"],
            "transformer_peak_bytes": transformer_peak(config, (grid[0], height // 8, width // 8), num_ranks),
        },
    }


def _padded(size: str) -> tuple[int, int]:
    padding = plan_padding(*SIZES[size], 16, "reflect_black")
    return padding.padded_height, padding.padded_width


_MEASURED = VAEConfig(block_out_channels=(16, 32, 32, 32), norm_groups=8)


def _decode_on_cpu(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    parallel = ALONE
    if size > 1:
        address = f"file://{folder}/meet"
        parallel = SequenceParallel.join(rank=rank, size=size, init_method=address, backend="gloo", timeout_seconds=300)
    torch.manual_seed(0)
    vae, heights = VideoVAE(_MEASURED).requires_grad_(False), split_rows(48, size)
    rows = RowShares(parallel, heights) if size > 1 else None
    options = VAEOptions(direct_norm=True, rows=rows)
    latents = torch.randn(1, 16, 2, heights[rank], 64)
    seconds = []
    with torch.inference_mode():
        for _ in range(3):
            parallel.agree(0)
            began = time.perf_counter()
            vae.decode(latents, options=options)
            parallel.agree(0)
            seconds.append(time.perf_counter() - began)
    if rank == 0:
        found = {"processes": size, "seconds": round(min(seconds), 3), "sent_bytes": parallel.sent.total() // 3}
        (Path(folder) / "found.json").write_text(json.dumps(found))
    parallel.leave()


def measure_gloo(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Decode 5 frames of 512x384 with a small VAE on processes of this machine; the best of three."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_decode_on_cpu, (size, folder), size)  # type: ignore[no-untyped-call, attr-defined]
            rows.append(json.loads((Path(folder) / "found.json").read_text()))
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw predicted efficiency and memory per rank."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for size in SIZES:
        of_size = [row for row in rows if row["size"] == size and row["model"] == "3B"]
        gpus = [row["gpus"] for row in of_size]
        left.plot(gpus, [100 * row["predicted_efficiency"] for row in of_size], marker="o", label=size)
        peaks = [row["memory"]["vae_decode_peak_bytes"] / 2**30 for row in of_size]
        right.plot(gpus, peaks, marker="o", label=size)
    left.set(xlabel="GPUs", ylabel="% of as many times as fast", title="Efficiency, 3B (predicted)", ylim=(0, 105))
    right.set(xlabel="GPUs", ylabel="GiB", title="Decoder's peak per rank, no weights (counted)", yscale="log")
    for axes in (left, right):
        axes.set_xticks([1, 2, 4, 8])
        axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Count, predict, measure, and keep the result as JSON with a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", default="1,2,4,8")
    parser.add_argument("--gloo", default="1,2", help="processes to measure; empty for none")
    options = parser.parse_args()
    vae, rows = build_vae(), []
    for size in SIZES:
        ones: dict[str, dict[str, Any]] = {}
        for num_ranks in map(int, options.gpus.split(",")):
            counted = count_vae(vae, *_padded(size), num_ranks)
            for model in MODELS:
                row = predict(model, size, num_ranks, counted, ones.get(model))
                ones.setdefault(model, row)
                rows.append(row)
                print(json.dumps(row))
    result = {
        "benchmark": "gang",
        "machine": describe_machine(),
        "chunk": f"{FRAMES} frames, bfloat16, weights not counted, slices of 4 frames",
        "rates": {
            "transformer_operations_per_second": OPERATIONS_PER_SECOND,
            "convolution_operations_per_second": CONVOLUTION_OPERATIONS_PER_SECOND,
            "nvlink_bytes_per_second": BYTES_PER_SECOND,
            "seconds_per_exchange": SECONDS_PER_EXCHANGE,
        },
        "rows": rows,
        "measured_gloo": measure_gloo([int(size) for size in options.gloo.split(",") if size]),
    }
    print(json.dumps(result["measured_gloo"]))
    (results_folder() / "gang.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, results_folder() / "gang.png")


if __name__ == "__main__":
    main()
