import pytest

import seedvr2_ray as sv

SETTINGS = sv.RestoreSettings(
    model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast", detect_shots=False
)


@pytest.fixture(scope="module")
def restored(clip, tmp_path_factory):
    return sv.restore(clip, tmp_path_factory.mktemp("out") / "clip <b>.mp4", SETTINGS)


def test_a_probe_is_what_the_file_is_and_shows_itself(clip):
    media = sv.probe(clip)
    assert (media.video.width, media.video.num_frames, media.kind) == (64, 24, "video")
    assert "24 at" in media._repr_html_()
    assert repr(media) == f"Probe({str(clip)!r}, 64x48, 24 frames)"


def test_a_source_that_is_not_there_is_our_error(tmp_path):
    with pytest.raises(sv.MediaError):
        sv.probe(tmp_path / "none.mp4")


@pytest.mark.slow
def test_a_plan_is_drawn_with_every_shot_and_segment(clip, tmp_path):
    planned = sv.plan(clip, tmp_path / "out.mp4", SETTINGS)
    html = planned._repr_html_()
    assert planned.size == (128, 96)
    assert len(planned.segments) > 1
    for segment in planned.segments:
        assert f"segment {segment.index}: frames {segment.span.start} to {segment.span.stop - 1}" in html
    assert html.count("<rect") == len(planned.shots) + len(planned.segments) + sum(
        segment.overlap > 0 for segment in planned.segments
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_is_restored_with_its_report(restored):
    assert sv.probe(restored.target).video.width == 128
    assert restored.report is not None and restored.report.endswith(".html")
    assert "clip &lt;b&gt;.mp4" in restored._repr_html_()


@pytest.mark.slow
def test_a_report_is_read_back_with_a_row_per_segment(restored):
    report = sv.open_report(restored.target)
    assert sum(row["num_frames"] for row in report.segments) == 24
    assert all(row["psnr"] > 20 for row in report.segments)
    assert "colour_error" in report._repr_html_()
    assert max(len(repr(report)), len(repr(restored))) < 400


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(sv.InputError):
        sv.open_report(tmp_path / "none.mp4")
    (tmp_path / "other.mp4.json").write_text("[1]")
    with pytest.raises(sv.InputError, match="no provenance"):
        sv.open_report(tmp_path / "other.mp4")


def test_a_target_that_exists_is_kept_unless_it_may_be_replaced(clip, restored):
    with pytest.raises(sv.TargetError):
        sv.restore(clip, restored.target, SETTINGS)


class Heard:
    """Notes what it is told."""

    def __init__(self):
        self.stages, self.frames, self.total = [], 0, 0

    def stage(self, name):
        self.stages.append(name)

    def planned(self, plan, frames_to_restore):
        self.total = frames_to_restore

    def restored(self, num_frames):
        self.frames += num_frames


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(clip, tmp_path):
    class Stop(Exception):
        pass

    heard, target = Heard(), tmp_path / "out.mp4"
    first = sv.plan(clip, target, SETTINGS).segments[0].num_frames

    def stop_in_the_second_segment():
        if heard.frames > first:
            raise Stop

    with pytest.raises(Stop):
        sv.restore(clip, target, SETTINGS, progress=heard, check_cancelled=stop_in_the_second_segment)
    left = sv.plan(clip, target, SETTINGS)
    assert left.frames_to_restore == left.plan.restored_frames - first
    done = sv.restore(clip, target, SETTINGS)
    assert done.summary()["frames_restored_now"] == left.frames_to_restore


@pytest.mark.slow
def test_progress_is_told_and_a_bar_shows_it(clip, tmp_path, capsys):
    heard = Heard()
    sv.restore(clip, tmp_path / "a.mp4", SETTINGS, report=False, progress=heard)
    assert heard.stages == ["probe", "shots", "load", "restore", "assemble"]
    assert heard.frames == heard.total
    sv.restore(clip, tmp_path / "b.mp4", SETTINGS, report=False, progress=True)
    assert "assemble" in capsys.readouterr().out
