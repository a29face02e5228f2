"""Ranks that take turns with SwiftVR's chunks give what one device gives, and leave nothing behind when they stop."""

import os
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.swiftvr.reae import memory_shapes
from seedvr2_ray.restoration.gang.processes import LocalProcesses
from seedvr2_ray.restoration.gang.ranks import GangSpec
from seedvr2_ray.restoration.gang.restorer import GangRestorer
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.swiftvr.ranks import SwiftVRRank
from seedvr2_ray.settings import RestoreSettings
from tests.models.swiftvr.tiny import CASES, golden, load_model
from tests.restoration.gang.row_shards import folders, processes_left
from tests.restoration.swiftvr.test_restorer import CPU, TIME_BASE, _clip, _joined, _restorer, _task

IDENTITY = RestorerIdentity("tiny", "0")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Threads:
    """What ranks in threads of one process hand each other."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.queues: dict[Any, queue.Queue[Tensor]] = defaultdict(queue.Queue)
        self._barrier = threading.Barrier(size)
        self._numbers = [0] * size

    def agree(self, rank: int, number: int) -> list[int]:
        self._numbers[rank] = number
        self._barrier.wait(120)
        numbers = list(self._numbers)
        self._barrier.wait(120)
        return numbers


class _Handed:
    def wait(self) -> None:
        pass


class ThreadRank(SequenceParallel):
    """A rank in a thread."""

    def __init__(self, rank: int, threads: Threads) -> None:
        super().__init__(rank, threads.size)
        self._threads = threads

    def agree(self, number: int) -> list[int]:
        return self._threads.agree(self.rank, number)

    def hand(self, mine: Tensor, to: int, *, tag: int, kind: str = "hand") -> Any:
        self._threads.queues[(self.rank, to, tag)].put(mine.clone())
        return _Handed()

    def take(self, shape: Any, dtype: torch.dtype, source: int, *, tag: int) -> Tensor:
        taken = self._threads.queues[(source, self.rank, tag)].get(timeout=120)
        assert (tuple(taken.shape), taken.dtype) == (tuple(shape), dtype)
        return taken


def in_threads(model: Any, size: int, clip: Any, task: Any) -> tuple[list[Frames], Threads, list[BaseException]]:
    """Restore a segment with so many ranks; returns rank 0's frames, and what ranks raised."""
    threads, made, raised = Threads(size), [], []

    def run(rank: int) -> None:
        parallel = ThreadRank(rank, threads)
        checks = task(rank)
        restorer = SwiftVRRank(model, IDENTITY, device=CPU, parallel=parallel)
        try:
            for frames in restorer.restore(clip(), checks):
                assert rank == 0, "the others yield nothing"
                made.append(frames)
        except BaseException as error:  # noqa: BLE001  # Looked at by the test.
            raised.append(error)

    running = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(240)
    return made, threads, raised


@pytest.fixture(scope="module")
def model():
    with torch.no_grad():
        return load_model()


@pytest.mark.parametrize(("name", "size"), [("short", 2), ("single", 2), ("overlap1", 2), ("overlap1", 3)])
def test_a_published_file_is_restored_as_published_by_ranks(name, size):
    published, case = golden("offline"), CASES["offline"][name]
    codes_TCHW = published[f"{name}.frames_u8"][: case["frames_written"]].permute(0, 3, 1, 2)
    num_frames, _, height, width = codes_TCHW.shape
    scale = case["upscale"]
    task = _task(num_frames, (height * scale, width * scale), (height, width), colour_match="none")
    clip = Frames(codes_TCHW, tuple(range(num_frames)), TIME_BASE)
    shared = load_model(window=(2, 2), overlap=case["dit_overlap"])
    made, _, raised = in_threads(shared, size, lambda: [clip], lambda rank: task)
    assert not raised
    restored, _ = _joined(made)
    difference = restored[::5].permute(0, 2, 3, 1).int() - published[f"{name}.out_u8"].int()
    assert int(difference.abs().max()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("num_frames", "size"), [(1, 2), (13, 2), (26, 2), (5, 3), (33, 3), (19, 4)])
