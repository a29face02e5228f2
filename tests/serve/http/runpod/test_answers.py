from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from seedvr2_ray.serve.http.inline_media import MEDIA_HERE
from seedvr2_ray.serve.http.runpod.answers import (
    OUT_OF_MEMORY,
    answered_at_once,
    carried_output,
    envelope,
    failure,
    output_of,
    stream_item,
    stream_status,
    with_output,
)
from seedvr2_ray.serve.jobs import ErrorInfo, Job, JobState, ResultInfo, Source
from seedvr2_ray.settings import RestoreSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
# What the installed SDK knows: runpod.endpoint.helpers and the documentation of its states.
KNOWN_STATES = {"IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
JOB = Job(
    id="job_1",
    owner="anna",
    state=JobState.COMPLETED,
    source=Source(kind="upload", location="u", name="video.mp4"),
    settings=RestoreSettings(model="nano", seed=7).to_mapping(),
    priority=0,
    created_at=NOW,
    started_at=NOW + timedelta(seconds=2),
    finished_at=NOW + timedelta(seconds=5),
    version=1,
    result=ResultInfo(
        address="a",
        name="video-restored.mp4",
        media_type="video/mp4",
        num_bytes=1000,
        sha256="s",
        width=960,
        height=960,
        num_frames=1,
    ),
    metadata={"model_type": "seedvr2_3b", "model_variant": "normal", "sp_size": 1, "resolution": "1280x720"},
)


@pytest.mark.parametrize("state", JobState)
def test_every_state_is_one_that_the_sdk_knows(state):
    assert envelope(replace(JOB, state=state))["status"] in KNOWN_STATES


@pytest.mark.parametrize("state", JobState)
def test_a_stream_ends_for_the_sdk_exactly_when_its_job_does(state):
    from runpod.endpoint.helpers import FINAL_STATES

    assert (stream_status(replace(JOB, state=state)) in FINAL_STATES) == state.is_final


def test_the_output_has_exactly_the_documented_fields_and_what_helps_beside_them():
    output = output_of(JOB, download_url="http://x", most_bytes=1000)
    assert output == {
        "success": True,
        "media": [MEDIA_HERE],
        "videos": [MEDIA_HERE],
        "media_type": "video",
        "model_type": "seedvr2_3b",
        "model_variant": "normal",
        "resolution": "1280x720",
        "processing_info": {"seed": 7, "cfg_scale": 1.0, "sample_steps": 1, "sequence_parallel_size": 1},
        "model": "nano",
        "download_url": "http://x",
    }


def test_times_are_milliseconds():
    assert (envelope(JOB)["delayTime"], envelope(JOB)["executionTime"]) == (2000, 3000)


def test_a_result_above_the_limit_is_not_in_the_answer_and_its_link_is():
    output = output_of(JOB, download_url="http://x", most_bytes=999)
    assert (output["success"], output["media"]) == (False, [])
    assert "http://x" in output["error"]


def test_a_job_that_another_api_made_can_be_shown_too():
    output = output_of(replace(JOB, metadata={}), download_url="http://x", most_bytes=1000)
    assert (output["model_type"], output["resolution"]) == ("nano", "960x960")


@pytest.mark.parametrize(
    ("kind", "detail", "error"),
    [
        ("capacity", "90 GiB are needed", OUT_OF_MEMORY),
        ("media", "the file is damaged", "Processing failed: the file is damaged"),
    ],
)
def test_a_failed_job_says_why(kind, detail, error):
    failed = replace(JOB, state=JobState.FAILED, result=None, error=ErrorInfo(kind=kind, detail=detail, remedy="r"))
    assert output_of(failed, download_url="", most_bytes=1)["error"] == error
    assert stream_item(failed)["output"]["error"] == error


def test_a_job_that_goes_on_or_was_cancelled_has_no_output():
    for state in (JobState.QUEUED, JobState.RESTORING, JobState.CANCELLED):
        assert output_of(replace(JOB, state=state, result=None), download_url="", most_bytes=1) is None


@pytest.mark.parametrize(
    "output", [failure("No video data provided"), failure("x" * 5000, "y"), {"message": "ready é", "ready": True}]
)
def test_what_ended_at_once_is_carried_by_its_id(output):
    answer = answered_at_once(output)
    assert carried_output(answer["id"]) == output
    assert answer["status"] == ("FAILED" if "error" in output else "COMPLETED")
    assert len(answer["id"]) < 8000


def _made_up(value: str) -> str:
    return "now-" + urlsafe_b64encode(value.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "request_id",
    [
        "job_1",
        "now-",
        "now-!",
        "now-AAAA",
        _made_up("[1]"),
        _made_up('{"a": NaN}'),
        _made_up('{"a": {"b": 1}}'),
        _made_up('{"a": "\\ud800"}'),
        _made_up("[" * 5000),
    ],
)
def test_other_ids_carry_nothing(request_id):
    assert carried_output(request_id) is None


def test_the_envelope_wins_over_the_output_at_the_top():
    whole = with_output({"id": "1", "status": "COMPLETED"}, {"status": "healthy", "ready": True}, on_top=True)
    assert whole == {
        "id": "1",
        "status": "COMPLETED",
        "ready": True,
        "output": {"status": "healthy", "ready": True},
    }
