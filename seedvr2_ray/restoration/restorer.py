"""The seam every restorer fits: frames of one segment in, the same frames larger and better out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    from seedvr2_ray.restoration.planning.memory import MemoryLesson


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentTask:
    """What a restorer must know about a segment besides its frames."""

    first_frame: int
    """Number of the segment's first frame in the file. Noise is keyed by frame numbers, so that
    neighbouring segments that share frames draw the same noise for them."""
    num_frames: int | None
    """None where nobody knows yet, as in a live stream: for restorers whose catalogue entry ``takes_streams``."""
    geometry: Geometry
    settings: RestoreSettings
    output_depth: Literal[8, 16]
    """Bits of the codes to yield: uint8 or uint16."""
    plain_path: bool = False
    """Leave out every way of computing faster: asked for once more where those gave numbers that are no colours."""
    check_cancelled: Callable[[], None] = lambda: None
    """Called between steps of at most a few seconds; raises to stop."""

    @property
    def known_frames(self) -> int:
        """The number of frames, for a restorer that must know it before the first one comes.

        Raises:
            SettingsError: this is a stream whose end nobody knows.
        """
        if self.num_frames is None:
            raise SettingsError(
                "this model must know how many frames a segment has before it begins; cut the stream into segments, "
                "or choose a model that takes streams"
            )
        return self.num_frames


@dataclass(frozen=True, slots=True)
class RestorerIdentity:
    """Who restores: known from the catalogue before any weights are loaded."""

    name: str
    """Name in the catalogue, as ``RestoreSettings.model`` takes it."""
    digest: str
    """Identifies weights, arithmetic and code version; part of every segment's address."""


class Restorer(Protocol):
    """A loaded model, or a classical filter, that restores one segment at a time."""

    @property
    def identity(self) -> RestorerIdentity:
        """Who this is."""

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        """Restore one segment as a stream.

        Args:
            frames: the segment's frames in order, in batches of any length, at the source's size.
            task: what else is known. Without ``num_frames`` the segment ends where ``frames`` end, and what can leave
                by then has left: no more frames are pulled ahead than the model needs.

        Yields:
            As many frames with the same timestamps in the same order, in batches of any length,
            ``geometry.width`` x ``geometry.height``, of the asked depth, with alpha where the input has it.

        Raises:
            CapacityError: the segment does not fit into this machine's memory.
            SettingsError: the restorer must know ``num_frames`` and it is None.
            NotFiniteError: what would have come out is NaN or infinite; none of those frames was yielded.
        """


@runtime_checkable
class Closable(Protocol):
    """A restorer that holds more than memory, such as the processes of a gang."""

    def close(self) -> None:
        """Give it back; nothing of it is left when this returns."""


def close_restorer(restorer: object) -> None:
    """Give back what a restorer holds besides memory, if it does."""
    if isinstance(restorer, Closable):
        restorer.close()


@runtime_checkable
class LearnsOfMemory(Protocol):
    """A restorer that plans smaller once memory ran out; what it learned outlives it where others stand in."""

    @property
    def lessons(self) -> "Sequence[MemoryLesson]":
        """What it has learned or heeds."""

    def heed(self, lessons: "Sequence[MemoryLesson]") -> None:
        """Plan as if these had been learned here."""


@runtime_checkable
class SharedByRanks(Protocol):
    """A restorer that is several processes, with a device each."""

    @property
    def gang_size(self) -> int:
        """How many."""


def gang_size_of(restorer: object) -> int:
    """Return how many devices a restorer uses at once: 1 unless it is a gang."""
    return restorer.gang_size if isinstance(restorer, SharedByRanks) else 1
