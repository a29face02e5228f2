"""Pairs of enlarged degraded clips and clean ones, made once and kept as two memory-mapped arrays.

Shape letters: N clips, B batch, T frames, C channels, H height, W width.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.canvases import Canvas, draw_canvas
from training.clips import draw_clip
from training.degradation import degrade, enlarge, random_degradation, to_bytes
from training.photographs import FOR_TRAINING, load_photograph


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPlan:
    """Everything that decides the bytes of a data set."""

    num_clips: int = 2400
    num_canvases: int = 48
    canvas_size: int = 448
    size: int = 128
    num_frames: int = 7
    photograph_share: float = 0.5
    x4_share: float = 0.45
    seed: int = 20260


def training_photographs() -> list[Canvas]:
    """Load the photographs for training, each also at 0.6 of its size, where it is sharper."""
    canvases: list[Canvas] = []
    for name in FOR_TRAINING:
        picture = load_photograph(name)
        canvases.append(picture)
        reduced = (int(picture.shape[1] * 0.6), int(picture.shape[0] * 0.6))
        if min(reduced) >= 220:
            canvases.append(np.asarray(Image.fromarray(picture).resize(reduced, Image.Resampling.BICUBIC)))
    return canvases


def make_pair(rng: np.random.Generator, canvases: list[Canvas], plan: DatasetPlan) -> tuple[Tensor, Tensor]:
    """Draw one clip and spoil it.

    Returns:
        The input as the network sees it and the clean clip, both T x 3 x size x size uint8.
    """
    clean = draw_clip(rng, canvases, size=plan.size, num_frames=plan.num_frames)
    scale = 4 if rng.random() < plan.x4_share else 2
    small = degrade(clean, random_degradation(rng, scale))
    return to_bytes(enlarge(small.float() / 255, plan.size, plan.size)), to_bytes(clean)


def build_dataset(folder: Path, plan: DatasetPlan) -> None:
    """Make the data set in ``folder`` unless the very same one is there.

    Each clip has a random generator of its own, so an interrupted build continues where it stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "plan.json"
    wanted = json.dumps(asdict(plan), sort_keys=True)
    if marker.exists() and marker.read_text() == wanted:
        return
    shape = (plan.num_clips, plan.num_frames, 3, plan.size, plan.size)
    progress = folder / "progress.json"
    done = 0
    if progress.exists():
        state = json.loads(progress.read_text())
        done = state["done"] if state["plan"] == wanted else 0
    mode = "r+" if done else "w+"
    inputs = np.lib.format.open_memmap(folder / "inputs.npy", mode=mode, dtype=np.uint8, shape=shape)
    targets = np.lib.format.open_memmap(folder / "targets.npy", mode=mode, dtype=np.uint8, shape=shape)
    drawn = [draw_canvas(np.random.default_rng((plan.seed, 0, i)), plan.canvas_size) for i in range(plan.num_canvases)]
    photographs = training_photographs()
    for index in range(done, plan.num_clips):
        rng = np.random.default_rng((plan.seed, 1, index))
        canvases = photographs if rng.random() < plan.photograph_share else drawn
        degraded, clean = make_pair(rng, canvases, plan)
        inputs[index], targets[index] = degraded.numpy(), clean.numpy()
        if index % 100 == 99:
            progress.write_text(json.dumps({"plan": wanted, "done": index + 1}))
    inputs.flush()
    targets.flush()
    marker.write_text(wanted)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The arrays of a built data set, opened for reading."""

    inputs_NTCHW: NDArray[np.uint8]
    targets_NTCHW: NDArray[np.uint8]

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Map the arrays that :func:`build_dataset` made."""
        return cls(np.load(folder / "inputs.npy", mmap_mode="r"), np.load(folder / "targets.npy", mmap_mode="r"))

    def batch(self, step: int, *, size: int, crop: int, num_frames: int, seed: int) -> tuple[Tensor, Tensor]:
        """Cut a batch of random crops, turned and mirrored at random.

        What is cut depends on (seed, step) alone, so a resumed run sees what an uninterrupted one would.

        Returns:
            Inputs and targets, B x 3 x T x H x W in -1..1.
        """
        rng = np.random.default_rng((seed, 2, step))
        pairs = [self._crop(rng, crop, num_frames) for _ in range(size)]
        inputs, targets = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return _to_network_range(inputs), _to_network_range(targets)

    def _crop(self, rng: np.random.Generator, crop: int, num_frames: int) -> tuple[NDArray[np.uint8], ...]:
        clips, frames, _, height, width = self.inputs_NTCHW.shape
        clip = int(rng.integers(clips))
        t = int(rng.integers(frames - num_frames + 1))
        y, x = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        pair = []
        for array in (self.inputs_NTCHW, self.targets_NTCHW):
            piece = np.rot90(array[clip, t : t + num_frames, :, y : y + crop, x : x + crop], turns, axes=(2, 3))
            pair.append(np.ascontiguousarray(piece[..., ::-1] if mirrored else piece))
        return tuple(pair)


def _to_network_range(clips_BTCHW: Tensor) -> Tensor:
    return clips_BTCHW.float().div_(127.5).sub_(1).transpose(1, 2).contiguous()
