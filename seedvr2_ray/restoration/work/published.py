"""Whether what a target's provenance speaks of still lies there: asked of the files, never of their names.

The size is looked at every time. The SHA-256 is computed when nothing says that the file is the one that was published:
a store's mark, or the time of its last change, says so while nobody touched it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seedvr2_ray.restoration.work.assemble import folder_of
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.backend import ObjectInfo
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import Location, open_location

State = Literal["whole", "missing", "damaged", "changed", "unknown"]
"""``damaged``: cut short, or of the right size with other bytes. ``changed``: longer than it was, so somebody wrote
to it. ``unknown``: the provenance says neither size nor hash."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a target."""

    state: State
    mark: str
    """The same for as long as nobody touches the files; empty where the store has nothing of the kind."""


@dataclass(frozen=True, slots=True)
class _Output:
    name: str
    size_bytes: int
    sha256: str


def look_at(target: str, sidecar: Mapping[str, Any], *, known_mark: str = "", verify: bool = False) -> Look:
    """Compare the files of a target with what its provenance says of them.

    Args:
        known_mark: of an earlier look that found them whole; an equal one spares reading them.
        verify: read them in any case.
    """
    outputs = _outputs_in(sidecar)
    if not outputs:
        return Look("unknown", "")
    places = [open_location(f"{folder_of(target)}{output.name}") for output in outputs]
    infos = [_info(place) for place in places]
    found = [info for info in infos if info is not None]
    if len(found) < len(outputs):
        return Look("missing", "")
    sizes = [(info.size, output.size_bytes) for info, output in zip(found, outputs, strict=True)]
    if any(size is not None and size > expected for size, expected in sizes):
        return Look("changed", "")
    if any(size is not None and size < expected for size, expected in sizes):
        return Look("damaged", "")
    mark = _mark_of(found)
    if (verify or not mark or mark != known_mark) and not all(_same_bytes(places, outputs)):
        return Look("damaged", mark)
    return Look("whole", mark)


def mark_of(target: str, sidecar: Mapping[str, Any]) -> str:
    """Return the mark of files that were published just now, without reading them back."""
    infos = [_info(open_location(f"{folder_of(target)}{output.name}")) for output in _outputs_in(sidecar)]
    return _mark_of([info for info in infos if info is not None])


def _outputs_in(sidecar: Mapping[str, Any]) -> list[_Output]:
    try:
        records = sidecar["target"]["outputs"]
        return [_Output(str(each["name"]), int(each["size_bytes"]), str(each["sha256"])) for each in records]
    except (KeyError, TypeError, ValueError):
        return []


def _info(place: Location) -> ObjectInfo | None:
    with translated(place.url, "store"):
        try:
            return place.backend.info(place.path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def _mark_of(infos: Sequence[ObjectInfo]) -> str:
    """Sum up the marks of several files. A local mark names a device, which differs from machine to machine."""
    marks = [info.mark if info.is_strong else info.modified and repr(info.modified) for info in infos]
    return digest_of(marks) if all(marks) else ""


def _same_bytes(places: Sequence[Location], outputs: Sequence[_Output]) -> Iterator[bool]:
    for place, output in zip(places, outputs, strict=True):
        with translated(place.url, "store"):
            yield place.backend.sha256(place.path) == output.sha256
