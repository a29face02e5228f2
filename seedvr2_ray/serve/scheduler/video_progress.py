"""What is done and what is next of one planned job, as a runner knows it. No I/O."""

from collections import deque
from collections.abc import Iterator

from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.work.encoded_segments import blended_part_of, neighbourhood_of
from seedvr2_ray.restoration.work.remaining import Work, plan_work
from seedvr2_ray.serve.jobs import Progress
from seedvr2_ray.serve.workers.protocol import PartOrder, PreparedJob, PreviewOrder, PublishOrder, SegmentOrder

_WINDOW_SECONDS = 20.0
"""Over which the speed is measured."""


class VideoProgress:
    """One job between its plan and its master: says which orders to give, and takes what came of them."""

    def __init__(self, job_id: str, name: str, prepared: PreparedJob) -> None:
        """Go on from what is committed.

        Args:
            name: of the source's file.
        """
        assert prepared.plan is not None, "a published job has no progress"
        self.plan: Plan = prepared.plan
        self.has_preview = prepared.has_preview
        self._job_id = job_id
        self._name = name
        self._prepared = prepared
        self._restored = set(prepared.restored)
        self._parts = set(prepared.parts)
        self._ordered_parts: set[int] = set()
        self._has_asked_for_preview = False
        self._in_flight: dict[int, int] = {}
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def work(self) -> Work:
        """What is left to do."""
        return plan_work(self.plan.segments, self._restored, self._parts)

    @property
    def num_done(self) -> int:
        """Segments and parts that are committed: grows as long as the job advances."""
        return len(self._restored) + len(self._parts)

    @property
    def megapixels_per_frame(self) -> float:
        """Of the result's pictures."""
        return self.plan.recipe.geometry.width * self.plan.recipe.geometry.height / 1e6

    def segment_orders(self, max_tries: int, pool: str | None = None) -> list[SegmentOrder]:
        """Describe every segment that is still to be restored, for the replicas of a pool."""
        segments = self.plan.segments
        return [
            SegmentOrder(
                job_id=self._job_id,
                source=self._prepared.source,
                recipe=self.plan.recipe,
                segment=segments[index],
                blended_part=blended_part_of(segments, index),
                max_tries=max_tries,
                pool=pool,
            )
            for index in self.work.to_restore
        ]

    def part_orders(self, limit: int) -> Iterator[PartOrder]:
        """Describe at most so many of the parts that can be finished now and were not ordered yet."""
        ready = [index for index in self.work.to_finish if index not in self._ordered_parts]
        for index in ready[:limit]:
            self._ordered_parts.add(index)
            yield PartOrder(
                job_id=self._job_id,
                content=self._prepared.source.content,
                recipe=self.plan.recipe,
                around=neighbourhood_of(self.plan.segments, index),
            )

    def preview_order(self) -> PreviewOrder | None:
        """Describe the stills, if there are none yet and a segment is there to make them from; asked for once."""
        if self.has_preview or self._has_asked_for_preview:
            return None
        for segment in self.plan.segments:
            if segment.address in self._restored:
                self._has_asked_for_preview = True
                return PreviewOrder(
                    job_id=self._job_id,
                    source=self._prepared.source,
                    recipe=self.plan.recipe,
                    segment=segment,
                    result_address=self._prepared.result_address,
                )
        return None

    def publish_order(self) -> PublishOrder:
        """Describe the last step."""
        return PublishOrder(
            job_id=self._job_id,
            source=self._prepared.source,
            plan=self.plan,
            result_address=self._prepared.result_address,
            name=self._name,
        )

    def take_frames(self, index: int, num_frames: int, now: float) -> None:
        """So many more frames of a segment are restored."""
        self._in_flight[index] = self._in_flight.get(index, 0) + num_frames
        self._recent.append((now, num_frames))

    def take_back(self, index: int) -> None:
        """A segment's replica was lost with what it had done of it."""
        self._in_flight.pop(index, None)

    def take_restored(self, index: int) -> None:
        """A segment is committed."""
        self._in_flight.pop(index, None)
        self._restored.add(self.plan.segments[index].address)

    def take_part(self, order: PartOrder) -> None:
        """A part is committed."""
        self._parts.add(order.around.segment.part_address)

    def snapshot(self, now: float) -> Progress:
        """Sum up for the job's row."""
        to_restore = self.work.to_restore
        frames_left = sum(self.plan.segments[index].num_frames for index in to_restore)
        frames_left -= sum(self._in_flight.get(index, 0) for index in to_restore)
        total = self.plan.restored_frames
        speed = self._speed(now)
        return Progress(
            segments_done=len(self.plan.segments) - len(to_restore),
            segments_total=len(self.plan.segments),
            frames_done=total - frames_left,
            frames_total=total,
            frames_per_second=round(speed, 2),
            seconds_left=round(frames_left / speed, 1) if speed else None,
            has_preview=self.has_preview,
        )

    def _speed(self, now: float) -> float:
        while self._recent and self._recent[0][0] < now - _WINDOW_SECONDS:
            self._recent.popleft()
        if len(self._recent) < 2:
            return 0.0
        # The first of them tells when the window begins; its frames were restored before.
        frames = sum(num_frames for _, num_frames in self._recent) - self._recent[0][1]
        return frames / max(now - self._recent[0][0], 0.1)
