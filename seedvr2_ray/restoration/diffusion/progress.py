"""What a segment has behind it when memory runs out: finished stages are not done again, nor is a mistake."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from seedvr2_ray.restoration.diffusion.finish import Stage
from seedvr2_ray.restoration.planning.memory import MemoryLesson, MemoryPlan


class FinishedStage:
    """What a stage made of a segment, kept until frames leave: given out again once it was made in whole."""

    def __init__(self, num_latents: int) -> None:
        self._num_latents = num_latents
        self._pieces: list[Tensor] = []
        self._keeps = True

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to make."""
        return sum(len(piece) for piece in self._pieces) == self._num_latents

    def through(self, make: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
        """Yield what was made, or make it; ``make`` is called only where that is needed."""
        if self.is_complete:
            yield from self._pieces
            return
        self._pieces = []
        for piece in make():
            if self._keeps:
                self._pieces.append(piece)
            yield piece

    def forget(self) -> None:
        """Keep nothing any more: frames have left, so the segment is not begun again."""
        self._keeps, self._pieces = False, []


class MemoryLessons:
    """What running out of memory has shown, for all segments of a process."""

    def __init__(self) -> None:
        self.learned: list[MemoryLesson] = []
        self._at_work: Stage | None = None

    def watching(
        self, watch: Callable[[Stage], AbstractContextManager[object]]
    ) -> Callable[[Stage], AbstractContextManager[object]]:
        """Return a watch that also notes which stage is at work."""

        @contextmanager
        def noted(stage: Stage) -> Iterator[None]:
            self._at_work = stage
            with watch(stage):
                yield
            self._at_work = None

        return noted

    def learn(self, plan: MemoryPlan) -> MemoryLesson:
        """Remember that a plan did not fit in the stage at work."""
        stage, self._at_work = self._at_work, None
        planned = plan.stages.peak if stage is None else int(getattr(plan.stages, stage))
        self.learned.append(MemoryLesson(knobs=plan.knobs, stage=stage, planned_bytes=planned))
        return self.learned[-1]
