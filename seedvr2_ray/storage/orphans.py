"""What writers of commits left behind that were killed, or came second: files that no record names."""

import time

from seedvr2_ray.storage.backend import PART_PREFIX
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import Location


def remove_orphans(store: CommitStore, kind: str, *, older_than_seconds: float) -> int:
    """Delete them.

    Args:
        older_than_seconds: longer than any writer takes from its payload to its record.

    Returns:
        How many were deleted.
    """
    limit = time.time() - older_than_seconds
    removed = 0
    for part in ("payloads", "records"):
        folder = store.folder_of(kind, part)
        with translated(folder.url, "store"):
            for name in folder.backend.names(folder.path):
                place = folder.child(name)
                if _is_in_use(store, kind, part, name) or not _is_older(place, limit):
                    continue
                place.backend.remove(place.path)
                removed += 1
    return removed


def _is_in_use(store: CommitStore, kind: str, part: str, name: str) -> bool:
    if name.startswith(PART_PREFIX):
        return False
    if part == "records":
        return True
    commit = store.look(kind, name.rpartition("-")[0])
    return commit is not None and commit.payload is not None and commit.payload.name == name


def _is_older(place: Location, limit: float) -> bool:
    try:
        modified = place.backend.info(place.path).modified
    except FileNotFoundError:
        return False  # Its writer finished, or somebody else removed it.
    return modified is not None and modified < limit