def test_ranks_give_the_very_frames_of_one_device_and_leave_no_message_behind(model, size, num_frames):
    task = _task(num_frames, depth=16)
    whole, expected = _joined(_restorer(model).restore(_clip(num_frames), task))
    made, threads, raised = in_threads(model, size, lambda: _clip(num_frames), lambda rank: task)
    assert not raised
    pictures, pts = _joined(made)
    assert torch.equal(pictures, whole) and pts == expected
    assert all(waiting.empty() for waiting in threads.queues.values())


def test_alpha_goes_along(model):
    task = _task(20)
    whole, _ = _joined(_restorer(model).restore(_clip(20, channels=4), task))
    made, _, raised = in_threads(model, 2, lambda: _clip(20, channels=4), lambda rank: task)
    assert not raised and torch.equal(_joined(made)[0], whole)


class _Stopped(Exception):
    pass


@pytest.mark.parametrize(("at", "size"), [(0, 2), (1, 2), (2, 2), (3, 2), (4, 3)])
def test_ranks_that_are_stopped_in_one_place_leave_no_message_behind(model, size, at):
    def task(rank: int) -> Any:
        count = iter(range(at + 1))

        def check() -> None:
            if next(count) == at:
                raise _Stopped

        return _task(40, check=check)

    made, threads, raised = in_threads(model, size, lambda: _clip(40), task)
    assert [type(error) for error in raised] == [_Stopped] * size
    assert all(waiting.empty() for waiting in threads.queues.values())
    pts = [pts for frames in made for pts in frames.pts]
    assert pts == [7 * number for number in range(len(pts))]


def test_what_is_remembered_has_the_shapes_that_ranks_expect(model):
    frames_TCHW = torch.zeros(8, 3, 32, 64)
    with torch.no_grad():
        latents_TCHW, encoder = model.reae.encode(frames_TCHW, None)
        _, decoder = model.reae.decode(latents_TCHW, None)
    expected = ([tuple(past.shape) for past in encoder], [tuple(past.shape) for past in decoder])
    assert memory_shapes(model.config.reae, 32, 64) == expected


@dataclass(frozen=True)
class TinyRanks:
    """Where ranks in processes of their own get the tiny model."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        return IDENTITY

    def load_rank(self, settings: RestoreSettings, parallel: SequenceParallel, strategy: str) -> SwiftVRRank:
        torch.set_num_threads(1)
        return SwiftVRRank(load_model(overlap=1), IDENTITY, device=CPU, parallel=parallel)


@pytest.fixture(scope="module")
def gang() -> Iterator[GangRestorer]:
    spec = GangSpec(source=TinyRanks(), settings=RestoreSettings(model="swiftvr"), size=2)
    started = GangRestorer(spec, lambda: LocalProcesses(None))
    yield started
    started.close()
    assert processes_left(started.pids) == [] and folders(os.getpid()) == set()


@pytest.mark.slow
def test_a_gang_of_two_processes_gives_the_very_frames_of_one_also_after_it_was_stopped(gang):
    alone, pids = _restorer(load_model(overlap=1)), gang.pids
    for num_frames in (1, 33, 60):
        task = _task(num_frames)
        whole, expected = _joined(alone.restore(_clip(num_frames), task))
        pictures, pts = _joined(gang.restore(_clip(num_frames), task))
        assert torch.equal(pictures, whole) and pts == expected
        for after in (2, 5, 9):
            count = iter(range(after))

            def check(count: Iterator[int] = count) -> None:
                if next(count, None) is None:
                    raise _Stopped

            with pytest.raises(_Stopped):
                list(gang.restore(_clip(120), _task(120, check=check)))
            left = gang.restore(_clip(120), _task(120))
            assert next(left).pts[0] == 0
            left.close()
    assert gang.pids == pids, "nothing of it made the gang start anew"


@pytest.mark.slow
def test_a_gang_restores_a_published_file_as_published(gang):
    published, case = golden("offline"), CASES["offline"]["overlap1"]
    codes_TCHW = published["overlap1.frames_u8"][: case["frames_written"]].permute(0, 3, 1, 2)
    num_frames, _, height, width = codes_TCHW.shape
    scale = case["upscale"]
    task = _task(num_frames, (height * scale, width * scale), (height, width), colour_match="none")
    restored, _ = _joined(gang.restore([Frames(codes_TCHW, tuple(range(num_frames)), TIME_BASE)], task))
    difference = restored[::5].permute(0, 2, 3, 1).int() - published["overlap1.out_u8"].int()
    assert int(difference.abs().max()) <= 1
