"""Laws of the states of a job."""

from itertools import product

import pytest

from seedvr2_ray.serve.jobs import TRANSITIONS, UNFINISHED, JobState, require_transition
from seedvr2_ray.serve.problems import ConflictRefusal


def _reachable(start: JobState) -> set[JobState]:
    found: set[JobState] = set()
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in found:
            found.add(state)
            waiting.extend(TRANSITIONS[state])
    return found


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_exactly_the_steps_of_the_table_are_let_through(before: JobState, after: JobState) -> None:
    if after in TRANSITIONS[before]:
        require_transition("job_1", before, after)
    else:
        with pytest.raises(ConflictRefusal, match=f"job_1 is {before} and cannot become {after}; after {before} comes"):
            require_transition("job_1", before, after)


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(JobState) == _reachable(JobState.QUEUED)


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_an_unfinished_job_can_always_complete_fail_and_be_cancelled(state: JobState) -> None:
    assert {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED} <= _reachable(state)
    assert {JobState.FAILED, JobState.CANCELLED} <= TRANSITIONS[state]


@pytest.mark.parametrize("state", JobState)
def test_a_job_waits_or_is_worked_on_or_has_ended(state: JobState) -> None:
    assert [state is JobState.QUEUED, state.is_active, state.is_final].count(True) == 1
    assert state.is_final == (state not in UNFINISHED)


@pytest.mark.parametrize("state", [state for state in JobState if state.is_active and state is not JobState.PLANNING])
def test_a_job_that_lost_its_runner_can_be_planned_again(state: JobState) -> None:
    assert JobState.PLANNING in TRANSITIONS[state]


def test_nobody_goes_back_into_the_queue() -> None:
    assert all(JobState.QUEUED not in following for following in TRANSITIONS.values())
