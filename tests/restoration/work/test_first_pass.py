"""Laws of the first pass: one look at every frame, remembered, and what is restored later is held against it."""

import json
from dataclasses import replace

import pytest

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import open_work, prepare, restore_video
from seedvr2_ray.restoration.work import first_pass
from seedvr2_ray.restoration.work.first_pass import SHOTS, look_through
from seedvr2_ray.restoration.work.segment import restore_segment
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.commits import CommitStore
from tests.media.bitstream.in_band import make_changing_clip
from tests.media.clips import make_clip, make_image
from tests.media.damaged import damage

SETTINGS = RestoreSettings(model="lanczos", resolution="x1", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")


@pytest.fixture
def clip(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=40, cuts=(20,), bframes=2)
    return str(tmp_path / "a.mp4")


def planned(source, folder, settings=SETTINGS, target="out.mkv"):
    """Plan, and give a function that restores a segment of the plan."""
    restorer = LanczosRestorer()
    store, workspace = CommitStore(str(folder / "store")), folder / "workspace"
    workspace.mkdir(parents=True)
    prepared = prepare(str(source), str(folder / target), settings, restorer.identity, store=store, workspace=workspace)

    def restore(segment, **changes):
        segment = replace(segment, **changes)
        return restore_segment(
            prepared.plan.recipe, segment, restorer, store, source_path=str(source), workspace=workspace
        )

    return prepared.plan, restore


def test_what_was_seen_is_remembered(clip, tmp_path, monkeypatch):
    media, store = probe(clip), CommitStore(str(tmp_path / "store"))
    seen = look_through(clip, media, "sha256-1", store, salvage=False)
    assert 20 in seen.shots and len(seen.proof.crcs) == 40
    monkeypatch.setattr(first_pass, "decode_thumbnails", None)
    assert look_through(clip, media, "sha256-1", store, salvage=False) == seen


@pytest.mark.parametrize("changed", ["source", "salvage", "libraries", "proof"])
def test_it_is_looked_at_again_when_anything_changes_that_pictures_depend_on(clip, tmp_path, monkeypatch, changed):
    media, store = probe(clip), CommitStore(str(tmp_path / "store"))
    look_through(clip, media, "sha256-1", store, salvage=False)
    if changed == "libraries":
        monkeypatch.setattr(first_pass, "library_versions", lambda: {"libavcodec": "99"})
    if changed == "proof":
        monkeypatch.setattr(first_pass, "PROOF_VERSION", 99)
    look_through(clip, media, "sha256-2" if changed == "source" else "sha256-1", store, salvage=changed == "salvage")
    assert len(store.addresses(SHOTS)) == 2


@pytest.mark.parametrize("name", ["crcs", "starts", "sha256"])
def test_a_damaged_note_is_noticed_discarded_and_made_again(clip, tmp_path, name):
    media, store = probe(clip), CommitStore(str(tmp_path / "store"))
    seen = look_through(clip, media, "sha256-1", store, salvage=False)
    (path,) = (tmp_path / "store" / SHOTS / "records").iterdir()
    body = json.loads(path.read_text())
    value = body["record"][name]
    other = value[:5] + ("A" if value[5] != "A" else "B") + value[6:] if isinstance(value, str) else [0, 21]
    body["record"][name] = other
    path.write_text(json.dumps(body))
    with pytest.raises(StorageError, match="is damaged.*looks through the source again"):
        look_through(clip, media, "sha256-1", store, salvage=False)
    assert look_through(clip, media, "sha256-1", store, salvage=False) == seen


def test_three_hours_take_four_bytes_a_frame_and_a_segment_its_own():
    crcs = first_pass.new_crcs()
    crcs.extend(range(260_000))
    proof = first_pass.Proof(crcs)
    record = first_pass._to_record(first_pass.FirstPass((0,), proof))
    assert len(json.dumps(record)) < 1_500_000
    assert first_pass._from_record(json.loads(json.dumps(record)), 260_000).proof == proof
    assert len(proof.of_span(1000, 1240).crcs) == 4 * 242


@pytest.mark.parametrize("changes", [{}, {"detect_shots": False}, {"reference": True, "resolution": "area:96x64"}])
def test_every_segment_carries_its_share_of_the_proof_whatever_is_asked(clip, tmp_path, changes):
    plan, _ = planned(clip, tmp_path / "work", replace(SETTINGS, **changes))
    assert (len(plan.shots) == 1) == bool(changes)
    for segment in plan.segments:
        assert segment.proof.start <= segment.span.start
        assert all(segment.proof.crc_of(number) is not None for number in range(segment.span.start, segment.span.stop))


@pytest.mark.slow
def test_the_record_says_that_the_source_was_proved(clip, tmp_path):
    restorer = LanczosRestorer()
    restore_video(clip, str(tmp_path / "out.mkv"), SETTINGS, restorer.identity, lambda: restorer, report=False)
    sidecar = json.loads((tmp_path / "out.mkv.json").read_text())
    assert [part["restored"]["source_proved"] for part in sidecar["segments"]] == [True] * len(sidecar["segments"])


@pytest.mark.slow
def test_a_segment_whose_pictures_are_not_the_proofs_is_not_committed(clip, tmp_path):
    plan, restore = planned(clip, tmp_path / "work")
    segment = plan.segments[-1]
    wrong = replace(segment.proof, crcs=segment.proof.crcs[:-4] + b"\0\0\0\0")
    with pytest.raises(StorageError, match="does not decode to the picture"):
        restore(segment, proof=wrong)
    assert restore(segment)["source_proved"]


@pytest.mark.slow
def test_a_stream_whose_parameter_sets_change_is_restored_from_its_own_pictures(tmp_path):
    make_changing_clip(tmp_path / "a.mkv", "h264", cabac=False)
    cut, whole = (
        planned(tmp_path / "a.mkv", tmp_path / name, replace(SETTINGS, segment_seconds=seconds, detect_shots=False))
        for name, seconds in (("cut", 0.5), ("whole", 60))
    )
    assert len(cut[0].segments) > 4 and len(whole[0].segments) == 1
    assert all(cut[1](segment)["source_proved"] for segment in cut[0].segments)


def test_a_still_image_is_proved_too(tmp_path):
    make_image(tmp_path / "a.png", codec="png", pixel_format="rgb24")
    plan, restore = planned(tmp_path / "a.png", tmp_path / "work", replace(SETTINGS, preset="auto"), target="out.png")
    (segment,) = plan.segments
    assert restore(segment)["source_proved"]
    make_image(tmp_path / "a.png", codec="png", pixel_format="rgb24", number=6)
    with pytest.raises(StorageError, match="the image does not decode to the picture"):
        restore(segment, address="0" * 64)


@pytest.mark.slow
def test_stand_ins_are_named_in_the_proof_and_the_record(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=48, gop=12, container_options={"movflags": "faststart"})
    path = damage(tmp_path / "a.mp4", 0.5, 300)
    plan, restore = planned(path, tmp_path / "work", replace(SETTINGS, salvage=True))
    records = [restore(segment) for segment in plan.segments]
    missing = {number for record in records for number in record["missing_frames"]}
    concealed = {number for record in records for number in record["concealed_frames"]}
    assert missing and len(missing | concealed) < 24
    assert all(record["source_proved"] for record in records)


@pytest.mark.slow
def test_a_folder_of_work_of_an_earlier_run_serves_the_next_one(clip, tmp_path):
    restorer = LanczosRestorer()
    for _ in range(2):
        with open_work(str(tmp_path / "out.mkv"), str(tmp_path / "work"), keep=True) as (store, workspace):
            prepare(clip, str(tmp_path / "out.mkv"), SETTINGS, restorer.identity, store=store, workspace=workspace)
            assert len(store.addresses(SHOTS)) == 1
