"""Bodies of requests, read with a limit: JSON whole, files of a form piece by piece and never whole in memory."""

import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal
from seedvr2_ray.serve.problems import SizeRefusal
from seedvr2_ray.serve.service.submission import require_shallow

MOST_JSON_BYTES = 1 << 20
MOST_FIELD_BYTES = 64 << 10
MOST_PARTS = 16
_MOST_HEADER_BYTES = 8 << 10

Body = TypeVar("Body", bound=BaseModel)


def content_type_of(request: Request) -> str:
    """Return the content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_length(request: Request, most_bytes: int) -> None:
    """Refuse a body that announces to be too long before any of it is read.

    Raises:
        SizeRefusal: it is.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and int(length[:20]) > most_bytes:
        raise _too_large(most_bytes)


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """Yield a body piece by piece.

    Raises:
        ConnectionError: the sender has gone.
    """
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise ConnectionError("the sender has gone") from error


async def body_in_time(request: Request) -> AsyncIterator[bytes]:
    """Yield a body piece by piece, and give up when nothing comes for long: whoever waits takes room from others.

    Raises:
        ConnectionError: the sender has gone.
        ProtocolRefusal: he sends nothing.
    """
    seconds = _seconds_of(request)
    chunks = body_of(request)
    while True:
        try:
            with anyio.fail_after(seconds):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_slow(f"nothing of the body came for {seconds:g} s") from None
        yield chunk


async def read_json(request: Request, shape: type[Body], *, most_bytes: int = MOST_JSON_BYTES) -> Body:
    """Read a JSON body of a shape.

    Raises:
        ProtocolRefusal: it is not announced as JSON, breaks off, or does not arrive in time.
        SizeRefusal: it is too long; the rest is not read.
        ValidationError: it is not of the shape.
    """
    if content_type_of(request) != "application/json":
        raise ProtocolRefusal("the body must be sent as application/json", 415)
    require_length(request, most_bytes)
    body = bytearray()
    seconds = _seconds_of(request)
    try:
        with anyio.fail_after(seconds):
            async for chunk in body_of(request):
                body += chunk
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise _too_slow(f"the body did not arrive whole within {seconds:g} s") from None
    except ConnectionError:
        raise ProtocolRefusal("the connection broke off before the request was complete") from None
    return shape.model_validate_json(bytes(body))


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form, whole."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class FormFile:
    """The beginning of a file; its bytes follow, and then None."""

    name: str
    file_name: str


FormEvent = FormField | FormFile | bytes | None


async def read_form(request: Request) -> AsyncGenerator[FormEvent, None]:
    """Yield a multipart form as it arrives: fields whole, files as their name, their bytes, and None.

    Raises:
        ProtocolRefusal: it is no multipart form, is malformed, breaks off, or stops coming.
        SizeRefusal: a field is too long.
        ConnectionError: the sender has gone.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise ProtocolRefusal("the body must be sent as multipart/form-data with a boundary", 415)
    form = _Form()
    parser = MultipartParser(boundary, callbacks=form.callbacks())
    try:
        async for chunk in body_in_time(request):
            parser.write(chunk)
            while form.events:
                yield form.events.popleft()
        parser.finalize()
    except FormParserError as error:
        raise ProtocolRefusal(f"the multipart form is malformed: {error}") from error
    if not form.is_complete:
        raise ProtocolRefusal("the multipart form breaks off before its last boundary")


async def file_bytes(events: AsyncGenerator[FormEvent, None]) -> AsyncIterator[bytes]:
    """Yield the bytes of the file that has just begun, up to its end."""
    async for event in events:
        if event is None:
            return
        assert isinstance(event, bytes), "between a file's name and its end there are only bytes"
        yield event


def parse_json_field(name: str, text: str) -> Any:
    """Read a field of a form that holds JSON.

    Raises:
        InputError: it does not.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the field {name} is no JSON: {error}") from error
    require_shallow(name, value)
    return value


class _Form:
    """Collects what the parser tells into events."""

    def __init__(self) -> None:
        self.events: deque[FormEvent] = deque()
        self.is_complete = False
        self._num_parts = 0
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._num_header_bytes = 0
        self._field: str | None = None
        self._text = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MOST_PARTS:
            raise ProtocolRefusal(f"the form has more than {MOST_PARTS} parts")
        self._headers, self._num_header_bytes, self._field = {}, 0, None
        self._text.clear()

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += self._counted(data[start:end])

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, data: bytes) -> bytes:
        self._num_header_bytes += len(data)
        if self._num_header_bytes > _MOST_HEADER_BYTES:
            raise ProtocolRefusal(f"the headers of a part have more than {_MOST_HEADER_BYTES} bytes")
        return data

    def _end_header(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or not name:
            raise ProtocolRefusal("a part of the form has no Content-Disposition: form-data with a name")
        if b"filename" in options:
            self.events.append(FormFile(name, options[b"filename"].decode("utf-8", "replace")))
        else:
            self._field = name

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.events.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MOST_FIELD_BYTES:
            raise SizeRefusal(f"the field {self._field[:80]} has more than {MOST_FIELD_BYTES} bytes; send less")

    def _end_part(self) -> None:
        if self._field is None:
            self.events.append(None)
            return
        try:
            self.events.append(FormField(self._field, self._text.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise InputError(f"the field {self._field[:80]} is no text in UTF-8") from error

    def _end(self) -> None:
        self.is_complete = True


def _seconds_of(request: Request) -> float:
    seconds: float = request.app.state.service.limits.body_seconds
    return seconds


def _too_slow(what: str) -> ProtocolRefusal:
    return ProtocolRefusal(f"{what}, the limit here; send it again", 408)


def _too_large(most_bytes: int) -> SizeRefusal:
    return SizeRefusal(
        f"the body is longer than {most_bytes} bytes, the limit here; send less, or ask the operator for a higher limit"
    )
