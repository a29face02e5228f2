"""A rolling upgrade under load: every deployment gets new replicas while jobs run, arrive and are uploaded."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from seedvr2_ray.client.blocking import Client
from seedvr2_ray.client.connection import Retries
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from tests.media import clips
from tests.serve.http_jobs import settings_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPLACED = {"api": 0.11, "runner": 0.13, "finisher": 0.14, "restorer-lanczos": 0.23}
"""Deployments, and the processor share that makes each one's replicas others than before."""
PATIENT = Retries(attempts=40, longest_wait_seconds=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "video.mp4"
    clips.make_clip(path, num_frames=60, size=(64, 48), cuts=(20,), audio_tracks=1, bframes=2)
    return path


@pytest.fixture(scope="module")
def digest(video, tmp_path_factory):
    """Of what the command line makes of the video; the filter draws nothing by chance."""
    target = tmp_path_factory.mktemp("undisturbed") / "video.mp4"
    restore_video(str(video), str(target), settings_of(0), LANCZOS, LanczosRestorer, report=False)
    return hashlib.sha256(target.read_bytes()).hexdigest()


class _Callers:
    """Two who submit one job after the other, and one whose upload takes as long as the upgrade."""

    def __init__(self, service, seeds, video):
        self.service, self.seeds, self.video = service, seeds, video
        self.is_upgraded = threading.Event()
        self.jobs, self.num_pieces_after = [], 0
        self._threads = ThreadPoolExecutor(3)
        self._work = [self._threads.submit(self._call, what) for what in (self._send, self._send, self._drip)]

    @property
    def have_failed(self):
        return any(each.done() and each.exception() for each in self._work)

    def end(self):
        """Let them finish; raise what one of them met."""
        self.is_upgraded.set()
        for each in self._work:
            each.result(240)

    def _call(self, what):
        with client_of(self.service) as client:
            what(client)

    def _send(self, client):
        while not self.is_upgraded.is_set():
            self.jobs.append(client.submit(self.video, settings_of(next(self.seeds))).id)
            time.sleep(0.5)

    def _drip(self, client):
        def slowly(sent, total):
            """The first half goes in while replicas are replaced, the rest when they are."""
            self.num_pieces_after += self.is_upgraded.is_set()
            self.is_upgraded.wait(0.5 if 2 * sent < total else 240)

        piece_bytes = self.video.stat().st_size // 20
        upload = client.upload(self.video, piece_bytes=piece_bytes, on_progress=slowly)
        self.jobs.append(client.submit(upload, settings_of(next(self.seeds))).id)


def client_of(service):
    return Client(service.base_url, service.token("anna"), retries=PATIENT)


def test_an_upgrade_under_load_loses_no_job_and_no_upload(service, seeds, video, digest):
    before = {name: set(service.pids_of(name)) for name in REPLACED}
    callers = _Callers(service, seeds, video)
    try:
        service.wait_for(lambda: len(callers.jobs) >= 2 or callers.have_failed, 120, "no job was accepted")
        service.redeploy(
            *({"name": name, "ray_actor_options": {"num_cpus": share}} for name, share in REPLACED.items())
        )
        for name, pids in before.items():
            service.wait_for(
                lambda name=name, pids=pids: not set(service.pids_of(name)) & pids and service.pids_of(name),
                240,
                f"{name} keeps its replicas",
            )
        accepted = len(callers.jobs)
        service.wait_for(lambda: len(callers.jobs) > accepted or callers.have_failed, 120, "no job after the upgrade")
    finally:
        callers.end()
    assert callers.num_pieces_after > 1
    with client_of(service) as client:
        for job in (client.wait(each) for each in callers.jobs):
            assert job.state == "completed", job
            assert job.result.sha256 == digest
    assert len(set(callers.jobs)) == len(callers.jobs) >= 4
