"""Weight files on this machine: found, downloaded, verified, listed. Reading them is :mod:`checkpoint`'s work."""

import fcntl
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec  # type: ignore[import-untyped]
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import tqdm as hub_progress_bar

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models.weights.catalogue import (
    CATALOGUE,
    Component,
    ModelEntry,
    Role,
    WeightFile,
    find_entry,
    models_with,
)
from seedvr2_ray.models.weights.hashes import hash_file, record_hash, recorded_hash, require_size

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there, and the bytes it will have (None if unknown)."""

_BLOCK_BYTES = 8 * 2**20
_PACKAGE_FOLDER = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsSource:
    """Where weights may come from, in the order in which they are looked for."""

    weights_dir: Path | None = None
    """A folder of the operator's; downloads go there too. Without it the Hugging Face cache is used."""
    mirror_url: str | None = None
    """A folder that fsspec can read (``s3://bucket/weights``); asked before the hub, also when offline."""
    cache_dir: Path | None = None
    """The Hugging Face cache; None takes the one that ``HF_HOME`` names."""
    endpoint: str | None = None
    """A private hub; None takes the one that ``HF_ENDPOINT`` names."""

    @property
    def own_dir(self) -> Path:
        """A folder that is looked into first, and that what is not the hub's business is written to."""
        return self.weights_dir or Path.home() / ".cache" / "seedvr2-ray" / "weights"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A weight file on this machine."""

    role: Role
    file: WeightFile
    path: Path
    sha256: str
    """Of the bytes in ``path``."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One line of ``models list``, for a person or as JSON."""

    name: str
    summary: str
    licence: str
    num_gigabytes: float
    """Of the files that would be downloaded."""
    state: Literal["ready", "missing", "no weights needed"]
    missing: tuple[str, ...]
    """Names of files that are not on this machine."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One line of ``models verify``."""

    name: str
    path: str | None
    sha256: str | None
    state: Literal["verified", "unpublished hash", "missing", "damaged"]
    """``unpublished hash``: no one publishes what the file should hash to, only its size can be checked."""
    detail: str


def list_models(source: WeightsSource) -> list[ModelRecord]:
    """Return what the catalogue knows and what of it is on this machine; nothing is downloaded.

    Nothing is hashed either, but for a file whose name two releases share: once, then its hash is noted.
    """
    records = []
    for entry in CATALOGUE.values():
        missing = [part.files[0] for part in entry.components if find_component(part, source) is None]
        state: Literal["ready", "missing", "no weights needed"] = "missing" if missing else "ready"
        records.append(
            ModelRecord(
                name=entry.name,
                summary=entry.summary,
                licence=entry.licence,
                num_gigabytes=round(sum(part.files[0].num_gigabytes for part in entry.components), 3),
                state=state if entry.components else "no weights needed",
                missing=tuple(file.name for file in missing),
            )
        )
    return records


def pull_model(name: str, source: WeightsSource, progress: Progress | None = None) -> list[FoundFile]:
    """Bring every file of a model onto this machine and verify it. What is there already is only verified.

    Raises:
        SettingsError: there is no such model.
        DeploymentError: a file cannot be fetched, or is not what it should be.
    """
    return [obtain_component(part, source, progress) for part in find_entry(name).components]


def verify_model(name: str, source: WeightsSource) -> list[FileRecord]:
    """Hash every file of a model again, whatever was noted before; nothing is downloaded."""
    return [_verify_component(part, source) for part in find_entry(name).components]


def require_model(entry: ModelEntry, source: WeightsSource, *, may_download: bool = True) -> dict[Role, FoundFile]:
    """Return the verified files of a model by role.

    Raises:
        DeploymentError: a file is missing and must not or cannot be downloaded, or is damaged.
    """
    found = {}
    for part in entry.components:
        if not may_download and find_component(part, source) is None:
            _require_free_place(part.files[0], source)
            raise DeploymentError(
                f"{entry.name} needs {part.files[0].name}, which is not on this machine; "
                f"run `seedvr2-ray models pull {entry.name}`"
            )
        found[part.role] = obtain_component(part, source)
    return found


def find_component(component: Component, source: WeightsSource) -> tuple[WeightFile, Path] | None:
    """Return the first of a component's files that is on this machine, and where."""
    for file in component.files:
        path = _find_file(file, source)
        if path is not None:
            return file, path
    return None


