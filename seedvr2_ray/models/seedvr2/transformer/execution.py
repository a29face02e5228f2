"""How a forward pass of the transformer is carried out, apart from what it computes."""

from dataclasses import dataclass

from seedvr2_ray.models.backends import AttentionBackend


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Choices of the machine. None of them changes the result beyond rounding."""

    attention: AttentionBackend = "sdpa"
    band_tokens: int = 131_072
    """Video tokens whose queries, keys, values and hidden activations exist at one time. The
    residual stream is whole; this bounds what comes on top of it."""
    skip_unused_text: bool = True
    """Leave out what the last layer computes for text, which nothing reads."""

    def __post_init__(self) -> None:
        if self.band_tokens < 1:
            raise ValueError(f"band_tokens must be at least 1, got {self.band_tokens}")


DEFAULT_EXECUTION = Execution()
