import hashlib
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import av
import pytest
from PIL import Image

from seedvr2_ray.errors import CapacityError, InputError, StorageError, TargetError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import open_work, prepare, restore_video
from seedvr2_ray.restoration.work.assemble import assemble
from seedvr2_ray.restoration.work.encoded_segments import finish_segment
from seedvr2_ray.restoration.work.segment import restore_segment
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips

SETTINGS = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")


class CountingRestorer(LanczosRestorer):
    """Remembers which frames it was asked for, and may stop like a killed process would."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.frames = []
        self.stop_after = stop_after

    def restore(self, frames, task):
        for batch in super().restore(frames, task):
            self.frames.append((task.first_frame, len(batch)))
            if self.stop_after is not None and len(self.frames) >= self.stop_after:
                raise KeyboardInterrupt
            yield batch


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=50, cuts=(20,), audio_tracks=1, bframes=2)
    return str(path)


def restore(source, target, restorer=None, settings=SETTINGS, **options):
    restorer = restorer or LanczosRestorer()
    return restore_video(
        str(source), str(target), settings, restorer.identity, lambda: restorer, report=False, **options
    )


def content(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@dataclass(frozen=True)
class Run:
    """What a run that nothing disturbed asked for and left behind."""

    folder: Path
    frames: list[tuple[int, int]]

    @property
    def master(self):
        return self.folder / "out.mp4"


@pytest.fixture(scope="module")
def undisturbed(clip, tmp_path_factory):
    restorer = CountingRestorer()
    run = Run(tmp_path_factory.mktemp("undisturbed"), restorer.frames)
    restore(clip, run.master, restorer)
    return run


@pytest.mark.slow
def test_segments_restored_and_finished_in_any_order_give_the_same_bytes(clip, undisturbed, tmp_path):
    restorer = LanczosRestorer()
    target = tmp_path / "out.mp4"
    with open_work(str(target), None, keep=False) as (store, workspace):
        prepared = prepare(clip, str(target), SETTINGS, restorer.identity, store=store, workspace=workspace)
        segments = list(prepared.plan.segments)
        assert len(segments) > 3
        random.Random(1).shuffle(segments)
        for segment in segments:
            restore_segment(prepared.plan.recipe, segment, restorer, store, source_path=clip, workspace=workspace)
        random.Random(2).shuffle(segments)
        for segment in segments:
            before = prepared.plan.segments[segment.index - 1] if segment.overlap else None
            finish_segment(prepared.plan.recipe, segment, before, store, workspace=workspace)
        assemble(prepared.plan, store, str(target), source_path=clip, workspace=workspace, overwrite=False, timings={})
    assert content(target) == content(undisturbed.master)


# After a cut; and in the first segment, around the first commits, and before the very last frame.
@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [27, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 13, -1))])
def test_a_run_stopped_anywhere_and_run_again_gives_the_same_bytes_and_repeats_no_committed_segment(
    clip, undisturbed, tmp_path, stop_after
):
    target = tmp_path / "out.mp4"
    stopped = CountingRestorer(stop_after % len(undisturbed.frames))
    with pytest.raises(KeyboardInterrupt):
        restore(clip, target, stopped)
    assert not target.exists()
    resumed = CountingRestorer()
    restore(clip, target, resumed)
    assert content(target) == content(undisturbed.master)
    in_flight = stopped.frames[-1][0]
    done_before = {first for first, _ in stopped.frames} - {in_flight}
    assert {first for first, _ in resumed.frames} == {first for first, _ in undisturbed.frames} - done_before


@pytest.mark.slow
def test_committed_work_that_is_cut_short_is_done_again_by_the_run_after_the_one_that_notices(
    clip, undisturbed, tmp_path
):
    target = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        restore(clip, target, CountingRestorer(27))
    part = next(path for path in tmp_path.rglob("parts/payloads/*") if path.is_file())
    os.truncate(part, part.stat().st_size // 2)
    with pytest.raises(StorageError, match="the same command does its work again"):
        restore(clip, target, CountingRestorer())
    restore(clip, target, CountingRestorer())
    assert content(target) == content(undisturbed.master)


@pytest.mark.slow
def test_settings_that_change_the_encoding_only_do_not_restore_again(clip, tmp_path):
    target = tmp_path / "out.mp4"
    first, second = CountingRestorer(), CountingRestorer()
    work = str(tmp_path / "work")
    with open_work(str(target), work, keep=True) as (store, workspace):
        prepared = prepare(clip, str(target), SETTINGS, first.identity, store=store, workspace=workspace)
        for segment in prepared.plan.segments:
            restore_segment(prepared.plan.recipe, segment, first, store, source_path=clip, workspace=workspace)
    other = RestoreSettings.from_mapping({**SETTINGS.to_mapping(), "crf": 30})
    restore(clip, target, second, other, work_folder=work)
    assert second.frames == []


@pytest.mark.slow
def test_a_finished_run_leaves_the_master_and_its_sidecar_and_nothing_else(undisturbed):
    assert sorted(path.name for path in undisturbed.folder.iterdir()) == ["out.mp4", "out.mp4.json"]
    sidecar = json.loads((undisturbed.folder / "out.mp4.json").read_text())
    assert sidecar["frames"] == 50
    assert sidecar["source"]["fingerprint"]
    assert [part["frames"][0] for part in sidecar["segments"]] == sorted(
        part["frames"][0] for part in sidecar["segments"]
    )


def test_every_frame_of_the_source_is_there_once_in_order(undisturbed):
    media = probe(str(undisturbed.master))
    span = FrameSpan(0, tuple(media.frame_pts))
    frames = [
        clips.read_frame_number(rgb) for batch in decode_span(media.path, media.video, span) for rgb in batch.data_TCHW
    ]
    assert frames == list(range(50))


@pytest.mark.slow
def test_an_existing_target_is_refused_before_anything_is_read(clip, tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(TargetError, match="allow overwriting"):
        restore(clip, target)
    assert target.read_bytes() == b"precious"
    restore(clip, target, overwrite=True)
    assert target.read_bytes() != b"precious"


def test_the_source_is_never_its_own_target(clip):
    with pytest.raises(TargetError, match="source itself"):
        restore(clip, clip, overwrite=True)


def test_two_runs_on_one_target_do_not_disturb_each_other(clip, tmp_path):
    target = tmp_path / "out.mp4"
    with open_work(str(target), None, keep=False):
        with pytest.raises(CapacityError, match="another run"):
            restore(clip, target)


@pytest.mark.slow
def test_a_source_that_changes_during_the_run_is_noticed(clip, tmp_path):
    source = tmp_path / "film.mp4"
    source.write_bytes(Path(clip).read_bytes())

    class Changing(LanczosRestorer):
        def restore(self, frames, task):
            yield from super().restore(frames, task)
            with source.open("ab") as file:
                file.write(b"\0" * 64)

    with pytest.raises(InputError, match="changed while"):
        restore(source, tmp_path / "out.mp4", Changing())
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("resolution", ["x1", "x2"])
def test_a_picture_of_one_pixel_is_restored_like_any_other(size, resolution, tmp_path):
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "a.png")
    settings = RestoreSettings(model="lanczos", resolution=resolution)
    restore(tmp_path / "a.png", tmp_path / "b.png", settings=settings)
    factor = int(resolution[1:])
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (factor * size[0], factor * size[1])
        assert image.getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 1), (2, 2)])
@pytest.mark.parametrize("target", ["b.mkv", "b.mp4"])
def test_a_video_of_one_pixel_is_restored_like_any_other(size, target, tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=size[0], height=size[1], pix_fmt="yuv444p")
        stream.codec_context.options = {"level": "1"}
        for number in range(3):
            frame = av.VideoFrame(*size, "yuv444p")
            for plane in frame.planes:
                plane.update(bytes([60 * number]) * plane.buffer_size)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    restore(tmp_path / "a.mkv", tmp_path / target)
    assert probe(str(tmp_path / target)).video.num_frames == 3


@pytest.mark.slow
def test_a_name_with_a_percent_sign_is_the_name_of_what_is_written(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "my%20dog.jpg")
    restore(tmp_path / "my%20dog.jpg", tmp_path / "my%20dog-%03d.png", settings=RestoreSettings(model="lanczos"))
    clips.make_clip(tmp_path / "my%20dance.mp4", num_frames=3)
    restore(tmp_path / "my%20dance.mp4", tmp_path / "my%20dance-x2.mp4")
    assert {"my%20dog-%03d.png", "my%20dance-x2.mp4"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_photo_larger_than_the_usual_size_keeps_it_unasked(tmp_path):
    Image.new("L", (1600, 1200)).save(tmp_path / "a.png")
    finished = restore(tmp_path / "a.png", tmp_path / "b.png", settings=RestoreSettings(model="lanczos"))
    assert ("kept", "size") in {(notice.outcome, notice.subject) for notice in finished.assembly.notices}
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (1600, 1200)
