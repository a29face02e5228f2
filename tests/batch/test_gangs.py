"""An archive restored by gangs on simulated machines: whatever happens to them, the work is done and they are gone."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import ray

from seedvr2_ray.batch.bulk import run_bulk
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.gang.placement import bundles_of
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from tests.batch.archives import SETTINGS, Quiet, request_for
from tests.batch.drive_gangs import POOL
from tests.gang.machines import ON_MACHINES, machines
from tests.media.clips import make_clip
from tests.restoration.gang.row_shards import RowShards, processes_left
from tests.waiting import wait_for

pytestmark = ON_MACHINES


@pytest.fixture(scope="module")
def fleet():
    with machines(2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    make_clip(folder / "video.mp4", num_frames=30, size=(64, 48), cuts=(15,))
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive, tmp_path_factory):
    target = tmp_path_factory.mktemp("undisturbed") / "video.mp4"
    restore_video(str(archive / "video.mp4"), str(target), SETTINGS, LANCZOS, LanczosRestorer, report=False)
    return hashlib.sha256(target.read_bytes()).hexdigest()


@pytest.fixture
def shards(fleet, tmp_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    shards = RowShards(str(folder))
    yield shards
    fleet.wait_until_nothing_is_left(shards)


def request(archive, output, shards, tmp_path, pool=POOL):
    return request_for(str(archive), str(output), shards, tmp_path / "scratch", pool=pool, timeout_seconds=15.0)


def digest(output):
    return hashlib.sha256((output / "video.mp4").read_bytes()).hexdigest()


def meanwhile(happen):
    """Do something in a thread, and fail with what it fails with."""
    failures = []

    def run():
        try:
            happen()
        except BaseException as error:  # noqa: BLE001  # Raised where the test sees it.
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join()
        assert failures == []

    return join


def test_two_archives_in_a_row_have_their_gpus_one_after_the_other(fleet, shards, archive, undisturbed, tmp_path):
    for name in ("one", "two"):
        run_bulk(request(archive, tmp_path / name, shards, tmp_path), Quiet())
        assert digest(tmp_path / name) == undisturbed
        fleet.wait_until_nothing_is_left(shards)
    assert len(shards.pids()) in (4, 6, 8)


def test_a_gang_may_be_put_into_a_placement_group_that_was_made_for_it(fleet, shards, archive, undisturbed, tmp_path):
    pool = replace(POOL, placement_group="reserved")
    with pytest.raises(DeploymentError, match="no placement groups of this cluster are called 'reserved'"):
        run_bulk(request(archive, tmp_path / "out", shards, tmp_path, pool), Quiet())
    group = ray.util.placement_group(
        bundles_of(2, num_gpus=1, num_cpus=0.5), strategy="STRICT_PACK", name="reserved", lifetime="detached"
    )
    try:
        ray.get(group.ready())
        with pytest.raises(DeploymentError, match="has 3 bundles .* a gang of 3 needs 4"):
            run_bulk(request(archive, tmp_path / "out", shards, tmp_path, replace(pool, gang_size=3)), Quiet())
        run_bulk(request(archive, tmp_path / "out", shards, tmp_path, pool), Quiet())
        assert digest(tmp_path / "out") == undisturbed
        assert len(shards.pids()) == 2
    finally:
        ray.util.remove_placement_group(group)


def test_ranks_and_a_leader_that_are_lost_in_mid_segment_leave_the_archive_the_same_bytes(
    fleet, shards, archive, undisturbed, tmp_path
):
    shards.hold(SETTINGS.seed)

    def disturb():
        for number, fault in enumerate(("kill a rank", "stop a rank", "kill the leader"), start=1):
            wait_for(lambda: shards.segments() >= number, f"a segment to be at work, before {fault}")  # noqa: B023
            ranks = processes_left(shards.pids())
            if fault == "kill a rank":
                os.kill(shards.pid_of(1), signal.SIGKILL)
            elif fault == "stop a rank":
                os.kill(shards.pid_of(0), signal.SIGSTOP)
            else:
                (leader,) = fleet.workers("MapWorker")
                os.kill(leader, signal.SIGKILL)
            wait_for(lambda: not processes_left(ranks), f"the old ranks to go, after {fault}")  # noqa: B023
        shards.let_go(SETTINGS.seed)

    join = meanwhile(disturb)
    run_bulk(request(archive, tmp_path / "out", shards, tmp_path, replace(POOL, max_size=1)), Quiet())
    join()
    assert digest(tmp_path / "out") == undisturbed


def test_a_run_that_is_stopped_in_mid_segment_leaves_nothing_and_the_next_one_ends_it(
    fleet, shards, archive, undisturbed, tmp_path
):
    shards.hold(SETTINGS.seed)
    paths = [str(path) for path in (archive, tmp_path / "out", shards.folder, tmp_path / "scratch")]
    with subprocess.Popen([sys.executable, "-m", "tests.batch.drive_gangs", fleet.cluster.address, *paths]) as driver:
        wait_for(lambda: shards.segments() >= 1, "a segment to be at work")
        driver.kill()
    fleet.wait_until_nothing_is_left(shards)
    shards.let_go(SETTINGS.seed)
    run_bulk(request(archive, tmp_path / "out", shards, tmp_path), Quiet())
    assert digest(tmp_path / "out") == undisturbed


def test_a_machine_that_is_lost_in_mid_segment_leaves_the_archive_the_same_bytes(
    fleet, shards, archive, undisturbed, tmp_path
):
    shards.hold(SETTINGS.seed)

    def lose():
        wait_for(lambda: shards.segments() >= 1, "a segment to be at work")
        ranks = processes_left(shards.pids())
        fleet.lose_that_of(ranks[0])
        shards.let_go(SETTINGS.seed)

    join = meanwhile(lose)
    run_bulk(request(archive, tmp_path / "out", shards, tmp_path), Quiet())
    join()
    assert digest(tmp_path / "out") == undisturbed
