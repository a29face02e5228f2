"""The restorer's process as an ordinary object: retries, deaths, duplicates, CUDA errors. No Ray."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seedvr2_ray.batch.execution import worker as worker_module
from seedvr2_ray.batch.execution.finishing import PublishOrder, finish_part, publish_video, remove_work
from seedvr2_ray.batch.execution.rows import VideosRow, rows_of_video
from seedvr2_ray.batch.execution.tracker import CleaningOrder, VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.execution.worker import Company, Device, SegmentWorker
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import source_key
from seedvr2_ray.errors import DeploymentError, MediaError, StorageError
from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.storage.local_backend import LocalBackend
from tests.batch.execution.one_video import (
    SETTINGS,
    FailingRestorers,
    finish_video,
    job_in,
    plan,
    restore_first,
    video_in,
)
from tests.media.clips import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    make_clip(path, num_frames=30, cuts=(8,), size=(48, 32))
    return path


@pytest.mark.slow
def test_a_video_goes_through_plan_restore_finish_and_publish_and_is_then_skipped(clip, tmp_path):
    job = job_in(tmp_path)
    video = video_in(job, clip, tmp_path / "out.mp4")
    in_flight, worker = VideosInFlight(1), SegmentWorker(job)
    orders = []
    for result in worker.restore_rows(list(rows_of_video(video))):
        orders += list(in_flight.receive_result(result))
    while orders:
        order = orders.pop(0)
        if isinstance(order, CleaningOrder):
            assert remove_work(order.contents, job) is None
        elif isinstance(order, PublishOrder):
            orders += list(in_flight.receive_published(order.video, publish_video(order, job)))
        else:
            orders += list(in_flight.receive_part(order, finish_part(order, job)))
    (outcome,) = in_flight.take_outcomes()
    assert (outcome.state, outcome.figures["frames"], in_flight.num_open) == ("published", 30, 0)
    assert not list((tmp_path / "job/work").rglob("payloads/*")), "what has served is gone"
    again = plan(job, clip, tmp_path / "out.mp4")
    assert isinstance(again, VideoOutcome)
    assert (again.state, again.figures) == ("skipped", outcome.figures)
    # Even where the job's folder is gone, the sidecar says what the target was made from.
    elsewhere = plan(replace(job, folder=str(tmp_path / "other")), clip, tmp_path / "out.mp4")
    assert isinstance(elsewhere, VideoOutcome)
    assert (tmp_path / "job" / outcome.figures["picture"]).read_bytes().startswith(b"\xff\xd8")
    without_picture = {name: value for name, value in outcome.figures.items() if name != "picture"}
    assert (elsewhere.state, elsewhere.figures) == ("skipped", without_picture)
    refused = plan(job, clip, tmp_path / "out.mp4", crf=40)
    assert isinstance(refused, VideoOutcome) and refused.failure is not None
    assert "exists and was not made from this source with these settings" in refused.failure.error
    assert isinstance(plan(replace(job, overwrite=True), clip, tmp_path / "out.mp4", crf=40), Video)


@pytest.mark.slow
def test_an_error_that_passes_is_tried_again(clip, tmp_path):
    restorers = FailingRestorers([StorageError("away"), OSError("reset by peer")])
    job = job_in(tmp_path, restorers)
    result = restore_first(job, video_in(job, clip, tmp_path / "out.mp4"))
    assert (result.state, restorers.calls) == ("restored", 3)


@pytest.mark.slow
def test_an_error_that_does_not_pass_puts_the_video_off_to_another_pass(clip, tmp_path):
    job = job_in(tmp_path, FailingRestorers([StorageError("away")] * 9))
    result = restore_first(job, video_in(job, clip, tmp_path / "out.mp4"))
    assert result.failure is not None
    assert (result.state, result.failure.consequence) == ("failed", "later")


@pytest.mark.parametrize(
    ("error", "consequence"),
    [(MediaError("broken"), "set_aside"), (ValueError("ours"), "set_aside"), (DeploymentError("no"), "stop")],
)
def test_an_error_that_will_not_pass_is_not_tried_again(error, consequence, clip, tmp_path):
    restorers = FailingRestorers([error])
    job = job_in(tmp_path, restorers)
    result = restore_first(job, video_in(job, clip, tmp_path / "out.mp4"))
    assert result.failure is not None
    assert (restorers.calls, result.failure.consequence, result.failure.stage) == (1, consequence, "restore")
    assert type(error).__name__ in result.failure.error and result.failure.remedy


def test_a_segment_that_killed_its_process_three_times_is_not_begun_again_in_this_run(clip, tmp_path):
    restorers = FailingRestorers()
    job = job_in(tmp_path, restorers)
    video = video_in(job, clip, tmp_path / "out.mp4")
    address = video.plan.segments[0].address
    for _ in range(3):
        video.store(job).record_attempt("deaths/run1", address)
    result = restore_first(job, video)
    assert result.failure is not None and "died 3 times" in result.failure.error
    assert restorers.calls == 0
    assert restore_first(replace(job, run="run2"), video).state == "restored"


@pytest.mark.slow
def test_failures_that_raise_are_not_taken_for_deaths(clip, tmp_path):
    restorers = FailingRestorers([StorageError("away")] * 12)
    job = job_in(tmp_path, restorers)
    video = video_in(job, clip, tmp_path / "out.mp4")
    results = [restore_first(job, video) for _ in range(4)]
    assert all(result.failure and "away" in result.failure.error for result in results)
    assert restore_first(job, video).state == "restored"


def test_a_cuda_error_ends_the_process_because_the_device_is_lost_to_it(clip, tmp_path):
    job = job_in(tmp_path, FailingRestorers([torch.AcceleratorError("an illegal memory access", 700)]))
    left: list[int] = []
    restore_first(job, video_in(job, clip, tmp_path / "out.mp4"), SegmentWorker(job, leave=left.append))
    assert left == [1]


def test_a_committed_segment_is_found_and_not_restored_again(clip, tmp_path):
    restorers = FailingRestorers()
    job = job_in(tmp_path, restorers)
    video = video_in(job, clip, tmp_path / "out.mp4")
    assert [restore_first(job, video).state for _ in range(2)] == ["restored", "found"]
    assert restorers.calls == 1


def test_a_source_that_changed_since_it_was_planned_is_set_aside(clip, tmp_path):
    source = tmp_path / "film.mp4"
    source.write_bytes(clip.read_bytes())
    job = job_in(tmp_path)
    video = video_in(job, source, tmp_path / "out.mp4")
    with source.open("ab") as file:
        file.write(bytes(64))
    result = restore_first(job, video)
    assert result.failure is not None and "changed while the job was at work" in result.failure.error
    assert result.failure.consequence == "set_aside"


def test_a_touched_source_is_the_same_source(clip, tmp_path):
    source = tmp_path / "film.mp4"
    source.write_bytes(clip.read_bytes())
    job = job_in(tmp_path)
    video = video_in(job, source, tmp_path / "out.mp4")
    source.touch()
    assert restore_first(job, video).state == "restored"


@pytest.mark.slow
def test_copies_of_one_video_share_their_segments(clip, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    restorers = FailingRestorers()
    job = job_in(tmp_path, restorers)
    first, second = video_in(job, clip, tmp_path / "a.mp4"), video_in(job, copy, tmp_path / "b.mp4")
    assert restore_first(job, first).state == "restored"
    assert restore_first(job, second).state == "found"
    assert restorers.calls == 1


def test_what_travels_is_small_and_survives_pickling(clip, tmp_path):
    video = video_in(job_in(tmp_path), clip, tmp_path / "out.mp4")
    rows = list(rows_of_video(video))
    assert [row.video is not None for row in rows] == [True] + [False] * (len(rows) - 1)
    assert all(len(pickle.dumps(row)) < 6000 for row in rows[1:])
    assert pickle.loads(pickle.dumps(rows[0])) == rows[0]


def test_a_file_that_killed_whoever_probed_it_three_times_is_not_read_again_in_this_run(clip, tmp_path):
    job = job_in(tmp_path)
    video = video_in(job, clip, tmp_path / "out.mp4")
    for _ in range(3):
        job.log.record_attempt(f"planning/run1/{video.key[:2]}", video.key)
    refused = plan(job, clip, tmp_path / "out.mp4")
    assert isinstance(refused, VideoOutcome) and refused.failure is not None
    assert "died 3 times" in refused.failure.error
    assert isinstance(plan(replace(job, run="run2"), clip, tmp_path / "out.mp4"), Video)


def _delete(path):
    path.unlink()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [_delete, _cut, _flip_a_bit])
@pytest.mark.parametrize("name", ["plain.mp4", "100% sure.mp4", "shot_%04d.png", "frames/"])
def test_a_master_that_is_gone_or_not_what_was_published_is_made_again(clip, tmp_path, name, spoil):
    job = job_in(tmp_path)
    target = f"{tmp_path}/out/{name}"
    settings = {} if name.endswith(".mp4") else {"preset": "auto"}
    finish_video(job, clip, target, **settings)
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".json")
    before = {path: path.read_bytes() for path in files}
    assert files
    spoil(files[-1])
    # With the record of the job, and where only the sidecar is left to ask.
    for where in (job, replace(job, folder=str(tmp_path / "other"))):
        assert isinstance(plan(where, clip, target, **settings), Video)
    finish_video(job, clip, target, **settings)
    assert {path: path.read_bytes() for path in files} == before
    assert plan(job, clip, target, **settings).state == "skipped"


@pytest.mark.slow
def test_a_master_that_somebody_made_longer_is_not_replaced_unless_that_is_allowed(clip, tmp_path):
    job = job_in(tmp_path)
    target = tmp_path / "out.mp4"
    finish_video(job, clip, target)
    target.write_bytes(target.read_bytes() + b"tag")
    refused = plan(job, clip, target)
    assert refused.failure is not None and "longer than what was published" in refused.failure.error
    assert isinstance(plan(replace(job, overwrite=True), clip, target), Video)


@pytest.mark.slow
def test_a_master_is_read_again_only_when_it_was_touched_or_when_that_is_asked(clip, tmp_path, monkeypatch):
    job = job_in(tmp_path)
    target = tmp_path / "out.mp4"
    finish_video(job, clip, target)
    read = []
    real = LocalBackend.sha256
    monkeypatch.setattr(LocalBackend, "sha256", lambda self, path: read.append(path) or real(self, path))

    def num_reads(of=job):
        read.clear()
        assert plan(of, clip, target).state == "skipped"
        return read.count(str(target))

    assert num_reads() == 0
    assert num_reads(replace(job, verify=True)) == 1
    target.touch()
    assert [num_reads(), num_reads()] == [1, 0]
    assert [num_reads(replace(job, folder=str(tmp_path / "other"))) for _ in range(2)] == [1, 0]


def test_a_suspect_is_begun_alone_and_others_together():
    company, order = Company(), []
    with company.joined(alone=False):
        suspect = threading.Thread(target=lambda: _join(company, order, "suspect", alone=True))
        suspect.start()
        _join(company, order, "other", alone=False)
        assert order == ["other"]
    suspect.join(timeout=60)
    assert order == ["other", "suspect"]


def _join(company, order, name, *, alone):
    with company.joined(alone=alone):
        order.append(name)


@pytest.mark.slow
def test_a_segment_is_committed_while_the_next_one_has_the_device(clip, tmp_path, monkeypatch):
    job = job_in(tmp_path)
    video = video_in(job, clip, tmp_path / "out.mp4")
    rows = list(rows_of_video(video))[:2]
    worker, second_began = SegmentWorker(job), threading.Event()
    held, commit = Device.held, worker_module.commit_intermediate

    @contextmanager
    def noted(self):
        with held(self):
            if committing.is_set():
                second_began.set()
            yield

    committing = threading.Event()

    def waits_for_the_second(segment, made, store):
        committing.set()
        assert second_began.wait(60), "the device waits for a commit"
        return commit(segment, made, store)

    monkeypatch.setattr(Device, "held", noted)
    monkeypatch.setattr(worker_module, "commit_intermediate", waits_for_the_second)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(worker.restore_rows, rows[:1])
        assert committing.wait(60)
        second = threads.submit(worker.restore_rows, rows[1:])
        assert [each.state for each in (*first.result(), *second.result())] == ["restored", "restored"]


@pytest.mark.slow
def test_masters_of_several_kinds_from_one_source_are_restored_once_and_the_last_one_cleans_up(clip, tmp_path):
    restorers = FailingRestorers()
    job = job_in(tmp_path, restorers)
    in_flight, worker = VideosInFlight(2, {source_key(str(clip)): 2}), SegmentWorker(job)
    cleaned = 0
    for number, crf in enumerate((20, 30)):
        row = ManifestRow(
            number=number,
            where=f"row {number}",
            source=str(clip),
            target=str(tmp_path / f"{crf}.mp4"),
            settings=replace(SETTINGS, crf=crf),
        )
        video = plan_row(row, job, LANCZOS)
        assert isinstance(video, Video), video
        orders = []
        for result in worker.restore_rows(list(rows_of_video(video))):
            orders += list(in_flight.receive_result(result))
        orders += list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(video,))))
        while orders:
            order = orders.pop(0)
            if isinstance(order, CleaningOrder):
                cleaned += 1
            elif isinstance(order, PublishOrder):
                orders += list(in_flight.receive_published(order.video, publish_video(order, job)))
            else:
                orders += list(in_flight.receive_part(order, finish_part(order, job)))
        assert [each.state for each in in_flight.take_outcomes()] == ["published"]
        assert cleaned == number
    assert restorers.calls == len(video.plan.segments)
