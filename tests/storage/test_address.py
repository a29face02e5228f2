import hashlib
import math
from array import array
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from pathlib import Path

import fsspec
import pytest

from seedvr2_ray.errors import MediaError
from seedvr2_ray.storage.address import (
    Fingerprint,
    canonical_json,
    digest_of,
    fingerprint,
    has_changed,
    jsonable,
)
from seedvr2_ray.storage.local_backend import LocalBackend


@dataclass(frozen=True)
class Point:
    x: float
    rate: Fraction
    tags: tuple[str, ...] = ()


VALUE = {"b": [1, 2.5, None, True], "a": Point(0.1, Fraction(30000, 1001), ("ä", "\udcff"))}


def test_equal_values_share_one_form() -> None:
    assert canonical_json({"a": 1, "b": (2, 3)}) == canonical_json({"b": [2, 3], "a": 1.0}) == b'{"a":1,"b":[2,3]}'
    assert digest_of(array("q", [1, 2])) == digest_of([1, 2])
    assert canonical_json(0.1 + 0.2) == b"0.30000000000000004"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Fraction(1, 2), "1/2"),
        (Fraction(1, 2), 0.5),
        (1, True),
        (1, "1"),
        (None, "None"),
        ([1, [2]], [1, 2]),
        ({"a": None}, {}),
        (0.1 + 0.2, 0.3),
        (VALUE, {**VALUE, "b": [1, 2.5, None, False]}),
    ],
)
def test_different_values_have_different_addresses(one: object, other: object) -> None:
    assert digest_of(one) != digest_of(other)


def test_an_address_is_the_same_in_every_process() -> None:
    written = b'{"a":{"rate":{"$fraction":[30000,1001]},"tags":["\\u00e4","\\udcff"],"x":0.1},"b":[1,2.5,null,true]}'
    assert canonical_json(VALUE) == written
    assert digest_of(VALUE) == hashlib.sha256(written).hexdigest()


@pytest.mark.parametrize("value", [{1: 2}, {"$fraction": [1, 2]}, object(), b"bytes", {1, 2}, Point])
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        digest_of(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_float_that_is_not_finite_has_no_address(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        digest_of([value])


def test_jsonable_writes_fractions_and_leaves_out_what_is_too_long() -> None:
    class Kind(Enum):
        STILL = "still"

    value = {
        "point": Point(math.inf, Fraction(30000, 1001), ("a",)),
        "path": Path("x/y"),
        "kind": Kind.STILL,
        "s": {3, 1},
    }
    assert jsonable(value, leave_out=("tags",)) == {
        "point": {"x": None, "rate": "30000/1001"},
        "path": "x/y",
        "kind": "still",
        "s": [1, 3],
    }


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one).text == f"sha256-{known}"
    other.write_bytes(b"abd")
    assert fingerprint(one) != fingerprint(other)


def test_a_file_on_a_store_without_versions_is_identified_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"abc")
    fsspec.filesystem("memory").pipe_file("/fingerprints/one", b"abc")
    assert fingerprint("memory://fingerprints/one") == fingerprint(tmp_path / "one")


def test_a_changed_source_is_noticed_and_a_touched_one_is_not(tmp_path: Path) -> None:
    source = tmp_path / "clip"
    source.write_bytes(b"first")
    then = fingerprint(source)
    assert not has_changed(source, then)
    source.touch()
    assert not has_changed(source, replace(then, mark="on another machine"))
    source.write_bytes(b"other")
    assert has_changed(source, then)


def test_a_source_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "clip"
    source.write_bytes(b"first")
    real = LocalBackend.sha256

    def sha256_while_written(self: LocalBackend, path: str) -> str:
        digest = real(self, path)
        source.write_bytes(b"first and more")
        return digest

    monkeypatch.setattr(LocalBackend, "sha256", sha256_while_written)
    with pytest.raises(MediaError, match="still being written"):
        fingerprint(source)


def test_fingerprints_compare_by_text_alone() -> None:
    assert Fingerprint("a", 1, "x") == Fingerprint("a", 2, "y") != Fingerprint("b", 1, "x")


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="missing.mp4 does not exist"):
        fingerprint(tmp_path / "missing.mp4")
