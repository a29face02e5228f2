"""The driver's picture of the videos in flight: what to order next when something is received. No Ray, no files.

Each event costs a constant amount of work, whatever the length of a video: a part is looked at when its segment or the
one before is received, and a video counts the parts that it still lacks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from seedvr2_ray.batch.execution.finishing import PartOrder, PublishOrder, order_part
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, outcome_of
from seedvr2_ray.batch.manifest.normalise import source_key
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.storage.records import Commit


@dataclass(frozen=True, slots=True)
class CleaningOrder:
    """Work that nobody in the job needs any more."""

    contents: tuple[str, ...]


Order = PartOrder | PublishOrder | CleaningOrder
"""Something a CPU task is to do: finish a part, publish a whole video, or remove the work on some."""


@dataclass(slots=True)
class _InFlight:
    """A video that was planned and is not settled."""

    video: Video
    positions: Mapping[str, int]
    """Of segments, by the address of their intermediates."""
    missing: set[str]
    """Addresses of the parts that are not finished."""
    is_publishing: bool = False

    @property
    def segments(self) -> Sequence[Segment]:
        return self.video.plan.segments

    def around(self, address: str) -> Iterator[int]:
        """Yield the positions of the parts that take frames of an intermediate."""
        index = self.positions.get(address)
        if index is None:
            return
        yield index
        if index + 1 < len(self.segments) and self.segments[index + 1].overlap:
            yield index + 1

    def needed_for(self, index: int) -> list[str]:
        """Return the addresses of the intermediates that a part is made of."""
        first = index - 1 if self.segments[index].overlap else index
        return [self.segments[position].address for position in range(first, index + 1)]


@dataclass(slots=True)
class _Content:
    """The work on one content, shared by all videos that have it: copies, and masters of several kinds."""

    restored: dict[str, Commit | None] = field(default_factory=dict)
    """Intermediates by address, with their commits as far as they were told."""
    finished: dict[str, Commit | None] = field(default_factory=dict)
    """Parts by address."""
    ordered: set[str] = field(default_factory=set)
    """Parts, by address."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """Of intermediates."""
    videos: dict[int, _InFlight] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)
    """Of every part that is wanted and not finished: the intermediates it is made of."""
    users: Counter[str] = field(default_factory=Counter)
    """Parts that an intermediate is still wanted for."""
    served: list[str] = field(default_factory=list)
    """Intermediates that nobody wants any more, and that no order was told to delete."""


class VideosInFlight:
    """Takes what is received and says what to order next; settles each row of the manifest once.

    It knows videos only from their first returned segment to their end, so its size is that of the work
    in flight and not of the archive; of settled rows it keeps one byte.
    """

    def __init__(self, num_rows: int, sharers: Mapping[bytes, int] | None = None, *, keep_work: bool = False) -> None:
        """Begin with nothing in flight.

        Args:
            sharers: rows that name one source, of the sources that several rows name, by their key. Work on such a
                source stays until all of them are planned.
            keep_work: order no cleaning.
        """
        self._contents: dict[str, _Content] = {}
        self._content_of: dict[int, str] = {}
        self._settled = bytearray(num_rows)
        self._num_open = num_rows
        self._later: dict[int, Failure] = {}
        self._unmet = dict(sharers or {})
        self._quarantined: set[str] = set()
        self._outcomes: list[VideoOutcome] = []
        self._num_steps = 0
        self._keep_work = keep_work

    def begin_pass(self) -> None:
        """Forget unfinished videos: they will be planned again from what is committed."""
        self._contents.clear()
        self._content_of.clear()
        self._later.clear()

    def open_rows(self) -> frozenset[int]:
        """Return the numbers of the rows that are not settled."""
        return frozenset(number for number, settled in enumerate(self._settled) if not settled)

    def is_settled(self, number: int) -> bool:
        """Say whether a row has its outcome."""
        return bool(self._settled[number])

    @property
    def num_open(self) -> int:
        """Rows that have no outcome yet."""
        return self._num_open

    @property
    def num_steps(self) -> int:
        """Segments restored, parts finished and rows settled so far: it grows as long as the job advances."""
        return self._num_steps

    def failure_of(self, number: int) -> Failure | None:
        """Return what stopped a row in this pass, if it may do better in another."""
        return self._later.get(number)

    def take_outcomes(self) -> list[VideoOutcome]:
        """Return the outcomes that came up since the last call."""
        taken, self._outcomes = self._outcomes, []
        return taken

    def settle(self, outcome: VideoOutcome) -> Iterator[CleaningOrder]:
        """Note how a row ended; of several outcomes the first counts."""
        self._forget(outcome.number)
        if self._settled[outcome.number]:
            return
        self._settled[outcome.number] = 1
        self._num_open -= 1
        self._num_steps += 1
        self._outcomes.append(outcome)
        if outcome.state == "quarantined":
            self._quarantined.add(outcome.content)
        elif outcome.state == "published":
            yield from self._clean(outcome.content, outcome.source)

    def receive_videos(self, row: VideosRow) -> Iterator[Order]:
        """Take videos that were planned and have nothing to restore."""
        for outcome in row.outcomes:
            self._count_met(outcome.source)
            failure = outcome.failure
            if failure is None or failure.consequence == "set_aside":
                yield from self.settle(outcome)
            else:
                self._put_off(outcome.number, failure)
        for video in row.videos:
            yield from self._meet(video)

    def receive_result(self, result: SegmentResult) -> Iterator[Order]:
        """Take a segment that was worked on: for its own video, and for all that share its content.

        Raises:
            DeploymentError: no segment can be restored with this installation.
        """
        number = result.video_number
        self._num_steps += result.state == "restored"
        if result.video is not None:
            yield from self._meet(result.video)
        content = self._contents.get(result.content)
        if content is None:
            if self._settled[number] or number in self._later:
                return
            content = self._contents[result.content] = _Content()
        if result.failure is not None:
            content.failures[result.address] = result.failure
            for video in [each for each in content.videos.values() if result.address in each.positions]:
                yield from self._fail(video.video, result.failure)
            return
        if result.state == "not_needed":
            yield from self._note_finished(content, result.part_address, result.commit)
            return
        content.restored[result.address] = result.commit
        for video in list(content.videos.values()):
            for index in video.around(result.address):
                yield from self._order_if_ready(content, video, index)

    def receive_part(self, order: PartOrder, done: Commit | Failure) -> Iterator[Order]:
        """Take a part that was ordered."""
        content = self._contents.get(order.content)
        if content is None:
            return
        if isinstance(done, Commit):
            self._num_steps += 1
            yield from self._note_finished(content, order.segment.part_address, done)
            return
        content.ordered.discard(order.segment.part_address)
        for video in list(content.videos.values()):
            if order.segment.part_address in video.missing:
                yield from self._fail(video.video, done)

    def receive_published(self, video: Video, done: VideoOutcome | Failure) -> Iterator[Order]:
        """Take a video that was ordered."""
        if isinstance(done, Failure):
            yield from self._fail(video, done)
        else:
            yield from self.settle(done)

    def _meet(self, video: Video) -> Iterator[Order]:
        number = video.row.number
        if self._settled[number] or number in self._content_of or number in self._later:
            return
        self._count_met(video.row.source)
        content = self._contents.setdefault(video.source.content, _Content())
        content.restored = dict.fromkeys(video.restored) | content.restored
        content.finished = dict.fromkeys(video.parts) | content.finished
        segments = video.plan.segments
        met = _InFlight(
            video,
            {segment.address: index for index, segment in enumerate(segments)},
            {segment.part_address for segment in segments} - content.finished.keys(),
        )
        self._content_of[number] = video.source.content
        content.videos[number] = met
        failure = next((content.failures[each] for each in met.positions if each in content.failures), None)
        if content.failures and failure is not None:
            yield from self._fail(video, failure)
            return
        for index, segment in enumerate(segments):
            if segment.part_address in met.missing and segment.part_address not in content.inputs:
                content.inputs[segment.part_address] = met.needed_for(index)
                content.users.update(content.inputs[segment.part_address])
        for index in range(len(segments)):
            yield from self._order_if_ready(content, met, index)
        yield from self._publish_if_whole(content, met)

    def _order_if_ready(self, content: _Content, video: _InFlight, index: int) -> Iterator[Order]:
        part = video.segments[index].part_address
        if part not in video.missing or part in content.ordered:
            return
        needed = video.needed_for(index)
        if all(address in content.restored for address in needed):
            content.ordered.add(part)
            restored = {address: commit for address in needed if (commit := content.restored[address]) is not None}
            served = {address: content.restored.pop(address, None) for address in content.served}
            content.served = []
            yield order_part(video.video, index, restored=restored, served=served)

    def _note_finished(self, content: _Content, part: str, commit: Commit | None) -> Iterator[Order]:
        content.finished[part] = commit
        content.ordered.discard(part)
        for address in content.inputs.pop(part, ()):
            content.users[address] -= 1
            if not content.users[address]:
                del content.users[address]
                if not self._is_wanted_later(content):
                    content.served.append(address)
        for video in list(content.videos.values()):
            video.missing.discard(part)
            yield from self._publish_if_whole(content, video)

    def _publish_if_whole(self, content: _Content, video: _InFlight) -> Iterator[Order]:
        if not video.missing and not video.is_publishing:
            video.is_publishing = True
            addresses = (segment.part_address for segment in video.segments)
            known = {address: commit for address in addresses if (commit := content.finished.get(address)) is not None}
            yield PublishOrder(video=video.video, parts=known)

    def _is_wanted_later(self, content: _Content) -> bool:
        """Whether a row that is not planned yet names the source of one of these videos."""
        if self._keep_work:
            return True
        return any(source_key(each.video.row.source) in self._unmet for each in content.videos.values())

    def _count_met(self, source: str) -> None:
        if not self._unmet:
            return
        key = source_key(source)
        if key in self._unmet:
            self._unmet[key] -= 1
            if self._unmet[key] <= 0:
                del self._unmet[key]

    def _clean(self, content: str, source: str) -> Iterator[CleaningOrder]:
        is_kept = self._keep_work or content in self._quarantined or content in self._contents
        if content and not is_kept and source_key(source) not in self._unmet:
            yield CleaningOrder((content,))

    def _fail(self, video: Video, failure: Failure) -> Iterator[CleaningOrder]:
        if failure.consequence == "set_aside":
            yield from self.settle(outcome_of(video.row, failure, video.source.content))
        else:
            self._put_off(video.row.number, failure)

    def _put_off(self, number: int, failure: Failure) -> None:
        if failure.consequence == "stop":
            raise DeploymentError(failure.error)
        self._forget(number)
        if not self._settled[number]:
            self._later[number] = failure

    def _forget(self, number: int) -> None:
        name = self._content_of.pop(number, "")
        content = self._contents.get(name)
        if content is not None:
            content.videos.pop(number, None)
            if not content.videos:
                del self._contents[name]
