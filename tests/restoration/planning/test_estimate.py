import json
from dataclasses import replace

import pytest

from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.restoration.planning.estimate import RunRate, estimate_time, read_history, remember_run
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings
from tests.restoration import plans

NOBODY = RestorerIdentity("nobody", "0")


def a_plan(restorer=NOBODY, **settings):
    return plans.a_plan(RestoreSettings(resolution="1224x816", **settings), restorer)


def a_run(plan, rate, device="cpu"):
    return replace(RunRate.of_run(plan, device=device, num_frames=10, seconds=10.0), megapixels_per_second=rate)


def estimate(plan, history, device="cpu"):
    return estimate_time(plan, device=device, num_frames=20, history=history)


def test_what_was_never_measured_is_not_guessed(tmp_path):
    assert estimate(a_plan(), tmp_path / "runs.jsonl") is None


def test_a_run_is_measured_in_output_megapixels_per_second():
    rate = RunRate.of_run(a_plan(), device="cpu", num_frames=30, seconds=10.0)
    assert rate.megapixels_per_second == pytest.approx(3.0, rel=0.01)


def test_a_run_that_did_next_to_nothing_is_not_remembered():
    assert RunRate.of_run(a_plan(), device="cpu", num_frames=0, seconds=100.0) is None
    assert RunRate.of_run(a_plan(), device="cpu", num_frames=10, seconds=0.01) is None


def test_the_median_of_the_last_runs_decides(tmp_path):
    history, plan = tmp_path / "deep" / "runs.jsonl", a_plan()
    for rate in (100.0, 100.0, 1.0, 2.0, 2.0, 2.0, 50.0):
        remember_run(a_run(plan, rate), history)
    found = estimate(plan, history)
    assert found.seconds == pytest.approx(10.0, rel=0.01)
    assert str(found) == "about 10 s (from your last 5 runs with this model here)"


def test_runs_of_another_model_or_device_do_not_count_and_of_another_encoder_only_if_there_are_no_others(tmp_path):
    history, plan = tmp_path / "runs.jsonl", a_plan()
    remember_run(a_run(a_plan(RestorerIdentity("somebody", "0")), 1.0), history)
    remember_run(a_run(plan, 1.0, device="NVIDIA H200"), history)
    assert estimate(plan, history) is None
    remember_run(a_run(a_plan(preset="ultrafast"), 4.0), history)
    assert estimate(plan, history).seconds == pytest.approx(5.0, rel=0.01)
    assert "other encoder settings" in estimate(plan, history).basis
    remember_run(a_run(plan, 2.0), history)
    assert estimate(plan, history).seconds == pytest.approx(10.0, rel=0.01)


def test_a_damaged_history_is_no_history_and_is_mended_by_the_next_run(tmp_path):
    history, plan = tmp_path / "runs.jsonl", a_plan()
    history.write_bytes(b'{"model": "nobody"}\n[1]\n{"model": "nobody", "dev')
    assert read_history(history) == []
    remember_run(a_run(plan, 2.0), history)
    assert [rate.megapixels_per_second for rate in read_history(history)] == [2.0]
    history.write_bytes(b"\xff\xfe")
    assert read_history(history) == []


def test_a_history_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    remember_run(a_run(a_plan(), 2.0), tmp_path / "file" / "runs.jsonl")


def test_the_history_stays_short(tmp_path):
    history = tmp_path / "runs.jsonl"
    line = json.dumps({name: getattr(a_run(a_plan(), 1.0), name) for name in RunRate.__dataclass_fields__})
    history.write_text(f"{line}\n" * 2000)
    remember_run(a_run(a_plan(), 3.0), history)
    assert len(read_history(history)) == 500
    assert read_history(history)[-1].megapixels_per_second == 3.0


def test_a_model_that_ships_with_a_measurement_is_estimated_from_it_and_says_so(tmp_path):
    found = estimate(a_plan(LANCZOS), tmp_path / "runs.jsonl")
    assert found.seconds == pytest.approx(20 / 6.3, rel=0.01)
    assert "as measured on" in found.basis


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (70, "70 s"), (240, "4 min"), (9000, "2.5 h"), (400_000, "4.6 days")]
)
def test_durations_are_said_as_people_do(seconds, words, tmp_path):
    history, plan = tmp_path / "runs.jsonl", a_plan()
    megapixels = 20 * plan.recipe.geometry.width * plan.recipe.geometry.height / 1e6
    remember_run(a_run(plan, megapixels / seconds), history)
    assert str(estimate(plan, history)).startswith(f"about {words} ")
