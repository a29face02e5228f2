"""Names of the attention kernels, for whoever only chooses one."""

from typing import Literal

AttentionBackend = Literal["sdpa", "varlen", "flash"]
BACKENDS: tuple[AttentionBackend, ...] = ("sdpa", "varlen", "flash")

CollectiveBackend = Literal["nccl", "gloo"]
"""What carries tensors between ranks: between GPUs, and between processors."""
SpStrategy = Literal["auto", "windows", "ulysses"]
"""How ranks share the transformer's work: whole windows, or heads; ``auto`` counts which takes less time."""
