"""Laws of looking at a job and of trying again what it set aside."""

import json
from pathlib import Path

import pytest

from seedvr2_ray.batch.again import end_retry, job_status, write_retry
from seedvr2_ray.batch.manifest.manifest import ManifestSource, read_manifest
from seedvr2_ray.errors import InputError
from seedvr2_ray.settings import RestoreSettings

LINE = {
    "path": "/in/a.mp4",
    "row": "row 1",
    "target": "/out/a.mp4",
    "stage": "restore",
    "error": "NotFiniteError: no number",
    "remedy": "choose another model",
    "settings": RestoreSettings(model="seedvr2-7b", seed=7).to_mapping(),
}


def quarantine(folder: Path, *lines: dict[str, object]) -> None:
    (folder / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rows_that_were_set_aside_keep_their_settings_except_those_that_are_given_now(tmp_path):
    quarantine(tmp_path, LINE)
    url = write_retry(str(tmp_path), RestoreSettings(model="lanczos"))
    (row,) = read_manifest(ManifestSource(url=url, output=None, defaults=RestoreSettings()))
    assert (row.source, row.target) == ("/in/a.mp4", "/out/a.mp4")
    assert row.settings == RestoreSettings(model="lanczos", seed=7)


def test_a_retry_that_is_killed_forgets_no_row(tmp_path):
    quarantine(tmp_path, LINE, {**LINE, "target": "/out/b.mp4"})
    write_retry(str(tmp_path), RestoreSettings())
    quarantine(tmp_path)  # As a run begins it.
    url = write_retry(str(tmp_path), RestoreSettings())
    assert len(Path(url).read_text().splitlines()) == 2
    end_retry(str(tmp_path))
    with pytest.raises(InputError, match="nothing to try again"):
        write_retry(str(tmp_path), RestoreSettings())


def test_the_status_of_a_job_says_what_is_set_aside_and_why(tmp_path):
    with pytest.raises(InputError, match="holds no job"):
        job_status(str(tmp_path))
    quarantine(tmp_path, LINE, {**LINE, "stage": "read", "error": "MediaError: text"}, LINE)
    (tmp_path / "report.json").write_text("{}")
    found = job_status(str(tmp_path))
    assert (found["is_running"], found["set_aside"]) == (False, 3)
    assert found["set_aside_by_reason"] == {"restore: NotFiniteError": 2, "read: MediaError": 1}
