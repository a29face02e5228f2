"""Names that follow from content: the same values give the same address on every machine."""

import hashlib
import json
import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from seedvr2_ray.errors import MediaError
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import Name, open_location, printable

_FRACTION_KEY = "$fraction"


def canonical_json(value: object) -> bytes:
    """Write a value down in the one form that equal values share.

    Mappings are sorted by key, dataclasses are mappings, tuples are lists, a float is its shortest
    exact decimal (2.0 is written as 2), and a fraction cannot be mistaken for a string.

    Raises:
        TypeError: something in it has no such form.
        ValueError: a float in it is not finite.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.encode("ascii")


def digest_of(value: object) -> str:
    """Return the SHA-256 of :func:`canonical_json` in hexadecimal: the address of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _plain(value: object) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Fraction):
        return {_FRACTION_KEY: [value.numerator, value.denominator]}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _FRACTION_KEY:
                raise TypeError(f"keys of an addressed mapping must be strings, got {key!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (Sequence, array)) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical form; pass numbers, strings, mappings or sequences")


def jsonable(value: object, *, leave_out: Collection[str] = ()) -> Any:
    """Turn a value into what ``json.dumps`` takes, for people and other programs to read.

    Fractions become strings such as ``30000/1001``, numbers that are not finite become None.

    Args:
        leave_out: fields of dataclasses, at any depth, that are too long to be read.
    """
    if isinstance(value, Enum):
        return jsonable(value.value, leave_out=leave_out)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (Fraction, PurePath)):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = [each.name for each in fields(value) if each.name not in leave_out]
        return {name: jsonable(getattr(value, name), leave_out=leave_out) for name in kept}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item, leave_out=leave_out) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(jsonable(item, leave_out=leave_out) for item in value)
    if isinstance(value, (Sequence, array)) and not isinstance(value, (bytes, bytearray)):
        return [jsonable(item, leave_out=leave_out) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies the bytes of a source. Two are equal when their texts are."""

    text: str
    """``sha256-...`` of the content, or ``version-...`` of the place and the store's version of it."""
    size: int | None = field(compare=False)
    mark: str = field(compare=False)
    """Cheap to look up again: as long as it is the same, so is the content."""


def fingerprint(url: Name) -> Fingerprint:
    """Identify a source's bytes: by reading a local file, by the version an object store reports.

    A file on a server that reports no ETag, version or generation is read as well.

    Raises:
        MediaError: it does not exist, may not be read, or changes while it is being read.
    """
    place = open_location(url)
    with translated(place.url, "source"):
        found = place.backend.info(place.path)
        if found.is_strong:
            version = digest_of([printable(url), found.size, found.mark])
            return Fingerprint(f"version-{version}", found.size, found.mark)
        content = place.backend.sha256(place.path)
        if place.backend.info(place.path) != found:
            raise MediaError(f"{printable(url)} is still being written; try again when it is complete")
    return Fingerprint(f"sha256-{content}", found.size, found.mark)


def has_changed(url: Name, then: Fingerprint) -> bool:
    """Say whether a source's bytes differ from those fingerprinted; reads them only if it looks as if.

    Raises:
        MediaError: it does not exist any more.
    """
    place = open_location(url)
    with translated(place.url, "source"):
        found = place.backend.info(place.path)
    if found.mark and (found.size, found.mark) == (then.size, then.mark):
        return False
    # A file that was copied, touched or mounted elsewhere has a new mark and the same bytes.
    return fingerprint(url) != then
