"""Laws of the bounded queue between two threads."""

import threading

from seedvr2_ray.live.channel import Channel


def test_drop_keeps_the_newest_and_counts_the_others() -> None:
    channel: Channel[int] = Channel(3, "drop")
    dropped = [channel.put(number) for number in range(10)]
    assert dropped == [None, None, None, 0, 1, 2, 3, 4, 5, 6]
    assert channel.num_dropped == 7
    assert channel.take(10) == [7, 8, 9]


def test_slow_makes_whoever_puts_wait_and_loses_nothing() -> None:
    channel: Channel[int] = Channel(2, "slow")
    taken: list[int] = []

    def put_all() -> None:
        for number in range(50):
            channel.put(number)
        channel.close()

    sender = threading.Thread(target=put_all)
    sender.start()
    while not channel.is_over:
        assert len(channel) <= 2
        taken += channel.take(5)
    sender.join(60)
    assert taken == list(range(50))


def test_what_is_in_a_closed_channel_can_still_be_taken() -> None:
    channel: Channel[int] = Channel(4)
    channel.put(1)
    channel.close()
    channel.put(2)
    assert channel.take(9) == [1]
    assert channel.take(9) == []
    assert channel.is_over


def test_an_abandoned_channel_lets_its_sender_go() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    sender = threading.Thread(target=channel.put, args=(2,))
    sender.start()
    channel.abandon()
    sender.join(60)
    assert not sender.is_alive() and channel.is_over


def test_taking_gives_up_after_a_while() -> None:
    assert Channel[int](1).take(timeout=0.01) == []
