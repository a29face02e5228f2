"""A stream through a relay and a replica's call, in one process."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from seedvr2_ray.errors import CapacityError, MediaError
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.serve.live.order import STARTED, LiveOrder
from seedvr2_ray.serve.live.relay import RelayLimits, StreamRelay
from seedvr2_ray.serve.live.replica_call import LiveCall
from seedvr2_ray.settings import RestoreSettings
from tests.live.senders import stream_bytes
from tests.live.streams import receive
from tests.waiting import within

ORDER = LiveOrder(
    settings=RestoreSettings(model="lanczos", resolution="x2", preset="ultrafast"), policy="slow", least_factor=0.0
)


async def _call(relay: StreamRelay, order: LiveOrder = ORDER) -> list[str]:
    with ThreadPoolExecutor(2) as threads:
        signs = [sign async for sign in LiveCall(LanczosRestorer(), order, relay, threads).events()]
    await relay.finish()
    return signs


def _through(data: bytes, order: LiveOrder = ORDER, limits: RelayLimits | None = None) -> list[Any]:
    async def story() -> list[Any]:
        relay = StreamRelay("anna", limits or RelayLimits())
        socket, _ = await relay.attach("anna", 0)
        for start in range(0, len(data), 5000):
            await relay.push(socket, data[start : start + 5000])
        await relay.end_input()
        assert (await _call(relay, order))[0] == STARTED
        pieces, is_over = await relay.fetch(socket, 1)
        assert is_over
        return pieces

    return asyncio.run(within(60, story()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mpegts", "fmp4", "webm"])
def test_a_stream_goes_through_whole_and_a_browser_is_told_its_codecs_before_its_first_byte(kind: str) -> None:
    pieces = _through(stream_bytes(40, kind=kind))
    first_bytes = next(number for number, piece in enumerate(pieces) if isinstance(piece, bytes))
    assert pieces[first_bytes - 1]["event"] == "begin"
    assert pieces[first_bytes - 1]["mime"].startswith('video/mp4; codecs="avc1.')
    assert receive(b"".join(piece for piece in pieces if isinstance(piece, bytes))).numbers == list(range(40))
    events = [piece["event"] for piece in pieces if isinstance(piece, dict)]
    assert (events[0], events[-1]) == ("plan", "end") and "chunk" in events


def test_what_is_wrong_with_a_stream_reaches_whoever_drives_it() -> None:
    with pytest.raises(MediaError, match="send MPEG-TS"):
        _through(b"nothing that anybody could look at" * 30)


def test_a_stream_that_cannot_keep_up_is_not_let_in() -> None:
    order = LiveOrder(settings=ORDER.settings, policy="slow", least_factor=1e9)
    with pytest.raises(CapacityError, match="times real time"):
        _through(stream_bytes(10), order)


@pytest.mark.slow
def test_a_caller_who_reads_nothing_stops_the_replica_and_not_more() -> None:
    limits = RelayLimits(most_output_bytes=2000, stall_seconds=0.1)
    pieces = _through(stream_bytes(60), limits=limits)
    assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) < 20_000
    assert not any(isinstance(piece, dict) and piece["event"] == "end" for piece in pieces)


def test_closing_the_call_ends_its_thread() -> None:
    async def story() -> None:
        relay = StreamRelay("anna", RelayLimits())
        socket, _ = await relay.attach("anna", 0)
        await relay.push(socket, stream_bytes(30))
        with ThreadPoolExecutor(2) as threads:
            call = LiveCall(LanczosRestorer(), ORDER, relay, threads)
            signs = call.events()
            assert await anext(signs) == STARTED
            await signs.aclose()
            for _ in range(400):
                if call.thread.done():
                    break
                await asyncio.sleep(0.05)
            assert call.thread.done()

    asyncio.run(within(60, story()))
