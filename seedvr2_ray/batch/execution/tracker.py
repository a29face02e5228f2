"""The driver's picture of the videos in flight: what to order next when something comes in. No Ray, no files."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from seedvr2_ray.batch.execution.finishing import PartOrder, order_part
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, outcome_of
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.restoration.work.remaining import plan_work

Order = PartOrder | Video
"""Something a CPU task is to do: finish a part, or publish a whole video."""


@dataclass(slots=True)
class _Progress:
    video: Video
    restored: set[str]
    parts: set[str]
    ordered: set[int] = field(default_factory=set)
    is_publishing: bool = False


class VideosInFlight:
    """Takes what comes back and says what to order next; settles each row of the manifest once.

    It knows videos only from their first returned segment to their end, so its size is that of the work
    in flight and not of the archive; of settled rows it keeps one byte.
    """

    def __init__(self, num_rows: int) -> None:
        self._videos: dict[int, _Progress] = {}
        self._early: defaultdict[int, list[SegmentResult]] = defaultdict(list)
        self._settled = bytearray(num_rows)
        self._later: dict[int, Failure] = {}
        self._outcomes: list[VideoOutcome] = []
        self._num_steps = 0

    def begin_pass(self) -> None:
        """Forget unfinished videos: they will be planned again from what is committed."""
        self._videos.clear()
        self._early.clear()
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
        return self._settled.count(0)

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

    def settle(self, outcome: VideoOutcome) -> None:
        """Note how a row ended; of several outcomes the first counts."""
        self._videos.pop(outcome.number, None)
        self._early.pop(outcome.number, None)
        if not self._settled[outcome.number]:
            self._settled[outcome.number] = 1
            self._num_steps += 1
            self._outcomes.append(outcome)

    def take_videos(self, row: VideosRow) -> Iterator[Order]:
        """Take videos that came without segments."""
        for outcome in row.outcomes:
            failure = outcome.failure
            if failure is None or failure.consequence == "set_aside":
                self.settle(outcome)
            else:
                self._put_off(outcome.number, failure)
        for video in row.videos:
            yield from self._meet(video)

    def take_result(self, result: SegmentResult) -> Iterator[Order]:
        """Take a segment that was worked on.

        Raises:
            DeploymentError: no segment can be restored with this installation.
        """
        number = result.video_number
        self._num_steps += result.state == "restored"
        if result.video is not None:
            yield from self._meet(result.video)
        if self._settled[number] or number in self._later:
            return
        progress = self._videos.get(number)
        if progress is None:
            self._early[number].append(result)
            return
        if result.failure is not None:
            self._fail(progress.video, result.failure)
        elif result.state == "not_needed":
            segment = progress.video.plan.segments[result.index]
            progress.parts.add(segment.part_address)
        else:
            progress.restored.add(result.address)
        yield from self._next_orders(number)

    def take_part(self, order: PartOrder, failure: Failure | None) -> Iterator[Order]:
        """Take a part that was ordered."""
        self._num_steps += failure is None
        progress = self._videos.get(order.video_number)
        if progress is None:
            return
        if failure is not None:
            self._fail(progress.video, failure)
            return
        progress.parts.add(order.segment.part_address)
        yield from self._next_orders(order.video_number)

    def take_published(self, video: Video, done: VideoOutcome | Failure) -> None:
        """Take a video that was ordered."""
        if isinstance(done, Failure):
            self._fail(video, done)
        else:
            self.settle(done)

    def _meet(self, video: Video) -> Iterator[Order]:
        number = video.row.number
        if self._settled[number] or number in self._videos or number in self._later:
            return
        self._videos[number] = _Progress(video, set(video.restored), set(video.parts))
        yield from self._next_orders(number)
        for early in self._early.pop(number, []):
            yield from self.take_result(early)

    def _next_orders(self, number: int) -> Iterator[Order]:
        progress = self._videos.get(number)
        if progress is None:
            return
        work = plan_work(progress.video.plan.segments, progress.restored, progress.parts)
        if work.is_done:
            if not progress.is_publishing:
                progress.is_publishing = True
                yield progress.video
            return
        for index in work.to_finish:
            if index not in progress.ordered:
                progress.ordered.add(index)
                yield order_part(progress.video, index)

    def _fail(self, video: Video, failure: Failure) -> None:
        if failure.consequence == "set_aside":
            self.settle(outcome_of(video.row, failure, video.source.content))
        else:
            self._put_off(video.row.number, failure)

    def _put_off(self, number: int, failure: Failure) -> None:
        if failure.consequence == "stop":
            raise DeploymentError(failure.error)
        self._videos.pop(number, None)
        self._early.pop(number, None)
        self._later[number] = failure
