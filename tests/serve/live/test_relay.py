"""Laws of what lies between a caller's socket and the replica."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from seedvr2_ray.serve.live.relay import RelayLimits, StreamRelay
from tests.waiting import within

QUICK = RelayLimits(
    most_input_bytes=10, most_output_bytes=10, most_kept_bytes=10, grace_seconds=0.05, stall_seconds=0.05
)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(within(120, story))


def test_bytes_and_pieces_go_through_in_order_and_end() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", RelayLimits())
        socket, received = await relay.attach("anna", 0)
        assert received == 0
        assert await relay.push(socket, b"ab") and await relay.push(socket, b"c")
        assert await relay.take() == b"abc"
        assert await relay.give({"event": "begin"}) is None
        assert await relay.give(b"init") is None
        assert await relay.fetch(socket, 1) == ([{"event": "begin"}, b"init"], False)
        await relay.end_input()
        assert await relay.take() == b""
        await relay.finish_with({"event": "end"})
        assert await relay.fetch(socket, 1) == ([{"event": "end"}], True)
        assert not await relay.push(socket, b"late")

    run(story())


def test_a_sender_that_is_too_fast_waits_for_room() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", QUICK)
        socket, _ = await relay.attach("anna", 0)
        assert await relay.push(socket, b"0123456789")
        late = asyncio.create_task(relay.push(socket, b"more"))
        await asyncio.sleep(0.02)
        assert not late.done()
        assert await relay.take() == b"0123456789"
        assert await late
        assert await relay.take() == b"more"

    run(story())


def test_a_caller_who_does_not_read_ends_the_stream_with_one_sentence() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", QUICK)
        socket, _ = await relay.attach("anna", 0)
        assert await relay.give(b"0123456789") is None
        why = await relay.give(b"more")
        assert why is not None and "nothing was read for" in why
        assert relay.why() == why
        assert await relay.take() == b""
        assert await relay.fetch(socket, 1) == ([b"0123456789"], True)

    run(story())


def test_a_caller_who_comes_back_in_time_goes_on_where_it_was() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", RelayLimits(grace_seconds=600))
        first, _ = await relay.attach("anna", 0)
        await relay.push(first, b"abc")
        for piece in (b"0", b"1", b"2"):
            await relay.give(piece)
        await relay.fetch(first, 1)
        await relay.detach(first)
        await relay.give(b"3")
        # Two pieces arrived before the connection broke.
        second, received = await relay.attach("anna", 2)
        assert received == 3
        assert await relay.fetch(second, 1) == ([b"2", b"3"], False)
        assert await relay.fetch(first, 1) == ([], True), "the old socket gets nothing"
        assert not await relay.push(first, b"x") and await relay.push(second, b"d")
        assert await relay.take() == b"abcd"

    run(story())


def test_a_caller_who_stays_away_ends_the_stream() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", QUICK)
        socket, _ = await relay.attach("anna", 0)
        await relay.detach(socket)
        assert await relay.take() == b""

    run(story())


def test_a_caller_who_is_there_and_sends_nothing_ends_the_stream_and_is_told() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", QUICK)
        await relay.attach("anna", 0)
        assert await relay.take() == b""
        assert "nothing was sent" in (relay.why() or "")

    run(story())


def test_nobody_else_gets_a_stream() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", QUICK)
        with pytest.raises(LookupError, match="no such stream"):
            await relay.attach("ben", 0)

    run(story())


def test_pieces_that_are_kept_no_more_are_refused() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", QUICK)
        socket, _ = await relay.attach("anna", 0)
        for _ in range(5):
            await relay.give(b"123456")
            await relay.fetch(socket, 1)
        with pytest.raises(LookupError, match="kept no more"):
            await relay.attach("anna", 0)
        with pytest.raises(LookupError, match="kept no more"):
            await relay.attach("anna", 99)
        await relay.attach("anna", 5)

    run(story())


def test_the_end_is_kept_for_somebody_who_still_reads_and_not_for_ever() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", RelayLimits())
        socket, _ = await relay.attach("anna", 0)
        await relay.give(b"init")
        await relay.finish_with({"event": "end"})
        kept = asyncio.create_task(relay.await_fetched(120))
        await asyncio.sleep(0.02)
        assert not kept.done()
        assert await relay.fetch(socket, 1) == ([b"init", {"event": "end"}], True)
        await within(60, kept)
        other = StreamRelay("anna", RelayLimits())
        await other.give(b"init")
        await within(60, other.await_fetched(0.02))

    run(story())
