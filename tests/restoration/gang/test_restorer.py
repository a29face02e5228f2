"""Two processes behind the seam: the same pictures as one, whatever happens to either."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from seedvr2_ray.errors import CapacityError, GangError, InputError, MediaError, NotFiniteError
from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.gang.processes import LocalProcesses
from seedvr2_ray.restoration.gang.ranks import GangSpec, Timeouts
from seedvr2_ray.restoration.gang.restorer import GangRestorer
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.settings import RestoreSettings
from tests.restoration.gang.row_shards import RowShards, folders, processes_left
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

TIMEOUTS = Timeouts(start_seconds=240, silence_seconds=5, stall_seconds=10, stop_seconds=240)


def task_of(**changes):
    geometry = Geometry(source_width=32, source_height=24, width=64, height=48)
    return SegmentTask(
        **{
            "first_frame": 0,
            "num_frames": 12,
            "geometry": geometry,
            "settings": RestoreSettings(model="lanczos"),
            "output_depth": 8,
            **changes,
        }
    )


def batches(lengths=(5, 4, 3)):
    generator = torch.Generator().manual_seed(1)
    first = 0
    for length in lengths:
        data = torch.randint(0, 256, (length, 3, 24, 32), dtype=torch.uint8, generator=generator)
        yield Frames(data, tuple(range(first, first + length)), Fraction(1, 25))
        first += length


def pictures(restored):
    parts = list(restored)
    return torch.cat([part.data_TCHW for part in parts]), [pts for part in parts for pts in part.pts]


@pytest.fixture(scope="module")
def alone():
    return pictures(LanczosRestorer().restore(batches(), task_of()))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return RowShards(str(tmp_path_factory.mktemp("traces")))


@pytest.fixture(scope="module")
def gang(shards):
    """One gang for all tests: what happens to it in one must be forgotten in the next."""
    before = folders(os.getpid())
    spec = GangSpec(source=shards, settings=RestoreSettings(model="lanczos"), size=2, timeouts=TIMEOUTS)
    gang = GangRestorer(spec, lambda: LocalProcesses(None))
    yield gang
    gang.close()
    assert processes_left(shards.pids()) == []
    assert folders(os.getpid()) <= before


def restored_as_alone(gang, alone):
    data, pts = pictures(gang.restore(batches(), task_of()))
    return torch.equal(data, alone[0]) and pts == alone[1]


def test_a_gang_makes_the_frames_that_one_process_makes_segment_after_segment(gang, alone, shards):
    assert gang.identity == LanczosRestorer().identity
    first = gang.pids
    assert restored_as_alone(gang, alone)
    assert restored_as_alone(gang, alone)
    assert gang.pids == first
    assert len(processes_left(shards.pids())) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("kill-1", "rank 1 was ended by SIGKILL"),
        ("kill-0", "rank 0 was ended by SIGKILL"),
        ("stop-1", "rank 1 has shown no sign of life"),
        ("hang-1", "no rank has done a step"),
    ],
)
def test_a_rank_that_dies_or_hangs_ends_the_whole_gang_and_the_next_call_has_a_new_one(
    gang, alone, shards, fault, words
):
    first = gang.pids
    shards.order(fault)
    with pytest.raises(GangError, match=words):
        list(gang.restore(batches(), task_of()))
    assert processes_left(first) == []
    assert restored_as_alone(gang, alone)
    assert len(processes_left(shards.pids())) == 2


def test_a_gang_that_loses_a_rank_between_segments_is_ended_at_once_and_revived(gang, alone):
    first = gang.pids
    assert gang.loss is None
    os.kill(first[1], signal.SIGSTOP)
    wait_for(lambda: gang.loss is not None, "the loss to be noticed")
    assert "rank 1 has shown no sign of life" in gang.loss
    gang.revive()
    assert processes_left(first) == []
    assert gang.loss is None
    assert restored_as_alone(gang, alone)


def test_what_all_ranks_refuse_is_refused_and_the_gang_stays(gang, alone, shards):
    first = gang.pids
    shards.order("fail-all")
    with pytest.raises(NotFiniteError, match="no colours"):
        list(gang.restore(batches(), task_of()))
    assert shards.is_due("fail-all")
    assert restored_as_alone(gang, alone)
    assert gang.pids == first


def test_what_one_rank_alone_refuses_is_refused_and_the_gang_is_started_again(gang, alone, shards, monkeypatch):
    first = gang.pids
    monkeypatch.setattr(gang, "_spec", replace(gang._spec, timeouts=replace(TIMEOUTS, stop_seconds=5)))
    shards.order("fail-1")
    with pytest.raises(NotFiniteError, match="no colours"):
        list(gang.restore(batches(), task_of()))
    assert processes_left(first) == []
    assert restored_as_alone(gang, alone)


def test_memory_that_runs_out_before_the_first_frame_starts_the_gang_again_with_what_was_learned(alone, tmp_path):
    shards = RowShards(str(tmp_path), fault_at=0)
    spec = GangSpec(source=shards, settings=RestoreSettings(model="lanczos"), size=2, timeouts=TIMEOUTS)
    gang = GangRestorer(spec, lambda: LocalProcesses(None))
    try:
        first = gang.pids
        shards.order("memory-1")
        assert restored_as_alone(gang, alone)
        assert processes_left(first) == []
        assert {path.name for path in tmp_path.glob("heeded-*-1")} == {"heeded-0-1", "heeded-1-1"}
    finally:
        gang.close()


def test_memory_that_runs_out_later_is_told_and_the_next_call_heeds_it(gang, alone, shards):
    shards.order("memory-0")
    with pytest.raises(CapacityError, match="memory ran out"):
        list(gang.restore(batches(), task_of()))
    assert restored_as_alone(gang, alone)
    assert (Path(shards.folder) / "heeded-1-1").exists()


class Cancelled(Exception):
    pass


def test_a_segment_that_is_cancelled_leaves_the_ranks_ready_for_the_next(gang, alone):
    first, asked = gang.pids, []

    def check():
        asked.append(1)
        if len(asked) > 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(gang.restore(batches(), task_of(check_cancelled=check)))
    assert restored_as_alone(gang, alone)
    assert gang.pids == first


def test_a_reader_that_goes_away_leaves_the_ranks_ready_for_the_next(gang, alone):
    first = gang.pids
    stream = gang.restore(batches(), task_of())
    next(stream)
    stream.close()
    assert restored_as_alone(gang, alone)
    assert gang.pids == first


def test_a_source_that_fails_is_what_the_caller_is_told_and_the_ranks_stay(gang, alone):
    first = gang.pids

    def damaged():
        yield from batches((2,))
        raise MediaError("damaged")

    with pytest.raises(MediaError, match="damaged"):
        list(gang.restore(damaged(), task_of()))
    assert restored_as_alone(gang, alone)
    assert gang.pids == first


def test_ranks_take_no_more_frames_than_they_need_soon(gang):
    read = []

    def watched():
        for batch in batches((1,) * 40):
            read.append(1)
            yield batch

    stream = gang.restore(watched(), task_of(num_frames=40))
    next(stream)
    time.sleep(1)
    assert len(read) < 10
    stream.close()


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [("refused", InputError, "no such model"), ("deaf", GangError, "after 8 s not all ranks have")],
)
def test_a_gang_that_cannot_start_says_why_and_leaves_nothing(shards, model, error, words):
    before = folders(os.getpid())
    timeouts = Timeouts(start_seconds=120 if model == "refused" else 8)
    spec = GangSpec(source=shards, settings=RestoreSettings(model=model), size=2, timeouts=timeouts)
    with pytest.raises(error, match=words):
        GangRestorer(spec, lambda: LocalProcesses(None))
    assert folders(os.getpid()) <= before


def test_a_gang_that_is_forgotten_is_ended(shards):
    spec = GangSpec(source=shards, settings=RestoreSettings(model="lanczos"), size=2, timeouts=TIMEOUTS)
    gang = GangRestorer(spec, lambda: LocalProcesses(None))
    pids = gang.pids
    del gang
    gc.collect()
    assert processes_left(pids) == []


def test_ranks_whose_leader_is_killed_end_by_themselves(shards):
    program = (
        "import sys, time\n"
        "from tests.restoration.gang.test_restorer import *\n"
        "spec = GangSpec(source=RowShards(sys.argv[1]), settings=RestoreSettings(model='lanczos'), size=2)\n"
        "gang = GangRestorer(spec, lambda: LocalProcesses(None))\n"
        "print(*gang.pids, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, shards.folder], stdout=subprocess.PIPE) as leader:
        pids = [int(word) for word in leader.stdout.readline().split()]
        leader.kill()
    assert len(pids) == 2
    wait_for(lambda: not processes_left(pids) and not folders(leader.pid), "the ranks to end")


def test_two_gangs_of_one_machine_do_not_meet(shards, gang, alone):
    spec = GangSpec(source=shards, settings=RestoreSettings(model="lanczos"), size=2, timeouts=TIMEOUTS)
    other = GangRestorer(spec, lambda: LocalProcesses(None))
    try:
        results = []
        thread = threading.Thread(target=lambda: results.append(restored_as_alone(other, alone)))
        thread.start()
        results.append(restored_as_alone(gang, alone))
        thread.join()
        assert results == [True, True]
    finally:
        other.close()
