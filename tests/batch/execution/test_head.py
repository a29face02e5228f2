"""When a driver gives its cluster's head up. No Ray."""

import socket

import pytest

from seedvr2_ray.batch.execution.head import Head, HeadLostError, head_at


def test_a_head_is_given_up_before_ray_ends_the_process_and_not_for_a_short_absence():
    now, is_there = [0.0], [True]
    head = Head(lambda: is_there[0], limit_seconds=60, clock=lambda: now[0])

    def pass_seconds(seconds: int) -> None:
        for _ in range(seconds):
            now[0] += 1
            head.require()

    pass_seconds(100)
    is_there[0] = False
    pass_seconds(35)
    is_there[0] = True  # Started again, with its state in a store.
    pass_seconds(10)
    is_there[0] = False
    with pytest.raises(HeadLostError, match="has not answered for 4. s.*run the same command again"):
        pass_seconds(60)
    assert now[0] < 100 + 35 + 10 + 50


def test_whether_a_head_answers_is_asked_of_its_port(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        head = head_at(address)
        assert head._answers()
    assert not head_at(address)._answers()
