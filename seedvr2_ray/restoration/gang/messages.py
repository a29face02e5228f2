"""What the leader of a gang and its ranks say to each other, and the wire that carries it.

Every rank has two connections to the leader, over a socket in a folder that only their user can enter. On one of them
it asks and the leader answers; on the other it shows that it lives. Nothing of it goes through the group in which the
ranks compute: a device that hangs holds up no message, and what all ranks must do alike (go on, stop, which frames come
next) is decided once, by the leader.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import CollectiveBackend, SpStrategy
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    import torch

    from seedvr2_ray.models.parallel import SequenceParallel
    from seedvr2_ray.restoration.planning.memory import MemoryLesson


@runtime_checkable
class RankSource(Protocol):
    """Where the ranks of a gang get their restorers. Pickled to them."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Say who will restore, whatever the size of the gang."""

    def load_rank(self, settings: RestoreSettings, parallel: SequenceParallel, strategy: SpStrategy) -> Restorer:
        """Load one rank's restorer onto its device.

        Every rank of the gang is given the same frames and the same task and calls ``restore`` alike. Rank 0 yields
        the whole result, and what the others yield is not looked at.
        """


@runtime_checkable
class ReadsAhead(Protocol):
    """A rank's restorer that does not read frames when the others do."""

    @property
    def frames_ahead(self) -> int:
        """Frames that it may have read and others not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOrder:
    """What a process must know to become a rank."""

    rank: int
    size: int
    address: str
    """Of the leader's socket."""
    rendezvous: str
    """Where the ranks meet: an ``init_method`` of torch.distributed."""
    timeout_seconds: float
    """Of everything that ranks do together."""
    source: RankSource
    settings: RestoreSettings
    strategy: SpStrategy = "auto"
    environ: Mapping[str, str] = field(default_factory=dict)
    """Set before the first device is touched; says which GPU is this rank's."""
    lessons: tuple[MemoryLesson, ...] = ()
    """Of ranks that stood here before and ran out of memory."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word on a connection."""

    rank: int
    pid: int
    has_gpu: bool
    use: Literal["orders", "life"]


@dataclass(frozen=True, slots=True)
class Join:
    """To a rank: meet the others and load."""

    backend: CollectiveBackend


@dataclass(frozen=True, slots=True)
class Ready:
    """From a rank: it is loaded and has met the others."""

    identity: RestorerIdentity
    frames_ahead: int = 0
    """Frames that it may have read and others not, where that is more than what all gangs allow."""


@dataclass(frozen=True, slots=True)
class Begin:
    """To a rank: restore a segment."""

    task: SegmentTask


@dataclass(frozen=True, slots=True)
class Want:
    """From a rank: the batch of frames with this number, counted from 0."""

    number: int


@dataclass(frozen=True, slots=True)
class Check:
    """From a rank: may it go on? Asked between steps, and counted from 0; all ranks get the same answer to a number."""

    number: int


@dataclass(frozen=True, slots=True)
class Made:
    """From rank 0, with frames: these are done."""


@dataclass(frozen=True, slots=True)
class Ended:
    """From a rank: it is through with a segment, or has failed to load."""

    failure: BaseException | None = None
    was_stopped: bool = False
    lessons: tuple[MemoryLesson, ...] = ()
    """All that it knows, if it failed: its process is about to end."""


class Answer(Enum):
    """What the leader says to a rank that asks."""

    GO = "go on"
    STOP = "stop"
    NO_MORE = "that was the last batch"
    LEAVE = "the gang is over"


class Wire:
    """One end of a connection. Frames go as they lie in memory, not through pickle."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, message: object, frames: Frames | None = None) -> None:
        """Say something, with frames or without."""
        if frames is None:
            self.connection.send_bytes(pickle.dumps((message, None)))
            return
        data = frames.data_TCHW.detach().cpu().contiguous()
        header = (tuple(data.shape), data.dtype, frames.pts, frames.time_base)
        self.connection.send_bytes(pickle.dumps((message, header)))
        self.connection.send_bytes(_bytes_of(data))

    def receive(self) -> tuple[Any, Frames | None]:
        """Wait for what the other end says.

        Raises:
            EOFError, OSError: the other end is gone.
        """
        message, header = pickle.loads(self.connection.recv_bytes())
        if header is None:
            return message, None
        import torch  # Only where frames travel: whoever describes a gang loads it in vain.

        shape, dtype, pts, time_base = header
        data = torch.empty(shape, dtype=dtype)
        self.connection.recv_bytes_into(_bytes_of(data))
        return message, Frames(data, pts, time_base)

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


def _bytes_of(data: torch.Tensor) -> memoryview:
    return memoryview(data.view(-1).numpy()).cast("B")  # type: ignore[arg-type]  # An array is a buffer.


def portable(error: BaseException) -> BaseException:
    """Return an error that survives pickling: itself if it does, otherwise its words."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # Whatever it is made of, its words remain.
        again = None
    return error if type(again) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")
