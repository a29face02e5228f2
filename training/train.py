"""Train ``nano`` from nothing: ``python -m training.train --out training/runs/nano --minutes 60``.

The start is a model that returns its input (:mod:`training.initialise`), whose decoder is then fitted by
least squares (:mod:`training.regression`). From there both networks are trained end to end through the
one-step sampler, the decoder and the colour matching. Runs on a CPU or on CUDA; interrupted,
the same command continues. Every checkpoint tells what it cost.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.dataset import Dataset, DatasetPlan, build_dataset
from training.initialise import carries_signal
from training.losses import RAW_WEIGHT, clip_loss
from training.muon import Muon
from training.network import Nano, latent_shape
from training.regression import fit_decoder

FIT_STEP = 10**9
"""Number of the first batch for the least-squares start: beyond every step."""
COPYING_SHARE = 0.1
"""Learning rate of parameters on the path that copies, as a share of the others'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides the trained numbers, together with the data set's plan."""

    steps: int
    """0 when ``minutes`` decides, or, without minutes either, for the least-squares start alone."""
    minutes: float
    """Of training, over all interruptions; 0 when ``steps`` decides."""
    batch: int = 3
    crop: int = 48
    num_frames: int = 5
    lr: float = 2e-5
    warmup: int = 100
    average: float = 0.99
    """Decay of the running average of the weights, which is what is kept."""
    seed: int = 666
    fit_batches: int = 32
    """Batches of ``fit_batch`` clips for the least-squares start; 0 leaves it out."""
    fit_batch: int = 8

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done."""
        if self.steps:
            return step / self.steps
        # Without steps or minutes the least-squares start is all there is.
        return seconds / (60 * self.minutes) if self.minutes else 1.0

    def learning_rate(self, step: int, seconds: float) -> float:
        """Rise linearly, then fall as a cosine to a fiftieth."""
        decay = 0.51 + 0.49 * math.cos(math.pi * min(1.0, self.progress(step, seconds)))
        return self.lr * min(1.0, (step + 1) / self.warmup) * decay


class Trainer:
    """A run that can be saved after any step and continued as if it had not been."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.device = device
        self.nano = Nano(recipe.seed).to(device)
        self.average = Nano(recipe.seed).to(device).requires_grad_(False)
        self.optimisers = build_optimisers(self.nano)
        self.step = 0
        self.seconds = 0.0

    def fit_start(self, report: Callable[[str], None] = print) -> None:
        """Fit the decoder by least squares, on the CPU; belongs before the first step."""
        start, recipe = time.monotonic(), self.recipe
        if recipe.fit_batches:
            sizes = {"size": recipe.fit_batch, "crop": recipe.crop, "num_frames": recipe.num_frames}
            batches = (self.dataset.batch(FIT_STEP + i, **sizes, seed=recipe.seed) for i in range(recipe.fit_batches))
            self.nano.cpu()
            fit_decoder(self.nano, batches, report)
            self.nano.to(self.device)
        self.average.load_state_dict(self.nano.state_dict())
        self.seconds += time.monotonic() - start

    def train_step(self) -> dict[str, float]:
        """Take one step and return what it found."""
        recipe, start = self.recipe, time.monotonic()
        inputs, targets = self.dataset.batch(
            self.step, size=recipe.batch, crop=recipe.crop, num_frames=recipe.num_frames, seed=recipe.seed
        )
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        rate = recipe.learning_rate(self.step, self.seconds)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]
            optimiser.zero_grad()
        restored = self.nano(inputs, self._noise(len(inputs)))
        loss = clip_loss(restored.matched_BCTHW, targets, inputs)
        loss = loss + RAW_WEIGHT * clip_loss(restored.raw_BCTHW, targets, inputs)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.nano.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self._update_average()
        self.step += 1
        self.seconds += time.monotonic() - start
        with torch.no_grad():
            gain = psnr(restored.matched_BCTHW, targets) - psnr(inputs, targets)
            raw_gain = psnr(restored.raw_BCTHW, targets) - psnr(inputs, targets)
        return {"loss": loss.item(), "gain_db": gain.mean().item(), "raw_gain_db": raw_gain.mean().item(), "lr": rate}

    def _noise(self, clips: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        shape = latent_shape(clips, self.recipe.num_frames, self.recipe.crop, self.recipe.crop)
        return torch.randn(shape, generator=generator).to(self.device)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for kept, current in zip(self.average.parameters(), self.nano.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)

    def is_finished(self) -> bool:
        """Whether the recipe's steps or minutes are used up."""
        return self.recipe.progress(self.step, self.seconds) >= 1.0

    def save(self, path: Path) -> None:
        """Write everything that continuing needs; a crash leaves the old file or the new one."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "nano": self.nano.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it was made by another recipe.
        """
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(
                f"{path} was made by {state['recipe']}; continue with the same options or choose another --out"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.nano.load_state_dict(state["nano"])
        self.average.load_state_dict(state["average"])
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(values)


def build_optimisers(nano: Nano) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of residual branches and layers, AdamW for all else; the copying path at a tenth."""
    matrices, vectors, copying = [], [], []
    for name, parameter in nano.named_parameters():
        if carries_signal(name):
            copying.append(parameter)
        elif parameter.ndim >= 2:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    groups = [{"params": vectors, "share": 1.0}, {"params": copying, "share": COPYING_SHARE}]
    return (
        Muon([{"params": matrices, "share": 1.0}], lr=0.0),
        torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
    )


def psnr(clips_BCTHW: Tensor, targets_BCTHW: Tensor) -> Tensor:
    """Return each clip's peak signal-to-noise ratio in decibels; values in -1..1."""
    error = (clips_BCTHW.clamp(-1, 1) - targets_BCTHW).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp_min(1e-8))


