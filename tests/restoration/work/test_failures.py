import errno

import av
import pytest
import torch

from seedvr2_ray import errors
from seedvr2_ray.media.output.write_errors import write_error
from seedvr2_ray.restoration.work.failures import RetryPolicy, describe_failure, is_transient, with_retries
from seedvr2_ray.storage.records import LostWorkError

ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_of_ours_has_a_consequence_and_a_way_out(kind):
    failure = describe_failure("plan", kind("what is wrong"))
    assert failure.remedy
    assert "what is wrong" in failure.error
    may_pass = issubclass(kind, errors.RetryableError) and kind is not errors.DeviceMemoryError
    assert (failure.consequence == "later") == may_pass
    assert (failure.consequence == "stop") == issubclass(kind, errors.DeploymentError)


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError(), torch.OutOfMemoryError("full")])
def test_what_may_pass_is_transient(error):
    assert is_transient(error)


def test_tries_are_counted_and_pauses_grow_to_their_limit():
    pauses: list[float] = []

    def fail() -> None:
        raise errors.StorageError("away")

    policy = RetryPolicy(num_tries=6, first_pause_seconds=1.0, longest_pause_seconds=5.0)
    with pytest.raises(errors.StorageError):
        with_retries(fail, policy, sleep=pauses.append)
    assert len(pauses) == 5
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, (1, 2, 4, 5, 5), strict=True))


def test_a_mistake_is_not_repeated():
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise errors.MediaError("broken")

    with pytest.raises(errors.MediaError):
        with_retries(fail, RetryPolicy(), sleep=lambda seconds: None)
    assert calls == [1]


def test_lost_work_is_not_asked_for_again_and_planned_again():
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise LostWorkError("gone")

    with pytest.raises(LostWorkError):
        with_retries(fail, RetryPolicy(), sleep=lambda seconds: None)
    assert calls == [1]
    assert describe_failure("finish", LostWorkError("gone")).consequence == "later"


def test_what_ffmpeg_says_about_one_file_sets_that_file_aside_and_stops_nothing() -> None:
    error = write_error("joined.mp4", av.error.ArgumentError(errno.EINVAL, "Invalid argument"))
    assert describe_failure("assemble", error).consequence == "set_aside"
