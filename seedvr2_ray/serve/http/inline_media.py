"""Media that travel inside JSON as base64: taken out while a body arrives, put in while an answer leaves.

A video of 500 MB is a string of 667 MB. Neither the string nor the JSON around it ever stands in memory as a whole:
long strings are decoded into files as they come, and answers are written piece by piece.
"""

import binascii
import errno
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from seedvr2_ray.errors import CapacityError, InputError
from seedvr2_ray.serve.problems import SizeRefusal
from seedvr2_ray.serve.threads import in_thread

LONGEST_TEXT = 64 * 1024
"""Bytes of a JSON string that is kept as text; a longer one can only be media."""
LONGEST_DOCUMENT = 2**20
"""Bytes of a body besides its media."""
MEDIA_HERE = f"media-{secrets.token_hex(16)}"
"""Stands in an answer where :func:`json_with_media` puts the media; nobody else can know it."""

_STRING_RUN = re.compile(rb'[^"\\]*')
_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|[^u])")
_LONGEST_ESCAPE = 6
_SPACES = b" \t\r\n"
_LONGEST_PREFIX = 1024


class Base64Error(InputError):
    """A string that should be base64 is not."""


class MalformedJson(InputError):
    """A body is not the JSON object it should be."""


class Base64File:
    """Decodes base64, a ``data:`` URL included, into a file as its characters arrive."""

    def __init__(self, path: Path, max_bytes: int, *, num_bytes_before: int = 0) -> None:
        """Open the file.

        Args:
            path: where it is made.
            max_bytes: of all media of one request.
            num_bytes_before: what the request's other media have.
        """
        self.path = path
        self.num_bytes = num_bytes_before
        """Of this file and those before it."""
        self._max_bytes = max_bytes
        self._file: IO[bytes] = path.open("wb")
        self._rest = b""
        self._is_past_prefix = False
        self._is_padded = False

    def write(self, text: bytes) -> None:
        """Take more characters.

        Raises:
            Base64Error: they are not base64.
            SizeRefusal: the media is larger than allowed.
        """
        self._rest += text.translate(None, _SPACES)
        if not self._is_past_prefix and not self._skip_prefix():
            return
        whole = len(self._rest) - len(self._rest) % 4
        if whole:
            self._decode(self._rest[:whole])
            self._rest = self._rest[whole:]

    def close(self) -> None:
        """Finish the file.

        Raises:
            Base64Error: the text ended too early.
        """
        with self._file:
            if not self._is_past_prefix and self._rest.startswith(b"data:"):
                raise Base64Error("the data: URL has no comma before its data")
            if self._rest:
                self._decode(self._rest)

    def abandon(self) -> None:
        """Let go of the file, whatever is in it."""
        self._file.close()

    def _skip_prefix(self) -> bool:
        """Cut ``data:video/mp4;base64,`` off; False while more of it must come."""
        head = self._rest[:5]
        if not b"data:".startswith(head) and head != b"data:":
            self._is_past_prefix = True
        elif b"," in self._rest:
            prefix, _, self._rest = self._rest.partition(b",")
            if not prefix.lower().endswith(b";base64"):
                raise Base64Error("the data: URL is not marked as ;base64")
            self._is_past_prefix = True
        elif len(self._rest) > _LONGEST_PREFIX:
            raise Base64Error("the data: URL has no comma before its data")
        return self._is_past_prefix

    def _decode(self, text: bytes) -> None:
        if self._is_padded:
            raise Base64Error("Excess data after padding")
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as error:
            raise Base64Error(str(error)) from error
        self._is_padded = text.endswith(b"=")
        self.num_bytes += len(data)
        if self.num_bytes > self._max_bytes:
            raise SizeRefusal(
                f"the media in this request has more than the {self._max_bytes / 1e6:g} MB that this deployment "
                "accepts; send a shorter or more compressed file, or ask the operator for a higher limit"
            )
        self._file.write(data)


