"""Names of the attention kernels, for whoever only chooses one."""

from typing import Literal

AttentionBackend = Literal["sdpa", "varlen", "flash"]
BACKENDS: tuple[AttentionBackend, ...] = ("sdpa", "varlen", "flash")
