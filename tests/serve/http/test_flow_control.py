import asyncio
import pickle

import pytest
from ray.serve._private.http_util import ASGIReceiveProxy, MessageQueue

from seedvr2_ray.serve.http import flow_control
from seedvr2_ray.serve.http.flow_control import MOST_WAITING, PIECE_BYTES, bound_proxy, bound_replica

PIECES = [{"type": "http.request", "body": bytes([number]), "more_body": True} for number in range(100)]
END = {"type": "http.disconnect"}


@pytest.fixture(autouse=True)
def unbounded_again(monkeypatch):
    """What is changed in Ray's classes is changed back."""
    methods = ((ASGIReceiveProxy, "__init__"), (MessageQueue, "__call__"), (MessageQueue, "get_messages_nowait"))
    for changed, method in methods:
        monkeypatch.setattr(changed, method, getattr(changed, method))
    yield
    for changed in (ASGIReceiveProxy, MessageQueue):
        if hasattr(changed, flow_control._BOUNDED):
            delattr(changed, flow_control._BOUNDED)


async def settled(look):
    """Wait until a number does not grow any more, and return it."""
    before = -1
    while (now := look()) != before:
        before = now
        await asyncio.sleep(0.05)
    return now


def test_the_proxy_leaves_a_body_in_the_connection_until_what_it_took_is_fetched():
    async def run():
        queue = MessageQueue()
        taken = []

        async def take():
            for piece in PIECES:
                await queue(piece)
                taken.append(piece)

        taking = asyncio.create_task(take())
        assert await settled(lambda: len(taken)) == MOST_WAITING + 1
        fetched = []
        while len(fetched) < len(PIECES):
            await queue.wait_for_message()
            fetched += queue.get_messages_nowait()
        await taking
        assert fetched == PIECES

    bound_proxy()
    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_long_part_is_handed_over_in_pieces_that_need_no_object_store():
    async def run():
        queue = MessageQueue()
        body = bytes(range(256)) * 1024 + b"end"
        await queue({"type": "http.request", "body": body, "more_body": False})
        await queue(END)
        fetched = []
        while not fetched or fetched[-1] != END:
            await queue.wait_for_message()
            some = queue.get_messages_nowait()
            assert 0 < len(b"".join(each.get("body", b"") for each in some)) <= PIECE_BYTES
            fetched += some
        *pieces, _ = fetched
        assert b"".join(piece["body"] for piece in pieces) == body
        assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]

    bound_proxy()
    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_request_that_ends_frees_whoever_waits_for_room():
    async def run():
        queue = MessageQueue()
        for piece in PIECES[: MOST_WAITING + 1]:
            await queue(piece)
        waiting = asyncio.create_task(queue(END))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        queue.close()
        with pytest.raises(RuntimeError, match="closed"):
            await waiting

    bound_proxy()
    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_replica_fetches_no_more_than_it_reads_and_loses_nothing():
    async def run():
        sent = iter([*PIECES, END])
        num_fetched = 0

        async def fetch(_):
            nonlocal num_fetched
            num_fetched += 1
            return pickle.dumps([next(sent)])

        receive = ASGIReceiveProxy({"type": "http"}, None, fetch)
        fetching = asyncio.create_task(receive.fetch_until_disconnect())
        assert await settled(lambda: num_fetched) == MOST_WAITING + 1
        read = [await receive() for _ in PIECES]
        await fetching
        assert read == PIECES
        assert await receive() == END

    bound_replica()
    asyncio.run(asyncio.wait_for(run(), 30))


def test_bounding_twice_changes_nothing_more():
    bound_replica()
    bound_proxy()
    once = ASGIReceiveProxy.__init__, MessageQueue.__call__
    bound_replica()
    bound_proxy()
    assert (ASGIReceiveProxy.__init__, MessageQueue.__call__) == once
