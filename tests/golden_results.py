"""What has to come out byte for byte, and how it is made: kept in ``tests/data/golden_results``.

``python -m tests.golden_results`` writes it anew. Do so only after looking at what differs and why: a change here means
that callers get other files, other addresses (so that finished work is done again), or other words on the wire.
"""

import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seedvr2_ray.media.conversions import conversions_fingerprint
from seedvr2_ray.media.output.libraries import library_versions
from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.load import LoadOptions, load_restorer
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.restoration.planning.plan import plan_video, publication_key
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.batch.archives import make_archive, restore_one_by_one
from tests.media.clips import make_clip, make_image
from tests.serve.http.v1.ingress import finished, serving, submit

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden_results"
DEMO = str(ROOT / "examples" / "demo.mp4")
SETTINGS = RestoreSettings(model="lanczos", resolution="x2", preset="ultrafast")
NUM_GOOD = 10

_IDS = re.compile(r"\b(job|upload)_[0-9a-f]{24}\b")
_TIMES = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_SIGNATURES = re.compile(r"\?expires=\d+&signature=[0-9a-f]+")
_CLOCKED = {
    "version",
    "queue_position",
    "frames_per_second",
    "seconds_left",
    "gpu_seconds",
    "cost",
    "request_id",
    "day",
}
"""Values that depend on how fast a machine is, or on the hour."""
_HEADERS_OF_THE_HOUR = ("date", "etag", "last-modified", "x-request-id")


def libraries() -> dict[str, str]:
    """Return what decides over bytes besides this package: versions without local suffixes, and the conversions."""
    return {
        **library_versions(),
        "torch": version("torch").partition("+")[0],
        "machine": platform.machine(),
        "conversions": conversions_fingerprint(),
    }


def pinned() -> dict[str, str]:
    """Return the versions of constraints.txt that decide over bytes."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {name: value for name, _, value in (line.partition("==") for line in lines) if name in ("av", "torch")}


def require_same_libraries() -> None:
    """Skip where other libraries than the pinned ones are: bytes differ by right. Fail where the pinned ones differ."""
    here, kept, pins = libraries(), stored("libraries"), pinned()
    if (here["pyav"], here["torch"], here["machine"]) != (pins["av"], pins["torch"], kept["machine"]):
        pytest.skip(f"golden results are of {pins} on {kept['machine']}; here are {here}")
    differing = {name: (kept.get(name), value) for name, value in here.items() if kept.get(name) != value}
    assert not differing, (
        f"the pinned libraries are not those that the golden results were made with (kept, here): {differing}. Other "
        "libraries give other bytes and other addresses, so finished work is done again: look at what differs, run "
        "`python -m tests.golden_results`, and tell of it in CHANGELOG.md"
    )


def addresses() -> dict[str, Any]:
    """Return the addresses of the demo's segments, restored and encoded, and of its publication."""
    media = probe(DEMO)
    plan = plan_video(
        media,
        SETTINGS,
        source="demo.mp4",
        fingerprint=sha256_of(DEMO),
        shots=(0, 72),
        restorer=LANCZOS,
        target="out.mp4",
        max_pixels=DEFAULT_MAX_PIXELS,
    )
    return {
        "restored": [segment.address for segment in plan.segments],
        "encoded": [segment.part_address for segment in plan.segments],
        "publication": publication_key("source", ".mp4", SETTINGS, LANCZOS),
    }


def demo(folder: Path) -> str:
    """Restore the demo with the filter; return the master's SHA-256."""
    target, restorer = folder / "demo.mp4", LanczosRestorer()
    restore_video(DEMO, str(target), SETTINGS, LANCZOS, lambda: restorer, report=False)
    return sha256_of(target)


def archive(folder: Path) -> dict[str, str]:
    """Restore ten small items one by one; return the SHA-256 of the results by name."""
    return restore_one_by_one(make_archive(folder / "archive", num_good=NUM_GOOD), folder / "one_by_one")


def nano_picture(folder: Path) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Restore an image with the small model; return what came out."""
    source, target = folder / "image.png", folder / "restored.png"
    make_image(source, pixel_format="rgb24", codec="png", size=(64, 48))
    settings = RestoreSettings(model="nano", resolution="x2")
    restorer = load_restorer(settings, LoadOptions())
    restore_video(str(source), str(target), settings, restorer.identity, lambda: restorer, report=False)
    with Image.open(target) as picture:
        return np.asarray(picture.convert("RGB"))


def session(folder: Path) -> dict[str, Any]:
    """Return what a caller of API v1 sees of a job from its submission to its end, clocks and random names left out."""
    clip = folder / "clip.mp4"
    make_clip(clip, num_frames=12, size=(64, 48), audio_tracks=1)
    with serving(folder, runs_jobs=True) as ingress:
        client = ingress.client()
        made = submit(client, clip)
        job = finished(client, made.json()["id"])
        path = f"/v1/jobs/{job['id']}"
        stream = client.get(f"{path}/events").text
        usage, unknown, models = (client.get(each).json() for each in ("/v1/usage", "/v1/jobs/nope", "/v1/models"))
        result = client.get(job["links"]["result"])
        headers = {name: value for name, value in result.headers.items() if name not in _HEADERS_OF_THE_HOUR}
        wrong = submit(client, clip, settings={"hieght": 720})
        deleted = client.delete(path)
        gone = client.get(path)
    seen = {
        "submitted": {"status": made.status_code, "body": made.json()},
        "finished": job,
        "events": [line.split(": ", 1)[1] for line in stream.splitlines() if line.startswith("event: ")],
        "result": {"status": result.status_code, "headers": headers},
        "usage": usage,
        "models": models,
        "not_found": unknown,
        "refused": {"status": wrong.status_code, "body": wrong.json()},
        "deleted": {"status": deleted.status_code, "afterwards": gone.json()},
    }
    settled = _settled(seen)
    assert isinstance(settled, dict)
    return settled


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def stored(name: str) -> Any:
    """Read what was kept."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def stored_nano() -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Read the picture that was kept."""
    with Image.open(GOLDEN / "nano.png") as picture:
        return np.asarray(picture)


def _settled(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _settled(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_settled(each) for each in value]
    if key in _CLOCKED:
        return f"<{key}>"
    if isinstance(value, str):
        value = _SIGNATURES.sub("?<signed>", value)
        return _TIMES.sub("<time>", _IDS.sub(r"\1_<id>", value))
    return value


def _write(name: str, value: Any) -> None:
    (GOLDEN / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Make everything anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("demo", "archive", "nano", "session"):
            (folder / part).mkdir()
        _write("libraries", libraries())
        results = {"addresses": addresses(), "demo": demo(folder / "demo"), "archive": archive(folder / "archive")}
        _write("results", results)
        Image.fromarray(nano_picture(folder / "nano")).save(GOLDEN / "nano.png", optimize=True)
        _write("session", session(folder / "session"))


if __name__ == "__main__":
    main()