def train(trainer: Trainer, out: Path, *, save_every: int = 100, report: Callable[[str], None] = print) -> Path:
    """Train until the recipe is used up, saving as it goes.

    Returns:
        The checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
        report(f"continuing after {trainer.step} steps and {trainer.seconds / 60:.1f} minutes")
    else:
        trainer.fit_start(report)
        trainer.save(checkpoint)
    sums: dict[str, float] = {}
    counted = 0
    while not trainer.is_finished():
        for name, value in trainer.train_step().items():
            sums[name] = sums.get(name, 0.0) + value
        counted += 1
        if counted == 25 or trainer.is_finished():
            means = {name: round(total / counted, 5) for name, total in sums.items()}
            line = {"step": trainer.step, "minutes": round(trainer.seconds / 60, 2), **means}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(json.dumps(line))
            sums, counted = {}, 0
        if trainer.step % save_every == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    cost = {"steps": trainer.step, "minutes": round(trainer.seconds / 60, 1), "device": describe_device(trainer.device)}
    (out / "cost.json").write_text(json.dumps(cost, indent=2) + "\n")
    report(f"trained {cost['steps']} steps in {cost['minutes']} minutes on {cost['device']}")
    return checkpoint


def describe_device(device: torch.device) -> str:
    """Name what a run took place on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} thread(s) of {platform.processor() or platform.machine()}"


def main() -> None:
    """Read the command line, make the data set if need be, and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--data", type=Path, help="folder of the data set; by default OUT/data")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for so long")
    length.add_argument("--steps", type=int, help="train for so many steps; 0: least-squares start only")
    parser.add_argument("--clips", type=int, default=DatasetPlan().num_clips, help="clips of the data set")
    parser.add_argument("--batch", type=int, default=Recipe.__dataclass_fields__["batch"].default)
    parser.add_argument("--lr", type=float, default=Recipe.__dataclass_fields__["lr"].default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = arguments.data or arguments.out / "data"
    build_dataset(data, DatasetPlan(num_clips=arguments.clips))
    recipe = Recipe(
        steps=arguments.steps or 0, minutes=arguments.minutes or 0.0, batch=arguments.batch, lr=arguments.lr
    )
    train(Trainer(recipe, Dataset.open(data), torch.device(arguments.device)), arguments.out)


if __name__ == "__main__":
    main()
