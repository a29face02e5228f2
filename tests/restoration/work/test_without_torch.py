"""Planning, finishing and assembling need no torch, not even once they are at work: machines may lack it."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import prepare
from seedvr2_ray.restoration.work.segment import restore_segment
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.commits import CommitStore
from tests.media import clips

VIDEO = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")
IMAGE = RestoreSettings(model="lanczos", resolution="x2")

WITHOUT_TORCH = """
import pickle, sys
from pathlib import Path

sys.modules["torch"] = None  # Whoever imports it fails.

from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.output.rehearsal import rehearse
from seedvr2_ray.restoration.planning.plan import plan_video
from seedvr2_ray.restoration.work.assemble import assemble
from seedvr2_ray.restoration.work.encoded_segments import finish_part, neighbourhood_of
from seedvr2_ray.restoration.work.first_pass import look_through
from seedvr2_ray.storage.commits import CommitStore

source, target, settings, identity, fingerprint, work, fresh, planned = pickle.loads(sys.stdin.buffer.read())
media = probe(source)
# Nobody has looked at the source for this store.
seen = look_through(source, media, fingerprint, CommitStore(fresh), salvage=False)
plan = plan_video(media, settings, source=source, fingerprint=fingerprint, shots=seen.shots, restorer=identity,
                  target=target, max_pixels=10**8, proof=seen.proof)
rehearse(source, media, plan.recipe.master)
assert [segment.address for segment in plan.segments] == planned
store, workspace = CommitStore(work), Path(fresh)
for segment in plan.segments:
    finish_part(plan.recipe, neighbourhood_of(plan.segments, segment.index), store, workspace=workspace)
made = assemble(plan, store, target, source_path=source, workspace=workspace, overwrite=False, timings={})
print(made.provenance["software"]["torch"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("video.mp4", VIDEO), ("image.png", IMAGE)])
def test_a_source_is_planned_finished_and_assembled_where_torch_cannot_be_imported(
    name: str, settings: RestoreSettings, tmp_path: Path
) -> None:
    source, target = str(tmp_path / name), str(tmp_path / f"out_{name}")
    if name.endswith("png"):
        clips.make_image(Path(source), pixel_format="rgb24", codec="png")
    else:
        clips.make_clip(Path(source), num_frames=40, cuts=(20,), audio_tracks=1)
    store, workspace = CommitStore(str(tmp_path / "work")), tmp_path / "workspace"
    workspace.mkdir()
    prepared = prepare(source, target, settings, LANCZOS, store=store, workspace=workspace)
    plan = prepared.plan
    for segment in plan.segments:
        restore_segment(plan.recipe, segment, LanczosRestorer(), store, source_path=source, workspace=workspace)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    order = (
        source,
        target,
        settings,
        LANCZOS,
        plan.recipe.fingerprint,
        str(tmp_path / "work"),
        str(fresh),
        [segment.address for segment in plan.segments],
    )
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], input=pickle.dumps(order), capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    assert Path(target).stat().st_size > 0
    assert run.stdout.decode().strip(), "the provenance still says which torch restored"
