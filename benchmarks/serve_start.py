"""How long ``seedvr2-ray serve`` takes to its first finished job, and what it takes while it has nothing to do."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bulk import make_video
from benchmarks.serve_cluster import Asker, cpu_seconds, descendants, free_port, proportional_bytes
from benchmarks.serve_forms import form_around
from seedvr2_ray.settings import RestoreSettings

_ROOT = Path(__file__).parents[1]
_START_SECONDS = 180.0
_SETTLE_SECONDS = 5.0
# The video is noise, of which every frame would be a shot and a segment of its own.
_SETTINGS = RestoreSettings(model="lanczos", resolution="x2", preset="ultrafast", detect_shots=False)


def measure_start() -> list[dict[str, Any]]:
    """Start the service of the shipped configuration in a process of its own, send it a video of one second, end it."""
    with tempfile.TemporaryDirectory(prefix="ss") as name:
        folder, port = Path(name), free_port()
        text = (_ROOT / "serve_config.yaml").read_text().replace("port: 8000", f"port: {port}")
        (folder / "serve_config.yaml").write_text(text.replace("data: seedvr2-data", f"data: {folder / 'data'}"))
        make_video(folder / "video.mp4", 24, (64, 48), seed=3)
        environ = {each: value for each, value in os.environ.items() if not each.startswith("RAY_")}
        environ |= {"SEEDVR2_AUTH": "none", "XDG_STATE_HOME": name, "PYTHONPATH": str(_ROOT)}
        command = [sys.executable, "-m", "seedvr2_ray", "serve", str(folder / "serve_config.yaml")]
        began = time.monotonic()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environ, cwd=name, stdout=log, stderr=log, start_new_session=True)
        try:
            _until_ready(port, process, folder / "log")
            ready = time.monotonic() - began
            _restore(port, (folder / "video.mp4").read_bytes())
            return [_row(process.pid, ready, time.monotonic() - began)]
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _row(pid: int, ready: float, finished: float) -> dict[str, Any]:
    used = cpu_seconds([pid])
    time.sleep(_SETTLE_SECONDS)
    processes = descendants(pid)
    return {
        "seconds_to_ready": round(ready, 1),
        "seconds_to_first_finished_job": round(finished, 1),
        "cpu_seconds_to_first_finished_job": round(used, 1),
        "idle_processes": len(processes),
        # Pages that several processes share are counted once, in parts.
        "idle_proportional_bytes": sum(map(proportional_bytes, processes)),
        "idle_cpu_share": round((cpu_seconds([pid]) - used) / _SETTLE_SECONDS, 3),
    }


def _until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        asker = Asker(port)
        with contextlib.suppress(OSError, RuntimeError):
            asker.ask("GET", "/readyz")
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service does not become ready: {log.read_text()[-2000:]}")
        time.sleep(0.1)


def _restore(port: int, video: bytes) -> None:
    head, tail, headers = form_around("video.mp4", _SETTINGS)
    asker = Asker(port)
    job = json.loads(asker.ask("POST", "/v1/jobs", head + video + tail, headers)[1])
    deadline = time.monotonic() + _START_SECONDS
    while job["state"] != "completed":
        if job["error"] or time.monotonic() > deadline:
            raise RuntimeError(f"the first job does not complete: {job}")
        time.sleep(0.2)
        job = asker.ask_json("GET", f"/v1/jobs/{job['id']}")
