"""Laws of what manifests start: the same text runs on a local Ray, with only folders, address and port changed."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from seedvr2_ray.cli.main import main
from seedvr2_ray.cluster.manifests import Manifest
from seedvr2_ray.cluster.platform_rules import entrypoint_of, service_config
from tests.batch import test_submit
from tests.batch.archives import digests
from tests.cluster.rendered import FOLDER, manifests, the
from tests.media.clips import make_clip
from tests.ports import free_port
from tests.serve.http_jobs import completed, download
from tests.serve.running import RunningService, ServicePlan

pytestmark = pytest.mark.ray

dashboard = test_submit.cluster
"""A Ray cluster of its own; the address of its dashboard."""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's command is found, as in the image."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


class _ManifestService(RunningService):
    """A service whose configuration is a manifest's text."""

    text = ""

    def _write_config(self) -> None:
        (self.folder / "serve.json").write_text(json.dumps(yaml.safe_load(self.text)))


def _here(text: str, folder: Path, port: int) -> str:
    """Put folders of this machine and loopback in the place of a pod's."""
    changes = {
        "/data/service": str(folder / "data"),
        "/tmp/seedvr2": str(folder / "scratch"),
        "/weights": str(folder / "weights"),
        "host: 0.0.0.0": "host: 127.0.0.1",
        "port: 8000": f"port: {port}",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_services_configuration_serves_jobs(tmp_path: Path) -> None:
    port = free_port()
    body = the("RayService", manifests("laptop"))
    body["spec"]["serveConfigV2"] = _here(body["spec"]["serveConfigV2"], tmp_path, port)
    plan = ServicePlan(config=service_config(Manifest(body)), port=port, num_cpus=4, environ={})
    service = _ManifestService(plan, tmp_path)
    service.text = body["spec"]["serveConfigV2"]
    clip = tmp_path / "clip.mp4"
    make_clip(clip, num_frames=10)
    try:
        service.start()
        assert httpx.get(f"{service.base_url}/v1/jobs", timeout=240).status_code == 401
        with service.client() as client, clip.open("rb") as file:
            settings = json.dumps({"model": "lanczos", "resolution": "x2"})
            answer = client.post("/v1/jobs", files={"file": (clip.name, file)}, data={"settings": settings})
            assert answer.status_code == 201, answer.text
            job = completed(client, answer.json()["id"])
            assert job["result"]["num_frames"] == 10
            assert len(download(client, job["id"])) > 1000
            gauges = client.get("/metrics").text
        for name in ("seedvr2_queue_depth", "seedvr2_queue_age_seconds", "seedvr2_remaining_gpu_seconds"):
            assert f"\n{name} " in gauges, f"cluster status reads {name}"
    finally:
        service.kill()
        service.forget()


def test_the_archives_command_restores_what_can_be_restored_and_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    job = Manifest(the("RayJob", manifests("laptop-bulk")))
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        make_clip(tmp_path / "videos" / name, num_frames=10)
    words = [word.replace("/data", str(tmp_path)) for word in entrypoint_of(job)]
    words[0] = str(Path(sys.executable).parent / words[0])
    (tmp_path / "videos" / "c.mp4").write_bytes(b"no video at all")
    for state in ("published", "skipped"):
        # As KubeRay's submitter hands it on: one line for a shell. A bad file must not make it try again.
        done = subprocess.run(
            ["sh", "-c", shlex.join(words)],
            capture_output=True,
            text=True,
            timeout=400,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        files = json.loads(done.stdout)["files"]
        assert files[state] == 2 and files["quarantined"] == 1, files
    assert len(digests(tmp_path / "restored", ["a.mp4", "b.mp4"])) == 2


@pytest.mark.usefixtures("commands")
def test_an_archive_is_submitted_to_a_cluster_that_runs_already(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = request.getfixturevalue("dashboard")
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "a.mp4", num_frames=10)
    words = ["cluster", "submit", "laptop-bulk", "--name", "a", "--address", address, "--folder", str(FOLDER), "--json"]
    words += ["--manifest", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    deadline, log = time.monotonic() + 300, ""
    # A dashboard answers some seconds before it takes jobs, which is said as something that passes.
    while (code := main(words)) == 5 and time.monotonic() < deadline:
        assert "does not take the job now" in capsys.readouterr().err
        time.sleep(1)
    assert code == 0
    job = json.loads(capsys.readouterr().out)["job"]
    while '"published": 1' not in log:
        assert time.monotonic() < deadline, log
        time.sleep(0.5)
        assert main(["cluster", "logs", job, "--address", address]) == 0
        log = capsys.readouterr().out
    assert (tmp_path / "out" / "a.mp4").exists()
    assert main(["cluster", "logs", "another", "--address", address]) == 2
    assert "has no log of job another" in capsys.readouterr().err
