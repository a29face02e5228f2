"""What excerpts of a video have restored, taken over into the work on the whole of it.

Addresses do not know of excerpts, so whatever has the same address is the same piece of work.
"""

from dataclasses import dataclass
from pathlib import Path

from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.work.first_pass import SHOTS
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED, is_needed
from seedvr2_ray.storage.commits import CommitStore


@dataclass(frozen=True, slots=True)
class EarlierWork:
    """The commits that excerpts have left."""

    store: CommitStore

    def share_first_pass(self, store: CommitStore) -> None:
        """Spare a store the look through the source, where an excerpt has made it."""
        for address in self.store.addresses(SHOTS):
            record = self.store.find(SHOTS, address)
            if record is not None:
                store.commit(SHOTS, address, record)

    def take_over(self, segments: tuple[Segment, ...], store: CommitStore, workspace: Path) -> None:
        """Commit again, in the store of the whole, what its plan needs of this. May be cut off and called again."""
        ours = self.store.addresses(PARTS)
        parts = store.addresses(PARTS)
        for segment in segments:
            if segment.part_address in ours - parts:
                self._copy(PARTS, segment.part_address, store, workspace)
        parts |= ours
        wanted = self.store.addresses(RESTORED) - store.addresses(RESTORED)
        for index, segment in enumerate(segments):
            if segment.address in wanted and is_needed(segments, index, parts):
                self._copy(RESTORED, segment.address, store, workspace)

    def _copy(self, kind: str, address: str, store: CommitStore, workspace: Path) -> None:
        record = self.store.find(kind, address)
        if record is not None:
            store.commit(kind, address, record, self.store.fetch_payload(kind, address, workspace))
