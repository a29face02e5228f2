"""What the service adds to a job: the same file restored by a bare call and through HTTP."""

import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.bulk import make_video
from benchmarks.serve_cluster import Asker, Deployed, deployed
from benchmarks.serve_figures import milliseconds
from benchmarks.serve_forms import form_of
from seedvr2_ray.restoration.load import CatalogueRestorers
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.settings import RestoreSettings

_POLL_SECONDS = 0.02
CLIPS = {"lanczos": ((320, 180), 48), "nano": ((64, 48), 9)}
"""Size and number of frames of what each model is given. The network is slow on a processor."""


def measure_latency(port: int, num_jobs: int) -> list[dict[str, Any]]:
    """Restore clips of different bytes with each model, bare and through the service.

    Args:
        port: of Serve's proxy.
        num_jobs: of each model, besides one that warms everything up and is not counted.
    """
    pools = {model: ModelPool(num_cpus=0.25, min_replicas=1) for model in CLIPS}
    with tempfile.TemporaryDirectory(prefix="sb-latency-") as name:
        folder = Path(name)
        sources = {model: _make_sources(folder, model, num_jobs + 1) for model in CLIPS}
        # Bare first: the replicas of the service would share the processor with it.
        bare = {model: _time_bare(sources[model], folder, model) for model in CLIPS}
        config = ServiceConfig(
            data=str(folder / "data"),
            scratch=str(folder / "scratch"),
            auth=("none",),
            models=pools,
            default_model="lanczos",
            limits=Limits(requests_per_minute=10**6),
        )
        with deployed(port, config) as service:
            served = {model: _time_served(service, sources[model], model) for model in CLIPS}
    return [_compare(model, bare[model], served[model]) for model in CLIPS]


def _make_sources(folder: Path, model: str, number: int) -> list[Path]:
    """Write files of one video that differ in bytes: none is answered from the cache of results."""
    (width, height), num_frames = CLIPS[model]
    video = folder / f"{model}.mp4"
    make_video(video, num_frames, (width, height), seed=3)
    paths = []
    for index in range(number):
        path = folder / f"{model}-{index}.mp4"
        # A box that players skip.
        path.write_bytes(video.read_bytes() + b"\0\0\0\x10free" + index.to_bytes(8, "big"))
        paths.append(path)
    return paths


def _settings(model: str) -> RestoreSettings:
    return RestoreSettings(model=model, resolution="x2", preset="ultrafast")


def _time_bare(sources: list[Path], folder: Path, model: str) -> list[float]:
    """Restore in this process, the model loaded and everything imported; the first call is not counted."""
    settings, restorers = _settings(model), CatalogueRestorers()
    # Replicas that reserve less than one core have one thread.
    torch.set_num_threads(1)
    restorer, identity = restorers.load(settings), restorers.identify(settings)
    seconds = []
    for index, source in enumerate(sources):
        target = str(folder / f"{model}-{index}.bare.mp4")
        began = time.monotonic()
        restore_video(str(source), target, settings, identity, lambda: restorer)
        seconds.append(time.monotonic() - began)
    return seconds[1:]


def _time_served(service: Deployed, sources: list[Path], model: str) -> list[dict[str, float]]:
    asker = service.connect()
    try:
        return [_time_job(asker, source, _settings(model)) for source in sources][1:]
    finally:
        asker.close()


def _time_job(asker: Asker, source: Path, settings: RestoreSettings) -> dict[str, float]:
    """Submit, wait, download; return the seconds of each step, which together are what the caller waited."""
    body, headers = form_of(source, settings)
    began = time.monotonic()
    job = json.loads(asker.ask("POST", "/v1/jobs", body, headers)[1])
    accepted = time.monotonic()
    while job["state"] != "completed":
        if job["finished_at"]:
            raise RuntimeError(f"a job of this benchmark was {job['state']}: {job['error']}")
        time.sleep(_POLL_SECONDS)
        job = asker.ask_json("GET", f"/v1/jobs/{job['id']}")
    seen = time.monotonic()
    _, result = asker.ask("GET", f"/v1/jobs/{job['id']}/result")
    ended = time.monotonic()
    if len(result) != job["result"]["num_bytes"]:
        raise RuntimeError(f"{len(result)} bytes of a result of {job['result']['num_bytes']} arrived")
    if job["result"]["was_cached"]:
        raise RuntimeError("a result came from the cache; this measures nothing")
    created, started, finished = (_moment(job[f"{name}_at"]) for name in ("created", "started", "finished"))
    return {
        "submit": accepted - began,
        "queued": started - created,
        "work": finished - started,
        "download": ended - seen,
        "all": ended - began,
    }


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _compare(model: str, bare: list[float], served: list[dict[str, float]]) -> dict[str, Any]:
    def column(name: str) -> list[float]:
        return [times[name] for times in served]

    def median_of(name: str) -> float:
        return round(statistics.median(column(name)) * 1000, 1)

    size, num_frames = CLIPS[model]
    return {
        "model": model,
        "clip": f"{num_frames} frames of {size[0]}x{size[1]}, doubled",
        "jobs": len(served),
        "bare_milliseconds": milliseconds(bare),
        "served_milliseconds": milliseconds(column("all")),
        "added_milliseconds": round((statistics.median(column("all")) - statistics.median(bare)) * 1000, 1),
        "median_milliseconds_of": {name: median_of(name) for name in ("submit", "queued", "work", "download")},
    }
