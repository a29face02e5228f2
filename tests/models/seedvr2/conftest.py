"""Two tiny transformers with published shapes and the vectors the reference computed with them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B, DiTConfig, WindowGrid
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
Golden = Callable[[str], dict[str, Tensor]]


def tiny_config(variant: str) -> DiTConfig:
    """The released shapes in small: head width times heads differs from the model's width on purpose."""
    released = {"3b": SEEDVR2_3B, "7b": SEEDVR2_7B}[variant]
    return replace(
        released,
        width=64,
        num_layers=4,
        num_heads=3,
        head_dim=32,
        text_dim=40,
        num_dual_layers={"3b": 2, "7b": 4}[variant],
        windows=WindowGrid(counts=(4, 16, 16)),
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work, and lose a lot on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Return the vectors below a prefix, by what follows it."""
    vectors = load_file(GOLDEN / "dit_cases.safetensors")

    def below(prefix: str) -> dict[str, Tensor]:
        found = {
            key.removeprefix(f"{prefix}."): value for key, value in vectors.items() if key.startswith(f"{prefix}.")
        }
        assert found, f"no vectors below {prefix}"
        return found

    return below


def cast_weights(transformer: SeedVR2Transformer, dtype: torch.dtype) -> None:
    """Keep the weights in the types in which they are loaded for computing in ``dtype``."""
    for name, parameter in transformer.named_parameters():
        parameter.data = parameter.data.to(parameter_dtype(dtype, name))


@pytest.fixture(params=["3b", "7b"])
def variant(request: pytest.FixtureRequest) -> str:
    """Both kinds of transformer."""
    name: str = request.param
    return name


@pytest.fixture
def tiny(variant: str) -> SeedVR2Transformer:
    """A tiny transformer with the weights the vectors were made with."""
    transformer = SeedVR2Transformer(tiny_config(variant))
    transformer.load_state_dict(load_file(GOLDEN / f"dit_weights_{variant}.safetensors"), strict=True)
    return transformer.requires_grad_(False)
