"""What to restore: rows of a CSV, JSONL or Parquet file, or the files of a folder, as a stream."""

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from seedvr2_ray.batch.manifest.listing import IMAGE_SUFFIXES, list_sources, target_name
from seedvr2_ray.errors import InputError, SettingsError
from seedvr2_ray.media.codecs import CODECS, IMAGE_CONTAINERS
from seedvr2_ray.settings import RestoreSettings, setting_of_text
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import fetch, is_local

_TABLE_SUFFIXES = {".csv", ".jsonl", ".ndjson", ".parquet"}
_COLUMNS = {"source", "target", *(field.name for field in fields(RestoreSettings))}
_SLIP = 0.75
"""Columns that are so alike to a known one's name are taken for a slip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One file to restore."""

    number: int
    """Position in the manifest, from 0."""
    where: str
    """For people: ``videos.csv line 7``."""
    source: str
    target: str
    settings: RestoreSettings = field(default_factory=RestoreSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestSource:
    """Where rows come from, and what holds where a row says nothing."""

    url: str
    """A folder, a prefix of an object store, or a file that ends in .csv, .jsonl, .ndjson or .parquet."""
    output: str | None
    """Folder or prefix of the results; rows that name no target get one here."""
    defaults: RestoreSettings
    patterns: tuple[str, ...] = ()
    """For folders: shell patterns of the files to take."""

    def __post_init__(self) -> None:
        _require_whole(self.defaults)

    @property
    def is_table(self) -> bool:
        """Whether it is a file with rows rather than a folder of media."""
        return Path(self.url).suffix.lower() in _TABLE_SUFFIXES


@dataclass(slots=True)
class PassedOver:
    """What a manifest holds and nobody asked for, counted while it is read."""

    files: Counter[str] = field(default_factory=Counter)
    """Files of a folder that are of no known kind, by their ending."""
    columns: set[str] = field(default_factory=set)
    """Columns of a table that are no settings."""


def read_manifest(
    manifest: ManifestSource, passed_over: PassedOver | None = None
) -> Generator[ManifestRow, None, None]:
    """Read all rows, one at a time.

    Args:
        passed_over: told of what is not taken.

    Raises:
        InputError: the manifest cannot be read, or a row is wrong; the message names the row.
    """
    if not manifest.is_table:
        yield from _rows_of_folder(manifest, passed_over)
        return
    if manifest.patterns:
        raise InputError("patterns choose files of a folder, and this manifest is a table; leave them out")
    with tempfile.TemporaryDirectory(prefix="seedvr2-ray-") as scratch:
        path = fetch(manifest.url, scratch)
        name = printable(manifest.url).rstrip("/").rpartition("/")[2]
        readers = {".csv": _read_csv, ".parquet": _read_parquet}
        read = readers.get(path.suffix.lower(), _read_jsonl)
        for number, (line, values) in enumerate(read(path)):
            if passed_over is not None:
                passed_over.columns.update(extra_columns(values))
            yield _row_of_table(manifest, number, f"{name} {line}", values)


def _rows_of_folder(manifest: ManifestSource, passed_over: PassedOver | None) -> Iterator[ManifestRow]:
    ignored = None if passed_over is None else passed_over.files
    for number, (url, relative) in enumerate(list_sources(manifest.url, manifest.patterns, ignored)):
        settings = _defaults_for(relative, manifest.defaults)
        yield ManifestRow(
            number=number,
            where=relative,
            source=url,
            target=_target_in_output(manifest, relative, settings, relative),
            settings=settings,
        )


def _row_of_table(manifest: ManifestSource, number: int, where: str, values: Mapping[str, Any]) -> ManifestRow:
    given = {
        key: value
        for key, value in values.items()
        if value is not None and value != "" and value == value and key in _COLUMNS  # NaN is no value.
    }
    source, target = given.pop("source", None), given.pop("target", None)
    if not isinstance(source, str):
        raise InputError(f"{where} names no source; every row needs a path or URL in the column 'source'")
    if target is not None and not isinstance(target, str):
        raise InputError(f"{where}: the target must be a path or URL, got {target!r}")
    try:
        defaults = _defaults_for(printable(source), manifest.defaults)
        settings = _settings_of(defaults, tuple((key, setting_of_text(key, value)) for key, value in given.items()))
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    source = _beside_manifest(manifest.url, source)
    if target is None:
        # Named after its last component: rows may come from anywhere.
        target = _target_in_output(manifest, printable(source).rstrip("/").rpartition("/")[2], settings, where)
    else:
        target = _beside_manifest(manifest.url, target)
    return ManifestRow(number=number, where=where, source=source, target=target, settings=settings)


def _defaults_for(name: str, defaults: RestoreSettings) -> RestoreSettings:
    """Leave what encodes videos out of an image's settings: in an archive of both the command means the videos.

    A command that names an image format means the images, and a row's own settings are taken at their word.
    """
    names_images = defaults.codec in IMAGE_CONTAINERS or defaults.container in IMAGE_CONTAINERS
    if names_images or PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        return defaults
    return _for_images(defaults)


@lru_cache(maxsize=16)
def _for_images(defaults: RestoreSettings) -> RestoreSettings:
    depth = defaults.bit_depth if defaults.bit_depth in (8, 16) else 0
    return replace(defaults, codec="auto", container="auto", preset="auto", crf=-1, bit_depth=depth)


def _settings_of(defaults: RestoreSettings, given: tuple[tuple[str, Any], ...]) -> RestoreSettings:
    try:
        # True and 1 are equal keys and not equal settings.
        return _known_settings(defaults, given, tuple(type(value) for _, value in given))
    except TypeError:  # A list or object in JSON: no key, and no setting either.
        return RestoreSettings.from_mapping({**defaults.to_mapping(), **dict(given)})


@lru_cache(maxsize=1024)
def _known_settings(
    defaults: RestoreSettings, given: tuple[tuple[str, Any], ...], types: tuple[type, ...]
) -> RestoreSettings:
    """Check settings once: most rows share theirs."""
    settings = RestoreSettings.from_mapping({**defaults.to_mapping(), **dict(given)})
    _require_whole(settings)
    return settings


def _require_whole(settings: RestoreSettings) -> None:
    if settings.excerpt:
        raise SettingsError("an archive is restored whole; take an excerpt of one video with seedvr2-ray restore")


def _target_in_output(manifest: ManifestSource, relative: str, settings: RestoreSettings, where: str) -> str:
    if manifest.output is None:
        raise InputError(f"{where} names no target; add a column 'target' or say where results go with --output")
    codec = CODECS.get(settings.codec)
    name = target_name(
        relative, container=settings.container, containers_of_codec=() if codec is None else codec.containers
    )
    output = os.path.abspath(manifest.output) if is_local(manifest.output) else manifest.output
    return f"{output.rstrip('/')}/{name}"


def _beside_manifest(manifest_url: str, name: str) -> str:
    """Relative paths are meant from the manifest's folder: workers have other working directories."""
    if not is_local(name) or os.path.isabs(name):
        return name
    name = name.removeprefix("file://")
    if is_local(manifest_url):
        # normpath drops a trailing slash, which says that a target is a folder of images.
        joined = os.path.join(os.path.dirname(os.path.abspath(manifest_url)), name)
        return os.path.normpath(joined) + ("/" if name.endswith("/") else "")
    return f"{manifest_url.rpartition('/')[0]}/{name}"


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        # utf-8-sig: spreadsheets write a byte order mark that would become part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _require_columns(path.name, reader.fieldnames or ())
            for values in reader:
                line = f"line {reader.line_num}"
                if None in values:
                    raise InputError(f"{path.name} {line} has more cells than the header; quote cells with commas")
                yield line, values
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not a CSV file in UTF-8: {error}; save it again as one") from error


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path.name} line {number} is not JSON: {error}") from error
            if not isinstance(values, dict):
                raise InputError(f"{path.name} line {number} is not a JSON object; write one object per line")
            _require_columns(f"{path.name} line {number}", values.keys())
            yield f"line {number}", values


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_columns(path.name, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", values
    except pyarrow.ArrowException as error:
        raise InputError(f"{path.name} is not a Parquet file that can be read: {error}") from error


def _require_columns(where: str, columns: Sequence[str] | Any) -> None:
    names = list(columns)
    if "source" not in names:
        raise InputError(f"{where} has no column 'source'; its columns are {', '.join(map(str, names)) or 'none'}")
    for name in extra_columns(names):
        # A word that is nearly a setting's is a slip; any other is somebody's own column.
        if get_close_matches(str(name), _COLUMNS, n=1, cutoff=_SLIP):
            try:
                RestoreSettings.from_mapping({name: None})
            except SettingsError as error:
                raise SettingsError(f"{where}: {error}") from error


def extra_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of a table that are of no meaning here; they are passed over and reported."""
    return [name for name in names if name not in _COLUMNS]
