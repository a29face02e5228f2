"""Whether freed memory is kept is a choice that can be seen from outside the process's own allocator."""

import subprocess
import sys

import pytest

# Small blocks between the large ones pin the heap where it grew, as a long run does.
_CHURN = """
import sys, threading, torch
from seedvr2_ray.restoration.allocator import tune_allocator

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

def churn(pins):
    for _ in range(4):
        frames = [torch.ones(24 << 18) for _ in range(4)]  # 24 MiB each
        pins.append([bytearray(64 << 10) for _ in range(16)])
        del frames

tune_allocator(reuse_buffers=sys.argv[1] == "keep")
torch.ones(1 << 20)
before, pins = resident(), []
threads = [threading.Thread(target=churn, args=(pins,)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""


def grown(choice: str) -> float:
    done = subprocess.run([sys.executable, "-c", _CHURN, choice], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_frames_go_back_to_the_system_unless_they_are_to_be_reused() -> None:
    pinned_mebibytes = 3 * 4 * 16 * 64 / 1024
    assert grown("release") < pinned_mebibytes + 24
    assert grown("keep") > pinned_mebibytes + 48
