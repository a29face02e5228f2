"""Train ``nano`` from nothing: ``python -m training.train --out training/runs/nano --steps 12000``.

The start is a model that returns its input (:mod:`training.initialise`). From there both networks are trained
end to end through the one-step sampler, the decoder and the colour matching. Runs on a CPU or on CUDA; interrupted,
the same command continues. Every checkpoint tells what it cost.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.dataset import Dataset, DatasetPlan, build_dataset
from training.initialise import carries_signal
from training.losses import RAW_WEIGHT, clip_loss
from training.network import Nano, latent_shape
from training.regression import fit_linear_restoration

FIT_STEP = 10**9
"""Number of the first batch for the least-squares start: beyond every step."""
COPYING_SHARE = 0.1
"""Learning rate of parameters on the path that copies, as a share of the others'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides the trained numbers, together with the data set's plan."""

    steps: int
    batch: int = 2
    crop: int = 64
    num_frames: int = 5
    lr: float = 5e-4
    warmup: int = 100
    transformer: int = 2000
    """Last steps, in which the transformer is trained, too. The autoencoder has most of the effect at less cost."""
    decay: int = 2000
    """Last steps, over which the learning rate falls to nothing. Until then no step depends on how many will follow."""
    average: float = 0.995
    """Decay of the running average of the weights, which is what is kept."""
    bf16: bool = False
    """Multiply in bfloat16: about half the time where the processor can."""
    seed: int = 666
    fit_batches: int = 40
    """Batches of ``fit_batch`` clips for the least-squares start; 0 leaves it out."""
    fit_batch: int = 4

    def learning_rate(self, step: int) -> float:
        """Rise linearly, stay, and fall linearly."""
        return self.lr * min(1.0, (step + 1) / self.warmup, (self.steps - step) / self.decay)

    def continues(self, other: "Recipe", step: int) -> bool:
        """Whether the first steps, so many, are those of the other recipe, too."""
        if self == other:
            return True
        same = replace(self, steps=other.steps, decay=other.decay, transformer=other.transformer) == other
        return same and all(step <= one.steps - max(one.decay, one.transformer) for one in (self, other))


class Trainer:
    """A run that can be saved after any step and continued as if it had not been."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.device = device
        self.nano = Nano(recipe.seed).to(device)
        for parameter in self.nano.vae.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        self.average = Nano(recipe.seed).to(device).requires_grad_(False)
        self.optimiser = build_optimiser(self.nano)
        self.step = 0
        self.seconds = 0.0

    def fit_start(self) -> None:
        """Fit the linear part by least squares; belongs before the first step."""
        start, recipe = time.monotonic(), self.recipe
        if recipe.fit_batches:
            sizes = {"size": recipe.fit_batch, "crop": recipe.crop, "num_frames": recipe.num_frames}
            batches = (self.dataset.batch(FIT_STEP + i, **sizes, seed=recipe.seed) for i in range(recipe.fit_batches))
            self.nano.cpu()
            fit_linear_restoration(self.nano, batches)
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
        rate = recipe.learning_rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            noise = None if self.step < recipe.steps - recipe.transformer else self._noise(len(inputs))
            restored = self.nano(inputs, noise)
        loss = clip_loss(restored.matched_BCTHW, targets, inputs)
        loss = loss + RAW_WEIGHT * clip_loss(restored.raw_BCTHW, targets, inputs)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.nano.parameters(), 1.0)
        self.optimiser.step()
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

    def save(self, path: Path) -> None:
        """Write everything that continuing needs; a crash leaves the old file or the new one."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "nano": self.nano.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
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
        if not self.recipe.continues(Recipe(**state["recipe"]), state["step"]):
            raise ValueError(
                f"{path} was made by {state['recipe']}; continue with the same options or choose another --out"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.nano.load_state_dict(state["nano"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])


def build_optimiser(nano: Nano) -> torch.optim.Optimizer:
    """AdamW, with the copying path at a tenth."""
    branches: list[nn.Parameter] = []
    copying: list[nn.Parameter] = []
    for name, parameter in nano.named_parameters():
        (copying if carries_signal(name) else branches).append(parameter)
    groups = [{"params": branches, "share": 1.0}, {"params": copying, "share": COPYING_SHARE}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)


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
        trainer.fit_start()
    sums: dict[str, float] = {}
    counted = 0
    while trainer.step < trainer.recipe.steps:
        for name, value in trainer.train_step().items():
            sums[name] = sums.get(name, 0.0) + value
        counted += 1
        if counted == 50 or trainer.step == trainer.recipe.steps:
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
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--clips", type=int, default=DatasetPlan().num_clips, help="clips of the data set")
    parser.add_argument("--batch", type=int, default=Recipe.__dataclass_fields__["batch"].default)
    parser.add_argument("--transformer", type=int, default=Recipe.__dataclass_fields__["transformer"].default)
    parser.add_argument("--lr", type=float, default=Recipe.__dataclass_fields__["lr"].default)
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = arguments.data or arguments.out / "data"
    build_dataset(data, DatasetPlan(num_clips=arguments.clips))
    recipe = Recipe(
        steps=arguments.steps,
        batch=arguments.batch,
        lr=arguments.lr,
        bf16=arguments.bf16,
        transformer=arguments.transformer,
    )
    train(Trainer(recipe, Dataset.open(data), torch.device(arguments.device)), arguments.out)


if __name__ == "__main__":
    main()
