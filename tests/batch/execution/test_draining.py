"""A machine that is to go: what is begun there, what is ended there, and what is handed back. No Ray."""

import queue
from pathlib import Path

import pytest

from seedvr2_ray.batch.execution.draining import Draining, gone_at
from seedvr2_ray.batch.execution.rows import rows_of_video
from seedvr2_ray.batch.execution.worker import SegmentWorker
from seedvr2_ray.restoration.work.failures import HandedBackError
from tests.batch.execution.one_video import FailingRestorers, job_in, restore_first, video_in
from tests.media.clips import make_clip

NOW = 1000.0
NEVER_SECONDS = 3600.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    make_clip(path, num_frames=14, cuts=(8,), size=(48, 32))
    return path


def test_a_machine_goes_when_ray_says_so():
    draining = {"b": 5000, "c": 0}
    assert [gone_at(machine, draining) for machine in "abc"] == [None, 5.0, 0]


@pytest.mark.parametrize(
    ("gone", "has_begun", "is_due"), [(None, 0, 0), (0.0, 1, 0), (NOW + 60, 1, 0), (NOW + 5, 1, 1)]
)
def test_work_goes_on_until_shortly_before_its_machine_goes(gone, has_begun, is_due):
    draining = Draining(lambda: gone, clock=lambda: NOW)
    draining.look()
    assert draining.has_begun == bool(has_begun)
    if is_due:
        with pytest.raises(HandedBackError):
            draining.check()
    else:
        draining.check()


@pytest.mark.slow
def test_a_drained_machine_ends_what_it_is_at_and_leaves_before_the_next_segment(clip, tmp_path):
    told: list[float | None] = [None]
    restorers, left = FailingRestorers(), []
    job = job_in(tmp_path, restorers)
    rows = list(rows_of_video(video_in(job, clip, tmp_path / "out.mp4")))
    draining = Draining(lambda: told[0], clock=lambda: NOW, look_seconds=NEVER_SECONDS)
    worker = SegmentWorker(job, leave=left.append, draining=draining)
    assert [result.state for result in worker.restore_rows(rows[:1])] == ["restored"]
    told[0] = NOW + 60
    draining.look()
    (result,) = worker.restore_rows(rows[1:])
    assert left == [0]
    assert result.failure is not None and result.failure.consequence == "later"
    assert restorers.calls == 1


@pytest.mark.slow
def test_who_has_nothing_to_do_leaves_a_drained_machine_too(clip, tmp_path):
    told: list[float | None] = [None]
    left: queue.Queue[int] = queue.Queue()
    job = job_in(tmp_path, FailingRestorers())
    draining = Draining(lambda: told[0], look_seconds=0.01)
    worker = SegmentWorker(job, leave=left.put, draining=draining)
    assert restore_first(job, video_in(job, clip, tmp_path / "out.mp4"), worker).state == "restored"
    assert left.empty()
    told[0] = 0.0
    assert left.get(timeout=240) == 0


def test_a_head_that_does_not_answer_for_a_while_is_asked_again():
    answers = iter([ConnectionError("the head is away"), None, ConnectionError("again")])
    left: queue.Queue[None] = queue.Queue()

    def ask():
        answer = next(answers, 0.0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    Draining(ask, look_seconds=0.01).watch(lambda: left.put(None))
    left.get(timeout=240)


@pytest.mark.slow
def test_a_segment_that_would_not_be_ready_in_time_is_handed_back_and_counts_as_nobodys_death(clip, tmp_path):
    told: list[float | None] = [None]

    class Noticed(FailingRestorers):
        def load(self, settings):
            told[0] = NOW + 5  # When it has begun.
            draining.look()
            return super().load(settings)

    job, left = job_in(tmp_path, Noticed()), []
    video = video_in(job, clip, tmp_path / "out.mp4")
    draining = Draining(lambda: told[0], clock=lambda: NOW, look_seconds=NEVER_SECONDS)
    result = restore_first(job, video, SegmentWorker(job, leave=left.append, draining=draining))
    assert left == [0] and result.failure is not None and result.failure.consequence == "later"
    assert video.store(job).attempt_notes("deaths/run1", video.plan.segments[0].address) == []
    assert restore_first(job, video).state == "restored"
