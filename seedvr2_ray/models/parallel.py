"""Several processes that compute one thing together: who they are, and what they send each other.

Networks do not know of ranks. What is applied to them from outside moves tensors with the collectives of this file, all
made of one: every rank hands every other one a tensor. Each rank makes sums for itself, in the order of ranks, so
that all of them hold the same bits; what is summed is small.

All ranks must call the same collectives in the same order.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from seedvr2_ray.errors import DeploymentError, RetryableError, SettingsError
from seedvr2_ray.models.backends import CollectiveBackend


class SequenceParallel:
    """One of several processes that share the work of a forward pass.

    Attributes:
        rank: which one this is, from 0.
        size: how many there are.
        sent: bytes this rank has handed to others, per kind of message.
    """

    def __init__(self, rank: int, size: int) -> None:
        """Describe a rank whose group exists; see :meth:`alone` and :meth:`join`."""
        if not 0 <= rank < size:
            raise SettingsError(f"a gang of {size} has the ranks 0 to {size - 1}, got rank {rank}")
        self.rank = rank
        self.size = size
        self.sent: Counter[str] = Counter()

    @classmethod
    def alone(cls) -> Self:
        """Return the only rank there is: no collective does anything."""
        return cls(0, 1)

    @classmethod
    def join(
        cls, *, rank: int, size: int, init_method: str, backend: CollectiveBackend, timeout_seconds: float
    ) -> Self:
        """Meet the other ranks; returns when all of them are there.

        With NCCL, tensors in host memory still travel by gloo: ranks agree on things without waiting for their devices.

        Args:
            init_method: ``tcp://host:port``, where rank 0 listens, or ``file://`` and a path that does not exist yet.
            timeout_seconds: how long to wait for the others, now and in every collective.

        Raises:
            DeploymentError: the backend cannot run on this machine.
            RetryableError: the others did not come, or the port is taken.
        """
        parallel = cls(rank, size)
        if size == 1:
            return parallel
        _require_backend(backend)
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo",
                init_method=init_method,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_seconds),
            )
            parallel.agree(0)
        except (RuntimeError, ValueError) as error:
            parallel.leave()
            reason = "another process listens at that address" if _is_taken(error) else "not all of them came in time"
            raise RetryableError(
                f"rank {rank} could not meet the {size} ranks of its gang within {timeout_seconds:g} s: {reason}; "
                "start the gang again at another address"
            ) from error
        return parallel

    def leave(self) -> None:
        """Give the group up; ranks that wait for this one fail. Leaving twice does nothing."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def all_to_all(
        self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]], kind: str = "all_to_all"
    ) -> list[Tensor]:
        """Hand every rank a tensor and get one from each.

        Args:
            pieces: one per rank, this one included; of one dtype and on one device. Empty ones are not sent.
            shapes: of what comes from each rank.
            kind: under which the bytes are counted.

        Returns:
            One tensor per rank; this rank's own piece as it is.
        """
        if self.size == 1:
            return list(pieces)
        self.sent[kind] += sum(piece.nbytes for rank, piece in enumerate(pieces) if rank != self.rank)
        received = [
            pieces[rank] if rank == self.rank else pieces[rank].new_empty(tuple(shape))
            for rank, shape in enumerate(shapes)
        ]
        with self._lost_contact_is_told():
            self._swap(pieces, received)
        return received

    def all_gather(
        self, mine: Tensor, lengths: Sequence[int] | None = None, *, dim: int = 0, kind: str = "all_gather"
    ) -> list[Tensor]:
        """Return every rank's tensor; they may differ in length along one dimension, or not at all."""
        if self.size == 1:
            return [mine]
        lengths = lengths or [mine.shape[dim]] * self.size
        shapes = [(*mine.shape[:dim], length, *mine.shape[dim + 1 :]) for length in lengths]
        return self.all_to_all([mine.contiguous()] * self.size, shapes, kind)

    def all_reduce(self, mine: Tensor, kind: str = "all_reduce") -> Tensor:
        """Return the sum over ranks, added in their order: the same bits everywhere."""
        if self.size == 1:
            return mine
        # Each rank adds up one part and hands the sum on: twice the tensor's bytes, however many ranks there are.
        parts = mine.flatten().tensor_split(self.size)
        lengths = [len(part) for part in parts]
        gathered = self.all_to_all(parts, [(lengths[self.rank],)] * self.size, kind)
        total = gathered[0].clone()
        for part in gathered[1:]:
            total += part
        return torch.cat(self.all_gather(total, lengths, kind=kind)).view(mine.shape)

    def broadcast(self, mine: Tensor, source: int = 0, kind: str = "broadcast") -> Tensor:
        """Return the tensor of one rank; those of the others say its shape, dtype and device."""
        if self.size == 1:
            return mine
        empty = mine.new_empty(0)
        is_source = self.rank == source
        pieces = [mine.contiguous() if is_source and rank != source else empty for rank in range(self.size)]
        shapes = [tuple(mine.shape) if not is_source and rank == source else (0,) for rank in range(self.size)]
        received = self.all_to_all(pieces, shapes, kind)
        return mine if is_source else received[source]

    def exchange_halo(
        self, up: Tensor | None, down: Tensor | None, kind: str = "halo"
    ) -> tuple[Tensor | None, Tensor | None]:
        """Hand rows to the neighbours and get theirs.

        Args:
            up: what the rank before needs of this one; None where no rank needs rows from below.
            down: what the rank after needs of this one; None where no rank needs rows from above.

        Returns:
            What the rank before hands down and what the rank after hands up, of the shapes of ``down`` and ``up``: the
            rows above and below this rank's own. None where there is no neighbour, or nothing is handed.
        """
        given = up if up is not None else down
        if self.size == 1 or given is None:
            return None, None
        before, after = self.rank - 1, self.rank + 1
        pieces = [given.new_empty(0)] * self.size
        shapes: list[tuple[int, ...]] = [(0,)] * self.size
        for neighbour, row, coming in ((before, up, down), (after, down, up)):
            if 0 <= neighbour < self.size:
                pieces[neighbour] = pieces[neighbour] if row is None else row.contiguous()
                shapes[neighbour] = (0,) if coming is None else tuple(coming.shape)
        received = self.all_to_all(pieces, shapes, kind)
        above = received[before] if before >= 0 and down is not None else None
        below = received[after] if after < self.size and up is not None else None
        return above, below

    def hand(self, mine: Tensor, to: int, *, tag: int, kind: str = "hand") -> "Handed":
        """Hand one rank a tensor that it will take, without waiting until it does.

        By host memory: a message that nobody takes yet must not hold up a device.

        Args:
            tag: tells apart what is handed over for different things.
        """
        held = mine.detach().cpu().contiguous()
        self.sent[kind] += held.nbytes
        with self._lost_contact_is_told():
            return Handed(self, dist.isend(_as_bytes(held), to, tag=tag), held)

    def take(self, shape: Sequence[int], dtype: torch.dtype, source: int, *, tag: int) -> Tensor:
        """Return what one rank hands over, in host memory; waits for it."""
        taken = torch.empty(tuple(shape), dtype=dtype)
        with self._lost_contact_is_told():
            dist.recv(_as_bytes(taken), source, tag=tag)
        return taken

    def agree(self, number: int) -> list[int]:
        """Return a number that each rank gives, without waiting for a device."""
        return [int(part) for part in self.all_gather(torch.tensor([number]), kind="agree")]

    def _swap(self, pieces: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Fill ``received`` with what other ranks hand this one."""
        # Bytes, because gloo does not carry every dtype; and it reads host memory only.
        by_host = pieces[0].is_cuda and "nccl" not in dist.get_backend_config()
        incoming = [part.new_empty(part.shape, device="cpu") if by_host else part for part in received]
        operations = []
        for rank in range(self.size):
            if rank == self.rank:
                continue
            if pieces[rank].numel():
                piece = pieces[rank].contiguous()
                operations.append(dist.P2POp(dist.isend, _as_bytes(piece.cpu() if by_host else piece), rank))
            if received[rank].numel():
                operations.append(dist.P2POp(dist.irecv, _as_bytes(incoming[rank]), rank))
        if not operations:
            return
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        if by_host:
            for rank, part in enumerate(received):
                if rank != self.rank:
                    part.copy_(incoming[rank])

    @contextmanager
    def _lost_contact_is_told(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RetryableError(
                f"rank {self.rank} lost contact with the other {self.size - 1} of its gang; "
                "the gang has to be started again"
            ) from error


class Handed:
    """A tensor on its way to another rank."""

    def __init__(self, parallel: SequenceParallel, work: "dist.Work | None", held: Tensor) -> None:
        self._parallel = parallel
        self._work = work
        self._held = held

    def wait(self) -> None:
        """Return when the other rank has it."""
        with self._parallel._lost_contact_is_told():
            if self._work is not None:
                self._work.wait()


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def _require_backend(backend: CollectiveBackend) -> None:
    if backend == "nccl" and not (dist.is_nccl_available() and torch.cuda.is_available()):
        raise DeploymentError(
            "ranks cannot talk by NCCL on this machine: "
            f"{'no CUDA device is visible' if dist.is_nccl_available() else 'this torch was built without it'}; "
            "choose gloo, which runs everywhere"
        )


def _is_taken(error: Exception) -> bool:
    return "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()


ALONE = SequenceParallel.alone()
"""For whoever works by itself; it sends nothing, so all of them may share it."""
