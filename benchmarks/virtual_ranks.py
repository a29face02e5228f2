"""One rank of a gang on a GPU that is not there: what it holds, while the others exist in name only.

What others would hand it is made without data, of the shapes they would send; so a single process tells what each of
any number of ranks needs.
"""

from collections.abc import Sequence

from torch import Tensor

from seedvr2_ray.models.parallel import SequenceParallel


class VirtualRank(SequenceParallel):
    """A rank whose others always agree, and send tensors without data."""

    def agree(self, number: int) -> list[int]:
        """Return the number for each of them."""
        return [number] * self.size

    def _swap(self, pieces: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Whatever comes is there already."""


def busiest_rank(latent_rows: Sequence[int]) -> int:
    """Return the rank that holds most rows; of several the one with neighbours on both sides, which is handed more."""
    most = max(latent_rows)
    holders = [rank for rank, rows in enumerate(latent_rows) if rows == most]
    inner = [rank for rank in holders if 0 < rank < len(latent_rows) - 1]
    return (inner or holders)[0]
