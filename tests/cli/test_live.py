"""The command ``live``: files and pipes through it, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedvr2_ray.cli.live import describe
from seedvr2_ray.cli.main import main
from tests.live.senders import make_stream, stream_bytes
from tests.live.streams import receive

OPTIONS = ["--model", "lanczos", "--resolution", "x2", "--preset", "ultrafast"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["ts", "mp4"])
def test_a_file_goes_in_and_a_stream_comes_out(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.ts", tmp_path / f"out.{ending}"
    make_stream(str(source), 20)
    assert main(["live", str(source), str(target), *OPTIONS, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("plan", "end")
    assert events[-1]["frames_out"] == 20 and events[0]["real_time_factor"] > 0
    assert receive(str(target)).numbers == list(range(20))


@pytest.mark.slow
def test_a_pipe_goes_in_and_comes_out_and_says_everything_on_stderr() -> None:
    command = [sys.executable, "-m", "seedvr2_ray", "live", "-", "-", *OPTIONS, "--json"]
    done = subprocess.run(
        command, input=stream_bytes(30), capture_output=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr.decode()
    assert receive(done.stdout).numbers == list(range(30))
    assert json.loads(done.stderr.splitlines()[-1])["frames_out"] == 30


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["udp://127.0.0.1:1", "-", "--policy", "slow"], 2, "cannot be slowed down"),
        (["-", "out.webm"], 2, "does not say which form"),
        (["-", "rtmp://127.0.0.1/x"], 2, "is no output of a live stream"),
        (["gopher://x", "-"], 3, "is no stream this command reads"),
        (["none.ts", "-"], 3, "cannot be opened"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["live", *arguments, *OPTIONS]) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_every_event_has_words_for_a_person() -> None:
    assert describe({"event": "dropped", "frames": 3, "dropped": 3}).startswith("3 frames dropped")
    assert describe({"event": "notice", "text": "slow"}) == "slow"
    assert "waiting 10 s" in describe({"event": "interrupted", "seconds": 10.0})
