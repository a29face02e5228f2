"""Laws of sharing, by simulation: replicas that take segments as they get free."""

import heapq
import random
from collections import Counter

import pytest

from seedvr2_ray.serve.scheduler.fair_share import Candidate, FairShare


class Pool:
    """Replicas, jobs with segments of given lengths, and a clock."""

    def __init__(self, num_replicas):
        self.share = FairShare()
        self.now = 0.0
        self.free = num_replicas
        self.left = {}
        self.candidates = {}
        self.flying = []
        self.history = []
        self.in_flight = Counter()

    def submit(self, job, owner, lengths, priority=0):
        self.share.enter(job, owner)
        self.candidates[job] = Candidate(job_id=job, owner=owner, priority=priority, order=len(self.candidates))
        self.left[job] = list(lengths)

    def step(self):
        """Send what can be sent, then go on to the next segment that ends; False when nothing is left."""
        while self.free and any(self.left.values()):
            first = self.share.ranked(self.candidates[job] for job, left in self.left.items() if left)[0]
            length = self.left[first.job_id].pop(0)
            self.share.send(first.job_id, length)
            self.history.append((self.now, first.job_id, length))
            heapq.heappush(self.flying, (self.now + length, len(self.history), first.job_id, length))
            self.in_flight[first.job_id] += 1
            self.free -= 1
        if not self.flying:
            return False
        self.now, _, job, length = heapq.heappop(self.flying)
        self.free += 1
        self.share.settle(job, length, length)
        self.in_flight[job] -= 1
        if not self.left[job] and not self.in_flight[job]:
            self.share.leave(job)
            del self.left[job]
        return True

    def run_until(self, seconds):
        while self.now < seconds and self.step():
            pass

    def seconds_of(self, owner):
        return sum(length for _, job, length in self.history if self.candidates[job].owner == owner)


@pytest.mark.parametrize("num_replicas", [1, 4])
def test_owners_with_work_get_equal_device_time_whatever_the_number_and_length_of_their_jobs(num_replicas):
    random.seed(1)
    pool = Pool(num_replicas)
    pool.submit("film", "anna", [10.0] * 500)
    for number in range(200):
        pool.submit(f"short-{number}", "bert", [random.uniform(1, 4) for _ in range(10)])
    pool.submit("other", "carl", [7.0] * 700)
    pool.run_until(900)
    seconds = [pool.seconds_of(owner) for owner in ("anna", "bert", "carl")]
    assert max(seconds) - min(seconds) <= 2 * 10.0 * num_replicas


@pytest.mark.parametrize("num_replicas", [1, 3])
@pytest.mark.parametrize("owner", ["anna", "bert"])
def test_a_short_job_overtakes_a_long_video_at_the_next_free_replica(num_replicas, owner):
    pool = Pool(num_replicas)
    pool.submit("film", "anna", [5.0] * 1000)
    pool.run_until(100)
    before = len(pool.history)
    pool.submit("short", owner, [1.0])
    pool.step()
    pool.step()
    assert pool.history[before][1] == "short"


def test_a_video_alone_has_every_replica():
    pool = Pool(8)
    pool.submit("film", "anna", [3.0] * 80)
    pool.run_until(1e9)
    assert pool.now == pytest.approx(80 * 3.0 / 8)


def test_whoever_stayed_away_gathers_no_claim():
    pool = Pool(1)
    pool.submit("early", "bert", [1.0])
    pool.submit("film", "anna", [1.0] * 2000)
    pool.run_until(1000)
    before = len(pool.history)
    pool.submit("late", "bert", [1.0] * 500)
    pool.run_until(1200)
    turns = Counter(job for _, job, _ in pool.history[before:])
    assert abs(turns["late"] - turns["film"]) <= 2


def test_leaving_and_coming_back_does_not_jump_the_queue():
    pool = Pool(1)
    pool.submit("film", "anna", [1.0] * 1000)
    for number in range(300):
        pool.submit(f"piece-{number}", "bert", [1.0])
        pool.step()
    assert abs(pool.seconds_of("bert") - pool.seconds_of("anna")) <= 2


def test_priority_is_among_the_jobs_of_one_owner_only():
    pool = Pool(1)
    pool.submit("low", "anna", [1.0] * 20)
    pool.submit("high", "anna", [1.0] * 20, priority=5)
    pool.submit("other", "bert", [1.0] * 40, priority=-10)
    pool.run_until(40)
    turns = Counter(job for _, job, _ in pool.history)
    assert turns["other"] == pytest.approx(20, abs=2)
    assert turns["high"] == pytest.approx(20, abs=2)
    assert turns["low"] <= 2


def test_twenty_jobs_of_three_owners_interleave():
    pool = Pool(2)
    for number in range(20):
        pool.submit(f"job-{number}", ("anna", "bert", "carl")[number % 3], [2.0] * 6)
    pool.run_until(30)
    # Everybody's jobs were begun before anybody's were done.
    assert {pool.candidates[job].owner for _, job, _ in pool.history[:6]} == {"anna", "bert", "carl"}
    assert len({job for _, job, _ in pool.history}) == 20


def test_a_wrong_estimate_is_corrected():
    share = FairShare()
    share.enter("a", "anna")
    share.enter("b", "bert")
    share.send("a", 1.0)
    share.settle("a", 1.0, 100.0)
    share.send("b", 50.0)
    share.settle("b", 50.0, 50.0)
    candidates = [
        Candidate(job_id=job, owner=owner, priority=0, order=0) for job, owner in (("a", "anna"), ("b", "bert"))
    ]
    assert share.ranked(candidates)[0].job_id == "b"
