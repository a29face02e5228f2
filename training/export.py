"""Turn a checkpoint into the files that ship: ``python -m training.export --checkpoint RUN/checkpoint.pt``.

What ships is the running average of the weights in half precision. The same checkpoint always
gives the same bytes. Prints the lines that the catalogue wants.
"""

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import seedvr2_ray.models

SHIPPED_FOLDER = Path(seedvr2_ray.models.__file__).parent / "nano"
TRANSFORMER, VAE, TEXT = "transformer.safetensors", "vae.safetensors", "text.safetensors"
_COMPUTED_SUFFIX = ".rope.freqs"


def read_average(checkpoint: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a training checkpoint, on the CPU."""
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    average: dict[str, Tensor] = state["average"]
    return average


def export(average: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
    """Write the three files of the model.

    Args:
        average: state dict of :class:`~training.network.Nano`.

    Returns:
        The sha256 of every file by name.

    Raises:
        ValueError: a weight is not finite in half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        TRANSFORMER: _below(average, "transformer."),
        VAE: _below(average, "vae."),
        # Under one name, so that it serves as the positive and as the negative prompt: guidance changes nothing.
        TEXT: {"text": average["text_LC"]},
    }
    hashes = {}
    for name, tensors in parts.items():
        halves = {key: tensors[key].half().contiguous() for key in sorted(tensors)}
        for key, half in halves.items():
            if not half.isfinite().all():
                raise ValueError(f"{key} has values beyond half precision; the training diverged")
        save_file(halves, folder / name)
        hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return hashes


def _below(average: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in average.items()
        if name.startswith(prefix) and not name.endswith(_COMPUTED_SUFFIX)
    }


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=SHIPPED_FOLDER)
    arguments = parser.parse_args()
    for name, sha256 in export(read_average(arguments.checkpoint), arguments.folder).items():
        print(f"{name} {(arguments.folder / name).stat().st_size} {sha256}")


if __name__ == "__main__":
    main()
