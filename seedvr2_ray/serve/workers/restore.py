"""Restoring one segment of a job. May be called again after any failure: what is committed is not done twice."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from seedvr2_ray.errors import MediaError, RetryableError
from seedvr2_ray.restoration.restorer import Restorer
from seedvr2_ray.restoration.work.encoded_segments import has_served
from seedvr2_ray.restoration.work.pieces import RESTORED
from seedvr2_ray.restoration.work.segment import PARTS, restore_segment
from seedvr2_ray.serve.observability.tracing import traced
from seedvr2_ray.serve.workers.protocol import (
    SegmentOrder,
)
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.commits import CommitStore


class StalePlanError(RetryableError):
    """A segment was planned for another version of its model than the one that is loaded; it must be planned again."""


class Stopped(Exception):  # Nothing went wrong.
    """Raised inside a restorer to stop it: whoever ordered the segment does not want it any more."""


@traced("restore")
def restore(
    layout: StorageLayout,
    order: SegmentOrder,
    restorer: Restorer,
    *,
    on_frames: Callable[[int], None] = lambda num_frames: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Restore one segment and commit it; return its record.

    Raises:
        StalePlanError: the restorer is not the one that the segment was planned for.
        MediaError: the segment ended too many processes.
        Stopped: or whatever else ``check_cancelled`` raises.
    """
    store, segment = layout.store_of(order.source.content), order.segment
    found = _done_before(order, store)
    if found is not None:
        return found
    if restorer.identity != order.recipe.restorer:
        raise StalePlanError(
            f"segment {segment.index} was planned for another version of {order.recipe.restorer.name} than runs now"
        )
    kind = f"deaths/{digest_of(order.job_id)[:16]}"
    # Noted before the work: a segment that kills its process is known by what it leaves behind.
    deaths = store.record_attempt(kind, segment.address) - 1
    try:
        if deaths >= order.max_tries:
            raise MediaError(
                f"segment {segment.index} (frames {segment.span.start}..{segment.span.stop - 1}) ended the process "
                f"that restored it {deaths} times; convert the file, or cut these frames out"
            )
        with layout.workspace() as workspace, layout.opened(order.source) as path:
            return restore_segment(
                order.recipe,
                segment,
                restorer,
                store,
                source_path=str(path),
                workspace=workspace,
                on_frames=on_frames,
                check_cancelled=check_cancelled,
            )
    finally:
        # Whoever gets here did not die of it.
        with suppress(RetryableError):
            store.clear_attempts(kind, segment.address)


def _done_before(order: SegmentOrder, store: CommitStore) -> dict[str, Any] | None:
    """Return the record of a segment that another job restored, even if its intermediate has served and is gone."""
    found = store.find(RESTORED, order.segment.address)
    if found is None and has_served(order.segment, order.blended_part, store):
        found = (store.find(PARTS, order.segment.part_address) or {}).get("restored")
    return found