class _MediaScanner:
    """Splits JSON text, as it arrives, into a document without its long strings, and files with what they encode."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.document = bytearray()
        self.files: dict[str, Base64File] = {}
        """By the text that stands in the document in place of the media."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._rest = b""
        self._text: bytearray | None = None
        """The string being read, between its quotation marks; None outside strings."""
        self._file: Base64File | None = None
        """Where the string goes, once it is too long to be anything but media."""

    def feed(self, data: bytes) -> None:
        """Take more of the body."""
        data, self._rest = self._rest + data, b""
        position = 0
        while position < len(data):
            position = self._outside(data, position) if self._text is None else self._inside(data, position)
            if self._rest:
                return

    def finish(self) -> Any:
        """Return the parsed document.

        Raises:
            MalformedJson: the body was none.
        """
        try:
            if self._text is not None or self._rest:
                raise ValueError("it ends inside a string")
            return json.loads(self.document)
        except (ValueError, RecursionError) as error:
            raise MalformedJson(f"the body is not JSON: {error}") from error

    def abandon(self) -> None:
        """Close every file."""
        for file in self.files.values():
            file.abandon()

    def _outside(self, data: bytes, position: int) -> int:
        quote = data.find(b'"', position)
        self._keep(data[position : None if quote < 0 else quote])
        if quote < 0:
            return len(data)
        self._text = bytearray()
        return quote + 1

    def _inside(self, data: bytes, position: int) -> int:
        end = _STRING_RUN.match(data, position).end()  # type: ignore[union-attr]  # It matches the empty run too.
        self._take(data[position:end])
        if end == len(data):
            return end
        if data[end : end + 1] == b'"':
            self._end_string()
            return end + 1
        escape = _ESCAPE.match(data, end)
        if escape is not None:
            self._take(escape[0], is_escape=True)
            return escape.end()
        if len(data) - end >= _LONGEST_ESCAPE:
            raise MalformedJson("the body is not JSON: a string has a backslash that begins no escape")
        self._rest = data[end:]
        return end

    def _take(self, text: bytes, *, is_escape: bool = False) -> None:
        assert self._text is not None
        if self._file is not None:
            self._file.write(_unescaped(text) if is_escape else text)
            return
        self._text += text
        if len(self._text) > LONGEST_TEXT:
            before = [file.num_bytes for file in self.files.values()]
            self._file = Base64File(
                self._folder / str(len(before)), self._max_bytes, num_bytes_before=max(before, default=0)
            )
            self.files[f"media-{secrets.token_hex(16)}"] = self._file
            self._file.write(_unescaped(bytes(self._text)))

    def _end_string(self) -> None:
        assert self._text is not None
        if self._file is not None:
            self._file.close()
            self._text = bytearray(next(reversed(self.files)).encode())
        self._keep(b'"%s"' % self._text)
        self._text = self._file = None

    def _keep(self, text: bytes) -> None:
        self.document += text
        if len(self.document) > LONGEST_DOCUMENT:
            raise SizeRefusal(
                f"the body has more than {LONGEST_DOCUMENT / 2**20:g} MiB besides its media; send only what is needed"
            )


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    try:
        return str(json.loads(b'"%s"' % text, strict=False)).encode("ascii")
    except ValueError as error:
        raise Base64Error("Only base64 data is allowed") from error


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A parsed body, and the media that it carried, in files that are deleted when its ``with`` block ends."""

    document: dict[str, Any]
    folder: Path
    max_bytes: int
    _media: dict[str, Path]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def media(self, text: str) -> Path:
        """Return the file that a string of the document stands for, decoding it if it was short enough to be kept.

        Raises:
            Base64Error: it is not base64.
        """
        found = self._media.get(text)
        if found is None:
            file = Base64File(self.folder / "short", self.max_bytes)
            try:
                file.write(text.encode("ascii", "replace"))
                file.close()
            finally:
                file.abandon()
            found = file.path
        if not found.stat().st_size:
            raise Base64Error("it is empty")
        return found


async def read_json_body(chunks: AsyncIterable[bytes], *, scratch: Path, max_bytes: int) -> JsonBody:
    """Read a JSON object whose long strings are media.

    Args:
        chunks: the body as it arrives.
        scratch: where the media's files go, in a folder of their own.
        max_bytes: of the decoded media; as much again is read and thrown away, so that a caller who sends too
            much reads the refusal instead of seeing the connection break.

    Raises:
        MalformedJson: it is not a JSON object.
        Base64Error: a string longer than ``LONGEST_TEXT`` is not base64.
        SizeRefusal: the media, or what is around it, is too large.
        CapacityError: there is no room for it here.
    """
    await in_thread(scratch.mkdir, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="body-", dir=scratch))
    scanner = _MediaScanner(folder, max_bytes)
    try:
        await _feed(scanner, chunks, most_wasted_bytes=2 * max_bytes)
        document = scanner.finish()
        if not isinstance(document, dict):
            raise MalformedJson("the body must be a JSON object")
        return JsonBody(document, folder, max_bytes, {name: file.path for name, file in scanner.files.items()})
    except BaseException as error:
        scanner.abandon()
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError("there is no room for more media here; try again later") from error
        raise


async def _feed(scanner: _MediaScanner, chunks: AsyncIterable[bytes], *, most_wasted_bytes: int) -> None:
    refusal: InputError | SizeRefusal | None = None
    gathered = bytearray()
    async for chunk in chunks:
        if refusal is not None:
            most_wasted_bytes -= len(chunk)
            if most_wasted_bytes < 0:
                break
            continue
        gathered += chunk
        if len(gathered) >= 2**20:
            data, gathered = bytes(gathered), bytearray()
            try:
                await in_thread(scanner.feed, data)
            except (InputError, SizeRefusal) as error:
                refusal = error
    if refusal is not None:
        raise refusal
    await in_thread(scanner.feed, bytes(gathered))


def json_with_media(
    document: Any, num_bytes: int, blocks: Callable[[], Iterable[bytes]]
) -> tuple[int, Iterator[bytes]]:
    """Serialise an answer with a file's base64 in every place of it that holds ``MEDIA_HERE``.

    Args:
        document: anything that JSON can hold.
        num_bytes: of the media.
        blocks: gives the media's bytes in pieces; called once for every place.

    Returns:
        How long the JSON is, and its pieces.
    """
    between = [part.encode() for part in json.dumps(document).split(MEDIA_HERE)]
    length = sum(len(part) for part in between) + (len(between) - 1) * 4 * -(-num_bytes // 3)

    def pieces() -> Iterator[bytes]:
        yield between[0]
        for part in between[1:]:
            yield from _encoded(blocks())
            yield part

    return length, pieces()


def _encoded(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        data = rest + block
        whole = len(data) - len(data) % 3
        rest = data[whole:]
        yield binascii.b2a_base64(data[:whole], newline=False)
    yield binascii.b2a_base64(rest, newline=False)
