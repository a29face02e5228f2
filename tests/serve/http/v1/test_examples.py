"""The examples of the documents against a service: scripts with curl, and Python with our client and with RunPod's."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seedvr2_ray.serve.config import FetchRules
from seedvr2_ray.serve.http import upscale
from seedvr2_ray.serve.http.runpod import routes as runpod
from tests.documents import ROOT, SHELL, blocks, make_cheap
from tests.media.clips import make_clip
from tests.missing import require_programs
from tests.serve.http.v1.ingress import Ingress, serving
from tests.serve.runpod_sdk import LONG, make_patient
from tests.serve.servers import saying
from tests.serve.servers import serving as serving_files
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
SOURCE = "https://example.org/video.mp4"


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    """A service for callers with keys; where examples name models that need a GPU, another one stands in."""
    aliases = dict.fromkeys(("seedvr2_3b", "seedvr2_7b", "seedvr2_7b_sharp"), "lanczos")
    folder = tmp_path_factory.mktemp("service")
    fetch = FetchRules(allow_private=("127.0.0.0/8",))
    dialects = (runpod.router, upscale.router)
    with serving(folder, runs_jobs=True, auth="keys", routers=dialects, model_aliases=aliases, fetch=fetch) as running:
        yield running


@pytest.fixture
def key(ingress: Ingress) -> str:
    return str(ingress.client("anna").headers["authorization"]).removeprefix("Bearer ")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames: examples ask for 2160p."""
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    make_clip(path, num_frames=2)
    return path


def run(script: str, here: Path, **environment: str) -> str:
    """Type a script into bash, and return what it said."""
    require_programs("curl", "jq")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={"PATH": "/usr/bin:/bin", **environment},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_scripts_about_the_api_run_as_they_stand(
    ingress: Ingress, key: str, here: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_watched = threading.Event()

    def hold(task: object) -> None:
        """Keep the first job from ending before the script follows it, whose programs take a while to start."""
        if not is_watched.is_set():
            wait_for(lambda: ingress.service.watch.num_watchers > 0, "somebody to follow the job")
            is_watched.set()

    monkeypatch.setattr(ingress.restorers, "on_segment", hold)
    script = "\n".join(blocks(DOCS / "api.md", *SHELL))
    words = run(script, here, SERVICE=ingress.url, KEY=key, VIDEO=str(clip)).split()
    assert words[0] in ("queued", "planning", "restoring")
    assert "completed" in words
    assert {"film.mp4", "lanczos", "nano"} <= set(words)
    whole = (here / "restored.mp4").read_bytes()
    assert (here / "first-kilobyte").read_bytes() == whole[:1000]
    assert (here / "after.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_the_scripts_of_other_apis_clients_run_with_this_services_address(
    ingress: Ingress, key: str, here: Path, clip: Path
) -> None:
    script = "\n".join(blocks(DOCS / "clients.md", *SHELL)).replace("https://video.example.org", ingress.url)
    with serving_files() as server:
        server.answers["/video.mp4"] = saying(clip.read_bytes())
        assert SOURCE in script
        said = run(script.replace(SOURCE, server.url("/video.mp4")), here, KEY=key)
    assert "healthy" in said
    assert json.loads((here / "status.json").read_text())["status"] == "completed"
    assert (here / "restored.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_program_for_runpods_sdk_runs_with_this_services_address(
    ingress: Ingress, key: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_patient(monkeypatch)
    (program,) = blocks(DOCS / "clients.md", "python")
    program = program.replace("https://video.example.org", ingress.url).replace("seedvr2_...", key)
    # The service's own address, and nothing of the example's settings, is what a reader changes.
    named: dict[str, object] = {"video_base64": base64.b64encode(clip.read_bytes()).decode()}
    exec(compile(program, "clients.md", "exec"), named)
    assert named["output"]["success"] is True  # type: ignore[index]
    assert named["job"].output(timeout=LONG)["success"] is True  # type: ignore[attr-defined]
    named["endpoint"].rp_client.rp_session.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "python.md"], ids=lambda page: page.name)
def test_the_programs_for_our_client_run_with_this_services_address(
    ingress: Ingress, key: str, here: Path, clip: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cheap(monkeypatch)
    (here / "holiday.mov").write_bytes(clip.read_bytes())
    monkeypatch.setenv("SEEDVR2_API_KEY", key)
    program = "\n".join(blocks(page, "python")).replace("http://127.0.0.1:8000", ingress.url)
    if page.name == "README.md":  # The second of two that write one file.
        program = program.replace("with sv.Client", 'import os; os.remove("holiday-1080p.mp4")\nwith sv.Client')
    exec(compile(program, page.name, "exec"), {})
    assert (here / "holiday-1080p.mp4").exists()
