"""Laws of planning one row: what is there is not made again, what is not is, whatever it is called."""

from pathlib import Path

import pytest
from PIL import Image

from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestSource, read_manifest
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip

SETTINGS = RestoreSettings(model="lanczos", resolution="x2", detect_shots=False)


def plan(folder, source, target):
    manifest = folder / "rows.jsonl"
    manifest.write_text(f'{{"source": "{folder}/{source}", "target": "{folder}/{target}"}}\n')
    job = Job(folder=str(folder / "job"), run="again", scratch=str(folder / "scratch"))
    (row,) = read_manifest(ManifestSource(url=str(manifest), output=None, defaults=SETTINGS))
    return plan_row(row, job, LanczosRestorer().identity)


@pytest.mark.parametrize(
    ("source", "target"),
    [("my%20dog.png", "my%20dog-x2.png"), ("100%d.png", "100%d-x2.png"), ("a%20b.mkv", "a%20b-x2.mkv")],
)
def test_a_master_that_was_deleted_is_planned_again_also_with_a_percent_sign_in_its_name(source, target, tmp_path):
    if source.endswith(".png"):
        Image.new("RGB", (16, 16)).save(tmp_path / source)
    else:
        make_clip(tmp_path / source, num_frames=3)
    restorer = LanczosRestorer()
    restore_video(
        f"{tmp_path}/{source}", f"{tmp_path}/{target}", SETTINGS, restorer.identity, lambda: restorer, report=False
    )
    found = plan(tmp_path, source, target)
    assert isinstance(found, VideoOutcome) and found.state == "skipped"
    Path(tmp_path / target).unlink()
    assert isinstance(plan(tmp_path, source, target), Video)


@pytest.mark.slow
def test_a_sequence_without_its_last_image_is_planned_again(tmp_path):
    make_clip(tmp_path / "a.mkv", num_frames=3)
    target = "my%20frames_%03d.png"
    restorer = LanczosRestorer()
    restore_video(
        f"{tmp_path}/a.mkv", f"{tmp_path}/{target}", SETTINGS, restorer.identity, lambda: restorer, report=False
    )
    assert isinstance(plan(tmp_path, "a.mkv", target), VideoOutcome)
    (tmp_path / "my%20frames_003.png").unlink()
    assert isinstance(plan(tmp_path, "a.mkv", target), Video)
