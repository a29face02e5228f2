from fractions import Fraction

import pytest
import torch

from seedvr2_ray.frames import Frames, FrameSpan
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.report.joins import step_across
from seedvr2_ray.restoration.report.source_step import SourceStep
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips


def a_segment(num_frames, part_frames):
    span = FrameSpan(10, tuple(range(10, 10 + num_frames)))
    return Segment(index=0, shot=0, span=span, overlap=0, part_frames=part_frames, address="a", part_address="b")


def levels(*values):
    """Flat grey frames, in codes of 8 bits."""
    return [torch.full((4, 6), value / 255) for value in values]


def test_an_even_change_has_no_step_and_a_jump_has_its_size():
    assert step_across(levels(10, 12, 14, 16), 2) == pytest.approx(0.0, abs=1e-4)
    assert step_across(levels(10, 12, 20, 22), 2) == pytest.approx(6.0, abs=1e-4)


def test_too_few_frames_say_nothing():
    assert step_across(levels(10, 12), 1) is None
    assert step_across(levels(10, 12, 14), 0) is None


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_the_sources_step_is_that_of_the_frames_around_the_join_however_they_are_batched(batch):
    values = [5, 200, 7, 90, 10, 12, 20, 22, 0, 255]  # The join lies between 12 and 20.
    data = torch.stack([torch.full((3, 4, 6), value, dtype=torch.uint8) for value in values])
    pts = tuple(range(10, 20))
    watcher = SourceStep(a_segment(10, part_frames=6))
    batches = [Frames(data[i : i + batch], pts[i : i + batch], Fraction(1, 24)) for i in range(0, 10, batch)]
    assert list(watcher.watch(batches)) == batches
    assert watcher.measure() == pytest.approx(6.0, abs=1e-3)


def test_a_segment_that_nothing_follows_in_its_shot_has_no_join():
    watcher = SourceStep(a_segment(3, part_frames=3))
    data = torch.zeros(3, 3, 4, 6, dtype=torch.uint8)
    list(watcher.watch([Frames(data, (10, 11, 12), Fraction(1, 24))]))
    assert watcher.measure() is None


class Brightening(LanczosRestorer):
    """A restorer that is brighter in every later segment, as a bad one might be."""

    def __init__(self, codes):
        super().__init__()
        self.codes = codes

    def restore(self, frames, task):
        brighter = self.codes * (task.first_frame > 0)
        for batch in super().restore(frames, task):
            data = (batch.data_TCHW.to(torch.int16) + brighter).clamp(0, 255).to(torch.uint8)
            yield Frames(data, batch.pts, batch.time_base)


@pytest.mark.slow
@pytest.mark.parametrize("codes", [0, 40])
def test_the_record_of_a_part_tells_a_visible_join_from_an_invisible_one(codes, tmp_path):
    clips.make_clip(tmp_path / "film.mp4", num_frames=24)
    restorer = Brightening(codes)
    settings = RestoreSettings(
        model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=1, detect_shots=False, preset="ultrafast"
    )
    finished = restore_video(
        str(tmp_path / "film.mp4"),
        str(tmp_path / "out.mp4"),
        settings,
        restorer.identity,
        lambda: restorer,
        report=False,
    )
    first, second, *_ = [part["boundary_step"] for part in finished.assembly.provenance["segments"]]
    assert first is None
    if codes:
        assert second > 3.0
    else:
        assert abs(second) < 1.0
