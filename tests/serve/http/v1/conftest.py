"""Services that the tests of the API share."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.media import clips
from tests.serve.http.v1.ingress import Ingress, serving


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short video."""
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=24, size=(64, 48))
    return path


@pytest.fixture(scope="session")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    """A service whose jobs are run, for callers on this machine."""
    with serving(tmp_path_factory.mktemp("working"), runs_jobs=True) as ingress:
        yield ingress


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    """A service whose jobs wait for ever, for callers with keys."""
    with serving(tmp_path_factory.mktemp("idle"), auth="keys") as ingress:
        yield ingress


@pytest.fixture
def client(working: Ingress) -> httpx.Client:
    """A caller of the working service."""
    return working.client()
