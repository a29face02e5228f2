"""What is cheap to import stays cheap: who only plans, probes, serves or finishes loads no model's libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from seedvr2_ray.serve.db.database import open_database

HEAVY = ("torch", "ray", "pyarrow", "kubernetes", "PIL")


def _loaded(module: str, names: tuple[str, ...]) -> str:
    return _loaded_by(f"import {module}", names)


def _loaded_by(program: str, names: tuple[str, ...]) -> str:
    program = f"import sys; {program}; print([name for name in {names!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "seedvr2_ray",
        "seedvr2_ray.settings",
        "seedvr2_ray.client",
        "seedvr2_ray.cli.main",
        "seedvr2_ray.media.probe",
        "seedvr2_ray.restoration.planning.plan",
        "seedvr2_ray.restoration.planning.geometry",
        # Planners: looking through a source, and what of it is left to do.
        "seedvr2_ray.restoration.work.first_pass",
        "seedvr2_ray.restoration.work.remaining",
        "seedvr2_ray.restoration.work.failures",
        "seedvr2_ray.serve.workers.prepare",
        # Finishers: encoding, joining, publishing.
        "seedvr2_ray.restoration.work.encoded_segments",
        "seedvr2_ray.restoration.work.assemble",
        "seedvr2_ray.restoration.work.published",
        "seedvr2_ray.serve.workers.finisher",
        # What an ingress is told of restorers, and the process that looks at files of strangers.
        "seedvr2_ray.restoration.load",
        "seedvr2_ray.serve.service.verbs",
        "seedvr2_ray.serve.http.application",
        "seedvr2_ray.serve.security.inspection_server",
    ],
)
def test_a_cheap_module_loads_nothing_heavy(module: str) -> None:
    assert _loaded(module, HEAVY) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        # The ingress, and the application that is built around it.
        "seedvr2_ray.serve.deployments",
        "seedvr2_ray.serve.app",
        # Planning and finishing an archive.
        "seedvr2_ray.batch.execution.videos",
        "seedvr2_ray.batch.execution.finishing",
        "seedvr2_ray.batch.execution.tracker",
    ],
)
def test_a_process_of_the_cluster_that_restores_nothing_never_loads_torch(module: str) -> None:
    assert _loaded(module, ("torch",)) == "[]"


@pytest.mark.slow
def test_an_ingress_loads_neither_what_looks_for_shots_nor_what_migrates_its_database() -> None:
    assert _loaded("seedvr2_ray.serve.deployments", ("scenedetect", "cv2", "alembic")) == "[]"


@pytest.mark.slow
def test_a_database_that_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/service.db"
    open_database(url).close()
    program = f"from {open_database.__module__} import open_database; open_database({url!r}).close()"
    assert _loaded_by(program, ("sqlalchemy", "alembic")) == "['sqlalchemy']"
