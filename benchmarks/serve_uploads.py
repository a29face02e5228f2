"""How much the ingress process grows while a large file is sent to it, by tus and as a form."""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.bulk import make_video
from benchmarks.serve_cluster import Asker, Deployed, deployed, peak_bytes, reset_peak, resident_bytes, shared_bytes
from benchmarks.serve_figures import UPLOAD_GROWTH_LIMIT
from benchmarks.serve_forms import form_around, padded
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.settings import RestoreSettings

_SAMPLE_SECONDS = 0.1
_SETTINGS = RestoreSettings(model="lanczos", resolution="x2")


def measure_uploads(port: int, num_bytes: int) -> list[dict[str, Any]]:
    """Send a valid video of so many bytes in one request, by each protocol, to a service that has seen only small ones.

    The job that the form makes is accepted, and never taken up.
    """
    with tempfile.TemporaryDirectory(prefix="sb-uploads-") as name:
        folder = Path(name)
        make_video(folder / "video.mp4", 24, (64, 48), seed=2)
        video = (folder / "video.mp4").read_bytes()
        config = ServiceConfig(
            data=str(folder / "data"),
            scratch=str(folder / "scratch"),
            auth=("none",),
            models={"lanczos": ModelPool(num_cpus=0.1)},
            default_model="lanczos",
            limits=Limits(max_active_jobs=0, max_upload_bytes=num_bytes),
        )
        with deployed(port, config) as service:
            asker = service.connect()
            try:
                for send in (send_by_tus, send_as_form):
                    send(asker, video, len(video) + 8)
                return [
                    _measure(service, asker, video, num_bytes, protocol, send)
                    for protocol, send in (("tus", send_by_tus), ("multipart", send_as_form))
                ]
            finally:
                asker.close()


def send_by_tus(asker: Asker, video: bytes, num_bytes: int) -> None:
    """Announce a file, send it in one piece, and delete it."""
    version = {"Tus-Resumable": "1.0.0"}
    head = {**version, "Upload-Length": str(num_bytes), "Upload-Metadata": "filename ZmlsbS5tcDQ="}
    location = str(asker.ask("POST", "/v1/uploads", b"", head)[0]["Location"])
    piece = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream", "Content-Length": str(num_bytes)}
    answer, _ = asker.ask("PATCH", location, padded(video, num_bytes), {**version, **piece})
    if answer["Upload-Offset"] != str(num_bytes):
        raise RuntimeError(f"{answer['Upload-Offset']} bytes of {num_bytes} arrived")
    asker.ask("DELETE", location, headers=version)


def send_as_form(asker: Asker, video: bytes, num_bytes: int) -> None:
    """Submit a file as a job and delete it."""
    head, tail, headers = form_around("video.mp4", _SETTINGS)
    body: Iterator[bytes] = chain([head], padded(video, num_bytes), [tail])
    headers["Content-Length"] = str(len(head) + num_bytes + len(tail))
    job = json.loads(asker.ask("POST", "/v1/jobs", body, headers)[1])
    if job["source"]["num_bytes"] != num_bytes:
        raise RuntimeError(f"{job['source']['num_bytes']} bytes of {num_bytes} arrived")
    asker.ask("DELETE", f"/v1/jobs/{job['id']}")


def _measure(
    service: Deployed,
    asker: Asker,
    video: bytes,
    num_bytes: int,
    protocol: str,
    send: Callable[[Asker, bytes, int], None],
) -> dict[str, Any]:
    """Send a file and look at the processes it comes through."""
    (ingress,), (proxy,) = service.pids("api"), service.proxy_pids()
    for pid in (ingress, proxy):
        reset_peak(pid)
    before, proxy_before = resident_bytes(ingress), resident_bytes(proxy)
    shared_before, shared = shared_bytes(ingress), [0]
    curve, has_ended = list[tuple[float, float]](), threading.Event()
    began = time.monotonic()

    def sample() -> None:
        while not has_ended.wait(_SAMPLE_SECONDS):
            curve.append((round(time.monotonic() - began, 2), round((resident_bytes(ingress) - before) / 1e6, 1)))
            shared.append(shared_bytes(ingress) - shared_before)

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        send(asker, video, num_bytes)
        seconds = time.monotonic() - began
    finally:
        has_ended.set()
        sampling.join()
    return {
        "protocol": protocol,
        "num_bytes": num_bytes,
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(num_bytes / 1e6 / seconds, 1),
        "ingress_before_bytes": before,
        "ingress_growth_bytes": peak_bytes(ingress) - before,
        "ingress_shared_growth_bytes": max(shared),
        "proxy_growth_bytes": peak_bytes(proxy) - proxy_before,
        "limit_bytes": UPLOAD_GROWTH_LIMIT,
        "ingress_growth_megabytes_by_second": curve,
    }
