"""SVT-AV1 makes the threads of root real-time; whoever encodes stays as ordinary as he was."""

import os
import sys
from pathlib import Path

import pytest

from seedvr2_ray.media.output.scheduling import scheduling_kept
from tests.media.output.test_encode import encoded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: scheduling of threads")


def policies() -> set[int]:
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


def test_encoding_av1_takes_the_machine_from_nobody(tmp_path):
    before = policies()
    encoded(tmp_path / "out.webm", "av1")
    assert policies() == before == {os.SCHED_OTHER}


@pytest.mark.skipif(os.geteuid() != 0, reason="reads /proc: only root may become real-time")
def test_whatever_a_library_does_to_its_caller_is_undone_even_when_it_fails():
    with pytest.raises(OSError, match="no such encoder"), scheduling_kept():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
        raise OSError("no such encoder")
    assert policies() == {os.SCHED_OTHER}


@pytest.mark.skipif(os.geteuid() != 0, reason="reads /proc: only root may become real-time")
def test_a_caller_who_is_real_time_by_choice_stays_so():
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(3))
    try:
        with scheduling_kept():
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
        assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == (os.SCHED_RR, 3)
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
