"""What orders mean, called as plain functions with a real folder."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_ray.errors import DeploymentError, InputError, MediaError
from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.work.encoded_segments import neighbourhood_of
from seedvr2_ray.restoration.work.remaining import RESTORED
from seedvr2_ray.serve.config import FetchRules, Limits, ModelPool
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.scheduler.video_progress import VideoProgress
from seedvr2_ray.serve.target_names import target_name
from seedvr2_ray.serve.workers import prepare, publish, restore
from seedvr2_ray.serve.workers.protocol import PrepareOrder
from seedvr2_ray.serve.workers.restore import StalePlanError, Stopped
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import digest_of
from tests.media import clips

pytestmark = pytest.mark.slow

SETTINGS = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=20, size=(64, 48), audio_tracks=1)
    return path


@pytest.fixture
def layout(tmp_path):
    return StorageLayout(data=str(tmp_path / "data"), scratch=str(tmp_path / "scratch"))


def order_of(layout, clip, settings=SETTINGS, *, name="film.mp4", job="job_1", **changes):
    """Upload a clip and describe a job for it."""
    folder = Path(layout.upload_folder(job))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip, folder / name)
    values = {
        "job_id": job,
        "source": Source(kind="upload", location=job, name=name),
        "settings": settings.to_mapping(),
        "limits": Limits(),
        "fetch": FetchRules(),
        "identity": LANCZOS,
        "pool": ModelPool(),
    }
    return PrepareOrder(**{**values, **changes})


def make(layout, order):
    """Do everything for a job, in order."""
    video = VideoProgress(order.job_id, order.source.name, prepare.prepare(layout, order))
    for segment in video.segment_orders(3):
        restore.restore(layout, segment, LanczosRestorer())
        video.take_restored(segment.segment.index)
    preview = video.preview_order()
    assert preview is not None
    assert publish.preview(layout, preview)
    while not video.work.is_done:
        for part in video.part_orders(4):
            publish.finish(layout, part)
            video.take_part(part)
    return publish.publish_result(layout, video.publish_order())


def test_what_is_published_is_found_by_whoever_asks_for_the_same_and_by_nobody_else(layout, clip):
    made = make(layout, order_of(layout, clip))
    again = prepare.prepare(layout, order_of(layout, clip, name="other name.mp4", job="job_2"))
    assert again.plan is None
    assert again.published == replace(made, name="other name-restored.mp4", was_cached=True)
    for change in ({"seed": 1}, {"crf": 30}, {"segment_seconds": 1.0}, {"container": "mkv"}):
        other = RestoreSettings.from_mapping({**SETTINGS.to_mapping(), **change})
        assert prepare.prepare(layout, order_of(layout, clip, other, job="job_3")).published is None
    newer = RestorerIdentity("lanczos", "another version")
    assert prepare.prepare(layout, order_of(layout, clip, job="job_4", identity=newer)).published is None


def test_a_second_codec_of_the_same_video_is_made_without_restoring_again(layout, clip):
    first = prepare.prepare(layout, order_of(layout, clip))
    video = VideoProgress("job_1", "film.mp4", first)
    for segment in video.segment_orders(3):
        restore.restore(layout, segment, LanczosRestorer())
    other = prepare.prepare(layout, order_of(layout, clip, replace(SETTINGS, crf=30), job="job_2"))
    assert VideoProgress("job_2", "film.mp4", other).work.to_restore == ()


def test_a_segment_whose_parts_another_job_finished_is_not_restored_again(layout, clip):
    prepared = prepare.prepare(layout, order_of(layout, clip))
    make(layout, order_of(layout, clip))
    (order, *_) = VideoProgress("job_2", "film.mp4", prepared).segment_orders(3)
    assert layout.store_of(prepared.source.content).find(RESTORED, order.segment.address) is None
    record = restore.restore(layout, order, None)
    assert record["segment"] == order.segment.index


def test_after_an_excerpt_the_whole_restores_only_the_rest(layout, clip):
    excerpt = make(layout, order_of(layout, clip, replace(SETTINGS, excerpt="frames 12-17")))
    assert excerpt.num_frames == 6
    whole = VideoProgress("job_2", "film.mp4", prepare.prepare(layout, order_of(layout, clip, job="job_2")))
    assert 0 < len(whole.work.to_restore) < len(whole.plan.segments)
    assert make(layout, order_of(layout, clip, job="job_3")).num_frames == 20


def test_a_segment_that_ends_every_process_fails_with_a_reason(layout, clip):
    prepared = prepare.prepare(layout, order_of(layout, clip))
    (order, *_) = VideoProgress("job_1", "film.mp4", prepared).segment_orders(2)

    class Deadly(LanczosRestorer):
        def restore(self, frames, task):
            raise SystemExit  # What a killed process leaves behind is what was written before.

    store = layout.store_of(prepared.source.content)
    for _ in range(2):
        store.record_attempt(f"deaths/{digest_of('job_1')[:16]}", order.segment.address)
    with pytest.raises(MediaError, match="ended the process that restored it 2 times"):
        restore.restore(layout, order, Deadly())
    # Whoever submits it again means to try again.
    assert restore.restore(layout, order, LanczosRestorer())["segment"] == order.segment.index


def test_stopping_a_segment_is_no_death_and_leaves_nothing_half_done(layout, clip):
    prepared = prepare.prepare(layout, order_of(layout, clip))
    (order, *_) = VideoProgress("job_1", "film.mp4", prepared).segment_orders(1)
    for _ in range(3):
        with pytest.raises(Stopped):
            restore.restore(layout, order, LanczosRestorer(), check_cancelled=_stop)
    assert not any((Path(layout.scratch) / "writing").iterdir())
    assert restore.restore(layout, order, LanczosRestorer())["frames"]


def _stop():
    raise Stopped("not wanted")


def test_a_segment_planned_for_another_version_of_its_model_is_planned_again(layout, clip):
    order = order_of(layout, clip, identity=RestorerIdentity("lanczos", "older"))
    (segment, *_) = VideoProgress("job_1", "film.mp4", prepare.prepare(layout, order)).segment_orders(3)
    with pytest.raises(StalePlanError):
        restore.restore(layout, segment, LanczosRestorer())


def test_a_file_that_ends_whoever_reads_it_is_set_aside(layout, clip):
    order = order_of(layout, clip)
    for _ in range(order.limits.max_segment_tries):
        layout.log.record_attempt("deaths/prepare", order.job_id)
    with pytest.raises(MediaError, match="ended the process that read it 3 times"):
        prepare.prepare(layout, order)


def test_a_source_that_is_replaced_after_planning_is_refused(layout, clip):
    order = order_of(layout, clip)
    (segment, *_) = VideoProgress("job_1", "film.mp4", prepare.prepare(layout, order)).segment_orders(3)
    uploaded = Path(layout.upload_folder("job_1")) / "film.mp4"
    uploaded.write_bytes(uploaded.read_bytes() + b"\0")
    with pytest.raises(InputError, match="changed"):
        restore.restore(layout, segment, LanczosRestorer())


@pytest.mark.parametrize("name", ["../film.mp4", "a/b.mp4", "..", ""])
def test_a_source_cannot_name_a_file_elsewhere(layout, clip, name):
    order = order_of(layout, clip)
    source = Source(kind="upload", location="job_1", name=name)
    with pytest.raises(MediaError, match="file name"):
        prepare.prepare(layout, replace(order, source=source))


def test_an_object_store_that_is_not_allowed_is_not_read(layout, clip):
    source = Source(kind="object", location=f"{clip.parent}/film.mp4", name="film.mp4")
    with pytest.raises(DeploymentError, match="may not read"):
        prepare.prepare(layout, replace(order_of(layout, clip), source=source))
    allowed = FetchRules(object_prefixes=(str(clip.parent),))
    assert prepare.prepare(layout, replace(order_of(layout, clip), source=source, fetch=allowed)).plan is not None


def test_images_of_a_sequence_come_as_one_archive_that_is_the_same_every_time(tmp_path, clip):
    settings = replace(SETTINGS, codec="png", preset="auto")
    digests = []
    for place in ("here", "there"):
        layout = StorageLayout(data=str(tmp_path / place), scratch=str(tmp_path / "scratch"))
        made = make(layout, order_of(layout, clip, settings))
        file = layout.results.file("master", made.address)
        with zipfile.ZipFile(file.local_path) as archive:
            assert len(archive.namelist()) == 20
        digests.append(made.sha256)
        assert (made.name, made.media_type) == ("film-restored.zip", "application/zip")
    assert digests[0] == digests[1]


def test_a_picture_gives_a_picture(layout, tmp_path):
    clips.make_image(tmp_path / "photo.png", size=(40, 30), pixel_format="rgb24", codec="png")
    made = make(layout, order_of(layout, tmp_path / "photo.png", replace(SETTINGS, preset="auto"), name="photo.png"))
    assert (made.name, made.media_type, made.width, made.height) == ("photo-restored.png", "image/png", 80, 60)


def test_results_are_read_in_parts(layout, clip):
    made = make(layout, order_of(layout, clip))
    file = layout.results.file("master", made.address)
    whole = b"".join(file.blocks())
    assert len(whole) == made.num_bytes
    assert b"".join(file.blocks(10, 110)) == whole[10:110]
    assert b"".join(file.blocks(made.num_bytes - 5, made.num_bytes + 50)) == whole[-5:]
    layout.results.discard(made.address)
    assert layout.results.find(made.address, name="x") is None
    assert not any(path.is_file() for path in Path(layout.results.root_url).rglob("*"))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("a.mov", {}, "restored.mov"),
        ("a.avi", {}, "restored.mp4"),
        ("a.ts", {}, "restored.mp4"),
        ("a", {}, "restored.mp4"),
        ("a.mp4", {"container": "mkv"}, "restored.mkv"),
        ("a.mp4", {"codec": "prores"}, "restored.mov"),
        ("a.webm", {"codec": "hevc"}, "restored.mp4"),
        ("a.mp4", {"codec": "png"}, "restored_%06d.png"),
    ],
)
def test_the_container_follows_the_settings_and_then_the_source(clip, name, settings, expected):
    media: MediaInfo = probe(str(clip))
    assert target_name(media, replace(SETTINGS, **settings), name) == expected


def test_the_neighbours_of_a_segment_are_enough_to_finish_its_part(layout, clip):
    prepared = prepare.prepare(layout, order_of(layout, clip))
    for index in range(len(prepared.plan.segments)):
        around = neighbourhood_of(prepared.plan.segments, index)
        assert around.segment == prepared.plan.segments[index]
        assert (around.predecessor is None) == (around.segment.overlap == 0)
