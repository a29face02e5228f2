"""Runs that are stopped, by a person, a system or a power cut, and go on where they were."""

import hashlib
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from seedvr2_ray.cli.main import main
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from tests.media import clips
from tests.waiting import wait_for

SHORT_SEGMENTS = ("--segment-seconds", "0.5", "--segment-overlap", "4")
SMALL = ("--model", "lanczos", "--resolution", "x2", "--preset", "ultrafast", *SHORT_SEGMENTS)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def run(capfd):
    """Run a command in this process; return its exit code and what it printed."""

    def call(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Interrupted(LanczosRestorer):
    """Meets Ctrl-C in its third segment."""

    num_segments = 0

    def restore(self, frames, task):
        self.num_segments += 1
        for batch in super().restore(frames, task):
            if self.num_segments == 3:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.slow
def test_a_stopped_run_says_one_line_and_goes_on_where_it_was(run, tmp_path, monkeypatch):
    clip, arguments = tmp_path / "film.mp4", (*SMALL, "--no-report")
    clips.make_clip(clip, num_frames=24, audio_tracks=1)
    run("restore", clip, tmp_path / "whole.mp4", *arguments)
    target = tmp_path / "out.mp4"
    with monkeypatch.context() as patched:
        patched.setattr("seedvr2_ray.restoration.gang.choice.load_restorer", lambda settings, options: Interrupted())
        code, out, err = run("restore", clip, target, *arguments)
    assert (code, out) == (130, "")
    assert err.splitlines()[1:] == ["stopped; run the same command again to go on"]
    assert not target.exists()
    # Planning looks at what is there and leaves it.
    _, planned, _ = run("plan", clip, target, *SMALL, "--json")
    earlier = json.loads(planned)["frames_restored_earlier"]
    assert earlier > 0
    code, out, err = run("restore", clip, target, *arguments)
    assert code == 0
    assert f"{earlier} frames were restored earlier" in err
    assert digest(target) == digest(tmp_path / "whole.mp4")
    assert not list(tmp_path.glob(".*"))


# The command itself, except that its seventh segment never ends: a run that is to be stopped is not over before.
_ENDLESS = """
import sys, time
from seedvr2_ray.cli.main import main
from seedvr2_ray.restoration.lanczos import LanczosRestorer

begun, restore = [], LanczosRestorer.restore

def restore_six(self, frames, task):
    begun.append(task)
    while len(begun) > 6:
        time.sleep(0.02)
    yield from restore(self, frames, task)

LanczosRestorer.restore = restore_six
sys.exit(main(sys.argv[1:]))
"""


def start(*arguments):
    command = [sys.executable, "-c", _ENDLESS, *map(str, arguments)]
    # Ctrl-C is switched off in what a shell runs in the background, these tests perhaps.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen)


def wait_for_parts(process, work, number):
    wait_for(lambda: process.poll() is not None or len(list(work.glob("parts/records/*.json"))) >= number, "parts")


LARGE = ("--model", "lanczos", "--resolution", "x6", "--preset", "ultrafast", *SHORT_SEGMENTS)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "film.mp4"
    clips.make_clip(path, num_frames=120, cuts=(50,), audio_tracks=1)
    return path


@pytest.fixture(scope="module")
def undisturbed(long_clip):
    target = long_clip.with_name("whole.mp4")
    assert main(["restore", str(long_clip), str(target), *LARGE, "--no-report"]) == 0
    return digest(target)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_and_run_again_gives_the_same_bytes(signal_number, long_clip, undisturbed, run, tmp_path):
    target = tmp_path / "out.mp4"
    process = start("restore", long_clip, target, *LARGE, "--no-report")
    work = tmp_path / ".out.mp4.work"
    wait_for_parts(process, work, 3)
    process.send_signal(signal_number)
    out, err = process.communicate()
    assert out == ""
    assert process.returncode == (-signal_number if signal_number == signal.SIGKILL else 130)
    if signal_number != signal.SIGKILL:
        assert err.splitlines()[1:] == ["stopped; run the same command again to go on"]
    assert not target.exists()
    assert len(list(work.glob("parts/records/*.json"))) >= 3
    _, planned, _ = run("plan", long_clip, target, *LARGE, "--json")
    earlier = json.loads(planned)["frames_restored_earlier"]
    assert earlier > 0
    code, again, _ = run("restore", long_clip, target, *LARGE, "--no-report", "--json")
    assert code == 0
    values = json.loads(again)
    assert values["frames_restored_now"] == values["frames_to_restore"] - earlier
    assert not work.exists()
    assert digest(target) == undisturbed
