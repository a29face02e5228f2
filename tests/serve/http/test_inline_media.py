import asyncio
import base64
import json
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from seedvr2_ray.serve.http.inline_media import (
    LONGEST_DOCUMENT,
    LONGEST_TEXT,
    MEDIA_HERE,
    Base64Error,
    JsonBody,
    MalformedJson,
    json_with_media,
    read_json_body,
)
from seedvr2_ray.serve.problems import SizeRefusal

MEDIA = random.Random(1).randbytes(3 * LONGEST_TEXT + 1)


async def _in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def in_blocks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read(folder: Path, body: bytes, *, piece: int = 65536, max_bytes: int = 10**7) -> JsonBody:
    return asyncio.run(read_json_body(_in_pieces(body, piece), scratch=folder, max_bytes=max_bytes))


def body_with(media: str) -> bytes:
    return json.dumps({"input": {"media": media, "note": 'quote " and \\ and é'}}).encode()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 3 * LONGEST_TEXT // 4, len(MEDIA)])
def test_media_of_every_length_come_out_as_they_went_in(tmp_path: Path, size: int) -> None:
    with read(tmp_path, body_with(base64.b64encode(MEDIA[:size]).decode())) as body:
        assert body.document["input"]["note"] == 'quote " and \\ and é'
        if size == 0:
            with pytest.raises(Base64Error, match="it is empty"):
                body.media(body.document["input"]["media"])
        else:
            assert body.media(body.document["input"]["media"]).read_bytes() == MEDIA[:size]


@pytest.mark.slow
@pytest.mark.parametrize("piece", [1009, 65536])
def test_it_does_not_matter_where_the_body_is_cut(tmp_path: Path, piece: int) -> None:
    text = base64.b64encode(MEDIA).decode().replace("/", "\\/").replace("+", "\\u002b")
    raw = b'{"input": {"media": "' + text.encode() + b'", "seed": 7}}'
    # A cut between any two bytes of an escape, too.
    for shift in range(8):
        with read(tmp_path, b" " * shift + raw, piece=piece) as body:
            assert body.document["input"]["seed"] == 7
            assert body.media(body.document["input"]["media"]).read_bytes() == MEDIA


@pytest.mark.parametrize("size", [100, len(MEDIA)])
def test_data_urls_and_wrapped_lines_are_taken(tmp_path: Path, size: int) -> None:
    for text in (
        "data:video/mp4;base64," + base64.b64encode(MEDIA[:size]).decode(),
        base64.encodebytes(MEDIA[:size]).decode(),
    ):
        with read(tmp_path, body_with(text)) as body:
            assert body.media(body.document["input"]["media"]).read_bytes() == MEDIA[:size]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no base64!", "Only base64 data is allowed"),
        ("AAA", "Incorrect padding"),
        ("AA==AAAA", "Excess data after padding"),
        ("data:video/mp4,AAAA", "not marked as ;base64"),
        ("data:video/mp4;base64", "no comma"),
        ("é" * 8, "Only base64 data is allowed"),
    ],
)
def test_what_is_not_base64_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with read(tmp_path, body_with(text)) as body, pytest.raises(Base64Error, match=reason):
        body.media(body.document["input"]["media"])
    long = base64.b64encode(MEDIA[: 3 * LONGEST_TEXT]).decode() + text
    if not text.startswith("data:"):
        with pytest.raises(Base64Error, match=reason):
            read(tmp_path, body_with(long))


def test_media_above_the_limit_are_refused_with_the_limit_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SizeRefusal, match=r"more than the 0\.1 MB"):
        read(tmp_path, body_with(base64.b64encode(MEDIA).decode()), max_bytes=100_000)
    assert list(tmp_path.iterdir()) == []


def test_the_limit_holds_for_all_media_of_a_request_together(tmp_path: Path) -> None:
    text = base64.b64encode(MEDIA).decode()
    raw = json.dumps({"media": text, "video": text}).encode()
    with read(tmp_path, raw, max_bytes=2 * len(MEDIA)) as body:
        assert body.media(body.document["video"]).read_bytes() == MEDIA
    with pytest.raises(SizeRefusal):
        read(tmp_path, raw, max_bytes=2 * len(MEDIA) - 1)


def test_who_sends_too_much_may_finish_sending_and_then_reads_why_it_was_too_much(tmp_path: Path) -> None:
    sent = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        raw = body_with(base64.b64encode(MEDIA).decode() * 20)
        async for piece in _in_pieces(raw, 65536):
            sent += len(piece)
            yield piece

    with pytest.raises((SizeRefusal, Base64Error)):
        asyncio.run(read_json_body(counted(), scratch=tmp_path, max_bytes=2 * len(MEDIA)))
    assert sent > 1_500_000


@pytest.mark.parametrize("raw", [b"", b"[1]", b'{"a": ', b'{"a": "b', b'{"a": "\\u12"}', b"\xff", b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(MalformedJson):
        read(tmp_path, raw)
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_is_long_without_media_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SizeRefusal, match="besides its media"):
        read(tmp_path, b'{"a": [' + b"1," * LONGEST_DOCUMENT + b"1]}")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_media(tmp_path: Path) -> None:
    piece = base64.b64encode(bytes(3 * 2**16))

    async def forty_megabytes() -> AsyncIterator[bytes]:
        yield b'{"media": "'
        for _ in range(150):
            yield piece
        yield b'"}'

    tracemalloc.start()
    with asyncio.run(read_json_body(forty_megabytes(), scratch=tmp_path, max_bytes=10**8)) as body:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert body.media(body.document["media"]).stat().st_size == 150 * 3 * 2**16
    assert peak < 8 * 2**20


def test_the_files_go_when_the_request_has_been_answered(tmp_path: Path) -> None:
    with read(tmp_path, body_with(base64.b64encode(MEDIA).decode())) as body:
        assert body.media(body.document["input"]["media"]).exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 2, 3, len(MEDIA), 3 * 2**20 + 2])
def test_an_answer_holds_the_media_in_every_place_and_says_its_length_beforehand(size: int) -> None:
    media = (MEDIA * 20)[:size]
    document = {"output": {"media": [MEDIA_HERE]}, "media": [MEDIA_HERE], "error": None}
    length, pieces = json_with_media(document, len(media), lambda: in_blocks(media, 1 << 20))
    raw = b"".join(pieces)
    encoded = base64.b64encode(media).decode()
    assert json.loads(raw) == {"output": {"media": [encoded]}, "media": [encoded], "error": None}
    assert len(raw) == length


def test_an_answer_is_made_piece_by_piece() -> None:
    _, pieces = json_with_media([MEDIA_HERE], 2**24, lambda: in_blocks(bytes(2**24), 1 << 19))
    assert isinstance(pieces, Iterator)
    assert max(len(piece) for piece in pieces) <= 2**20
