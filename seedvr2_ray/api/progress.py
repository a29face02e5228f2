"""A bar for people who wait, in a terminal and in a notebook."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from seedvr2_ray.restoration.planning.plan import Plan


class ProgressBar:
    """Shows the stage of a run, and how many of its frames are restored; a ``Progress`` of `restore`.

    Used as a context manager, so that the bar ends with the run, however that ends.
    """

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn()
        )
        self._task: TaskID = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, name: str) -> None:
        """Show another stage."""
        self._bar.update(self._task, description=name)

    def planned(self, plan: Plan, frames_to_restore: int) -> None:
        """Count towards so many frames."""
        self._bar.update(self._task, total=frames_to_restore)

    def restored(self, num_frames: int) -> None:
        """Count frames."""
        self._bar.advance(self._task, num_frames)