def obtain_component(component: Component, source: WeightsSource, progress: Progress | None = None) -> FoundFile:
    """Return a verified file of a component, downloaded if none is on this machine."""
    found = find_component(component, source)
    if found is None:
        _require_free_place(component.files[0], source)
    file, path = found or (component.files[0], _download(component.files[0], source, progress))
    return FoundFile(component.role, file, path, verify_file(file, path, source))


def verify_file(file: WeightFile, path: Path, source: WeightsSource, *, trust_record: bool = True) -> str:
    """Return a file's sha256 after comparing it with the expected one.

    A file that was hashed before is not hashed again while its path, size and time are the same: 16 GB
    take half a minute. A file that does not match is left where it is.

    Raises:
        DeploymentError: size or hash differ from the catalogue's, or the file cannot be read.
    """
    try:
        size_bytes = path.stat().st_size
        require_size(file, path, size_bytes)
        sha256 = recorded_hash(path, source.own_dir) if trust_record else None
        if sha256 is None:
            sha256 = hash_file(path)
            record_hash(path, source.own_dir, sha256)
    except OSError as error:
        raise DeploymentError(f"cannot read {path}: {error.strerror or error}; check it and its permissions") from error
    expected = expected_hash(file, path)
    if expected is not None and sha256 != expected:
        others = models_with(sha256)
        what = f" (it belongs to {', '.join(others)})" if others else ""
        raise DeploymentError(
            f"{path} is not the released {file.name}: its sha256 is {sha256}{what}, expected {expected}; "
            "it was left in place: move it away and pull the model again"
        )
    return sha256


def expected_hash(file: WeightFile, path: Path) -> str | None:
    """Return what a file must hash to: the catalogue's value, else the one the hub stored it under."""
    if file.sha256 is not None:
        return file.sha256
    # In the Hugging Face cache a snapshot links to a blob that is named by the hash the hub gave.
    blob = path.resolve().name
    return blob if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob) else None


def _verify_component(component: Component, source: WeightsSource) -> FileRecord:
    found = find_component(component, source)
    if found is None:
        try:
            _require_free_place(component.files[0], source)
        except DeploymentError as error:
            return FileRecord(component.files[0].name, None, None, "missing", str(error))
        return FileRecord(component.files[0].name, None, None, "missing", "not on this machine")
    file, path = found
    try:
        sha256 = verify_file(file, path, source, trust_record=False)
    except DeploymentError as error:
        return FileRecord(file.name, str(path), None, "damaged", str(error))
    if expected_hash(file, path) is None:
        return FileRecord(file.name, str(path), sha256, "unpublished hash", "no published hash to compare with")
    return FileRecord(file.name, str(path), sha256, "verified", "sha256 as published")


def _find_file(file: WeightFile, source: WeightsSource) -> Path | None:
    if file.repository is None:
        path = _PACKAGE_FOLDER / file.name
        return path if path.is_file() else None
    cached = huggingface_hub.try_to_load_from_cache(file.repository, file.name, cache_dir=source.cache_dir)
    places = (source.own_dir / file.name, *([Path(cached)] if isinstance(cached, str) else []))
    return next((path for path in places if path.is_file() and _other_release(file, path, source) is None), None)


def _other_release(file: WeightFile, path: Path, source: WeightsSource) -> WeightFile | None:
    """Recognise a file that bears this file's name and is another release, by what it hashes to.

    Only names that two releases share are hashed. A file that is neither is left to :func:`verify_file`.
    """
    namesakes = {
        other
        for entry in CATALOGUE.values()
        for part in entry.components
        for other in part.files
        if other.name == file.name and other.sha256 != file.sha256
    }
    try:
        if path.stat().st_size not in {other.size_bytes for other in namesakes}:
            return None
        sha256 = recorded_hash(path, source.own_dir)
        if sha256 is None:
            sha256 = hash_file(path)
            record_hash(path, source.own_dir, sha256)
    except OSError:
        return None  # Whoever goes on with it says so.
    return next((other for other in namesakes if other.sha256 == sha256), None)


