"""One pass over a manifest before anything is spent: refuse what is wrong, write the rest down as shards."""

import json
import os
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow
import pyarrow.parquet
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from seedvr2_ray.batch.manifest.manifest import ManifestRow, ManifestSource, PassedOver, read_manifest
from seedvr2_ray.errors import InputError, TargetError
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import fetch, is_local, open_location, publish, require_writable

_SHARDS_OF_A_SHORT_ARCHIVE = 64
_SMALLEST_SHARD, _LARGEST_SHARD = 4, 1024
_SCHEMA = pyarrow.schema(
    [("number", pyarrow.int64()), *((name, pyarrow.string()) for name in ("where", "source", "target", "settings"))]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Some rows of a manifest in a Parquet file, all for one model: what one planning task takes."""

    url: str
    model: str
    num_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalised:
    """A manifest in which every row was looked at."""

    num_rows: int
    shards: tuple[Shard, ...]
    sharers: Mapping[bytes, int] = field(default_factory=dict)
    """How many rows name a source, for the sources that several rows name; see :func:`source_key`."""
    passed_over: PassedOver = field(default_factory=PassedOver)

    def models(self) -> tuple[str, ...]:
        """Return the models that rows ask for, each once."""
        return tuple(dict.fromkeys(shard.model for shard in self.shards))


def normalise(manifest: ManifestSource, folder: str) -> Normalised:
    """Check every row and write shards into ``folder``. Memory does not grow with the number of rows.

    Raises:
        InputError: there are no rows; a row is unreadable; two rows have one target; a target would
            replace a source or lies inside the input; a bucket is missing or may not be used. The row is named.
    """
    _require_separate_output(manifest)
    passed_over = PassedOver()
    # Closed at once when a row is refused: a copy of the manifest is open underneath.
    with (
        tempfile.TemporaryDirectory(prefix="seedvr2-ray-") as scratch,
        closing(read_manifest(manifest, passed_over)) as read,
    ):
        sharers: dict[bytes, int] = {}
        with closing(_without_conflicts(_reachable(read), Path(scratch) / "names.sqlite", sharers)) as rows:
            shards = list(_write_shards(rows, Path(scratch), folder))
    num_rows = sum(shard.num_rows for shard in shards)
    if not num_rows:
        what = "has no rows" if manifest.is_table else "holds no videos or images that match"
        raise InputError(f"{printable(manifest.url)} {what}; there is nothing to restore")
    return Normalised(num_rows=num_rows, shards=tuple(shards), sharers=sharers, passed_over=passed_over)


def read_shard(shard: Shard) -> Iterator[ManifestRow]:
    """Yield the rows of a shard."""
    with tempfile.TemporaryDirectory(prefix="seedvr2-ray-") as scratch:
        table = pyarrow.parquet.read_table(fetch(shard.url, scratch))
    for values in table.to_pylist():
        yield ManifestRow(**values | {"settings": _settings_from(values["settings"])})


@lru_cache(maxsize=1024)
def _settings_from(text: str) -> RestoreSettings:
    """Read settings once per text: most rows share theirs, and checking them costs more than all else."""
    return RestoreSettings.from_mapping(json.loads(text))


@dataclass(slots=True)
class _Growing:
    """Shards of one model that grow with the archive: a short one is spread widely, a long one is few files."""

    rows: list[ManifestRow] = field(default_factory=list)
    num_written: int = 0
    num_shards: int = 0

    @property
    def is_full(self) -> bool:
        size = self.num_written // _SHARDS_OF_A_SHORT_ARCHIVE
        return len(self.rows) >= max(_SMALLEST_SHARD, min(size, _LARGEST_SHARD))


def _write_shards(rows: Iterable[ManifestRow], scratch: Path, folder: str) -> Iterator[Shard]:
    growing: defaultdict[str, _Growing] = defaultdict(_Growing)
    for row in rows:
        pile = growing[row.settings.model]
        pile.rows.append(row)
        if pile.is_full:
            yield _write_shard(row.settings.model, pile, scratch, folder)
    for model, pile in growing.items():
        if pile.rows:
            yield _write_shard(model, pile, scratch, folder)


def _write_shard(model: str, pile: _Growing, scratch: Path, folder: str) -> Shard:
    values = [
        {
            "number": row.number,
            "where": row.where,
            "source": row.source,
            "target": row.target,
            "settings": json.dumps(row.settings.to_mapping()),
        }
        for row in pile.rows
    ]
    # Any text may be asked for as a model; its digest is fit for a file's name.
    name = f"{digest_of(model)[:8]}-{pile.num_shards:06d}.parquet"
    local = scratch / name
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values, schema=_SCHEMA), local)
    url = f"{folder.rstrip('/')}/{name}"
    publish(local, url, overwrite=True)
    local.unlink()
    shard = Shard(url=url, model=model, num_rows=len(pile.rows))
    pile.num_written += len(pile.rows)
    pile.num_shards += 1
    pile.rows.clear()
    return shard


def source_key(source: str) -> bytes:
    """Return what a source is known by among those that several rows name; secrets in its name do not matter."""
    return _key(printable(source))


def _without_conflicts(
    rows: Iterable[ManifestRow], database: Path, sharers: dict[bytes, int]
) -> Generator[ManifestRow, None, None]:
    """Pass rows on while noting their names on disk; refuse the first that two rows would write.

    Args:
        sharers: told at the end of the sources that several rows name.

    That no target is another row's source can only be said after the last row: the caller uses nothing
    before the stream has ended.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as names:
        names.execute("PRAGMA journal_mode=OFF")
        names.execute("PRAGMA synchronous=OFF")
        names.execute("CREATE TABLE targets (name BLOB PRIMARY KEY, place TEXT, target TEXT) WITHOUT ROWID")
        names.execute("CREATE TABLE sources (name BLOB PRIMARY KEY, place TEXT, num INTEGER, key BLOB) WITHOUT ROWID")
        names.execute("BEGIN")
        for row in rows:
            key = _key(row.target)
            taken = names.execute("SELECT place FROM targets WHERE name = ?", (key,)).fetchone()
            if taken is not None:
                raise InputError(
                    f"{row.where} and {taken[0]} have one target, {printable(row.target)}; give each its own"
                )
            names.execute("INSERT INTO targets VALUES (?, ?, ?)", (key, row.where, printable(row.target)))
            names.execute(
                "INSERT INTO sources VALUES (?, ?, 1, ?) ON CONFLICT (name) DO UPDATE SET num = num + 1",
                (_key(row.source), row.where, source_key(row.source)),
            )
            yield row
        clash = names.execute(
            "SELECT targets.place, sources.place, target FROM targets JOIN sources USING (name) LIMIT 1"
        ).fetchone()
        if clash is not None:
            raise InputError(f"{clash[0]} would replace {clash[2]}, the source of {clash[1]}; choose another target")
        sharers.update(names.execute("SELECT key, num FROM sources WHERE num > 1"))


def _key(name: str) -> bytes:
    path = os.path.realpath(name.removeprefix("file://")) if is_local(name) else name.rstrip("/")
    return bytes.fromhex(digest_of(path))[:16]


def _reachable(rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    """Pass rows on; look once at every bucket, and at every folder right below which results go."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        for role, name in (("source", row.source), ("target", row.target)):
            root = _root(name)
            if (role, root) in seen:
                continue
            try:
                if role == "target":
                    require_writable(f"{root}/.seedvr2-ray-check", overwrite=True)
                elif not is_local(root):
                    _require_bucket(root, name)
            except InputError as error:
                raise type(error)(f"{row.where}: {error}") from error
            if len(seen) < 10_000:
                seen.add((role, root))
        yield row


def _root(name: str) -> str:
    """Name the place whose existence and permissions decide: a bucket, or a local folder."""
    if is_local(name):
        return os.path.dirname(os.path.abspath(name.removeprefix("file://")))
    scheme, _, rest = name.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _require_bucket(root: str, source: str) -> None:
    """Refuse a bucket that is missing or closed; one that may be read and not listed will do."""
    if root.partition("://")[0] in ("http", "https"):
        return
    with translated(root, "source"):
        filesystem, path = url_to_fs(root)
        if filesystem.exists(path):
            return
    with translated(source, "source"):
        try:
            filesystem.info(url_to_fs(source)[1])
        except FileNotFoundError:
            raise InputError(f"the bucket of {printable(root)} does not exist; check its name") from None


def _require_separate_output(manifest: ManifestSource) -> None:
    """Results inside the input would be sources of the next run."""
    if manifest.is_table or manifest.output is None:
        return
    output, source = _canonical(manifest.output), _canonical(manifest.url)
    if output == source or output.startswith(source.rstrip("/") + "/"):
        raise TargetError(
            f"the output {printable(manifest.output)} lies inside the input {printable(manifest.url)}; "
            "choose a folder outside it, or the next run would restore the results"
        )


def _canonical(name: str) -> str:
    return os.path.realpath(name.removeprefix("file://")) if is_local(name) else name.rstrip("/")


def require_source(url: str) -> None:
    """Refuse a manifest that is not there or may not be read, in words that say manifest."""
    if is_local(url) and os.path.isdir(url.removeprefix("file://")):
        return
    if not Path(url).suffix:
        return
    place = open_location(url)
    with translated(place.url, "source"):
        try:
            place.backend.info(place.path)
        except FileNotFoundError:
            raise InputError(f"the manifest {printable(url)} does not exist; check the name") from None