def _require_free_place(file: WeightFile, source: WeightsSource) -> None:
    """Refuse to download over another release that bears the same name.

    Raises:
        DeploymentError: it lies where the file would go.
    """
    place = source.own_dir / file.name
    if file.repository is None or not place.is_file():
        return
    other = _other_release(file, place, source)
    if other is not None and other.sha256 is not None:
        raise DeploymentError(
            f"{place} is the release {other.release} of {file.name}, "
            f"which {', '.join(models_with(other.sha256))} uses, and not {file.release}; "
            "move it away, or name another weights folder"
        )


def _download(file: WeightFile, source: WeightsSource, progress: Progress | None) -> Path:
    if file.repository is None:
        raise DeploymentError(f"{file.name} is missing from the installed package; install seedvr2-ray again")
    if source.mirror_url is not None:
        return _download_from_mirror(file, source, source.mirror_url, progress)
    try:
        with _quiet_hub():
            return Path(
                huggingface_hub.hf_hub_download(
                    file.repository,
                    file.name,
                    local_dir=source.weights_dir,
                    cache_dir=source.cache_dir,
                    endpoint=source.endpoint,
                    tqdm_class=_reporting_bar(file.name, progress) if progress else None,
                )
            )
    except LocalEntryNotFoundError as error:
        raise DeploymentError(
            f"cannot download {file.name} from {file.repository}: the Hugging Face hub cannot be reached from here; "
            "check the connection, put the file into the weights folder, or name a mirror"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise DeploymentError(
            f"cannot download {file.name} from {file.repository} on the Hugging Face hub ({_first_line(error)}); "
            "put the file into the weights folder, or name a mirror"
        ) from error


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from telling of every retry: what it comes to is said once, by us."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _download_from_mirror(file: WeightFile, source: WeightsSource, mirror_url: str, progress: Progress | None) -> Path:
    target = source.own_dir / file.name
    with _turn_at(target):
        if not target.is_file():
            _fetch(file, source, f"{mirror_url.rstrip('/')}/{file.name}", target, progress)
    return target


@contextmanager
def _turn_at(target: Path) -> Iterator[None]:
    """Let one process at a time write a file: replicas of one machine start together and want the same."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock").open("a")
    except OSError as error:
        raise DeploymentError(
            f"cannot write to {target.parent} ({error.strerror}); name a weights folder that may be written, or put "
            f"{target.name} there"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # Some network mounts know no locks.
            _log.warning("%s cannot be locked (%s): let one process fetch weights there", target.parent, error.strerror)
        yield


def _fetch(file: WeightFile, source: WeightsSource, url: str, target: Path, progress: Progress | None) -> None:
    partial = target.with_name(f"{target.name}.partial")
    try:
        _copy_resumable(url, partial, file.name, progress)
    # fsspec's stores raise errors of their own libraries, which have no common root.
    except Exception as error:
        raise DeploymentError(
            f"cannot fetch {url} ({_first_line(error)}); check the mirror, or remove it to use the Hugging Face hub"
        ) from error
    try:
        require_size(file, partial, partial.stat().st_size)
        found = hash_file(partial)
        if file.sha256 is not None and found != file.sha256:
            raise DeploymentError(f"{url} is not the released {file.name}: its sha256 is {found}")
    except DeploymentError as error:
        rejected = partial.rename(target.with_name(f"{target.name}.rejected"))
        raise DeploymentError(f"{error}; kept as {rejected}; put the right file onto the mirror") from error
    partial.rename(target)
    record_hash(target, source.own_dir, found)


def _copy_resumable(url: str, partial: Path, name: str, progress: Progress | None) -> None:
    filesystem, remote = fsspec.core.url_to_fs(url)
    total = filesystem.size(remote)
    done = partial.stat().st_size if partial.exists() else 0
    if total is not None and done > total:
        done = 0
    with filesystem.open(remote, "rb") as reader, partial.open("r+b" if done else "wb") as writer:
        reader.seek(done)
        writer.seek(done)
        while block := reader.read(_BLOCK_BYTES):
            writer.write(block)
            done += len(block)
            if progress:
                progress(name, done, total)


def _reporting_bar(name: str, progress: Progress) -> type[Any]:
    class ReportingBar(hub_progress_bar):
        """Tells the caller instead of the terminal."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self._done = int(kwargs.get("initial") or 0)
            self._total = kwargs.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            progress(name, self._done, int(self._total) if self._total else None)
            return None

    return ReportingBar


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
