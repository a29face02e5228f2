"""Sizes and hashes of weight files, and what is remembered of them in the weights folder."""

import hashlib
import json
from pathlib import Path

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models.weights.catalogue import WeightFile


def require_size(file: WeightFile, path: Path, size_bytes: int) -> None:
    """Refuse a file whose size is not the released one's.

    Raises:
        DeploymentError: it is shorter or longer.
    """
    if file.size_bytes is not None and size_bytes < file.size_bytes:
        raise DeploymentError(f"{path} is truncated: it has {size_bytes:,} of {file.size_bytes:,} bytes; pull it again")
    if file.size_bytes is not None and size_bytes != file.size_bytes:
        raise DeploymentError(
            f"{path} is not the released {file.name}: it has {size_bytes:,} bytes, expected {file.size_bytes:,}"
        )


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def _record_path(path: Path, own_dir: Path) -> Path:
    return own_dir / ".verified" / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]}.json"


def recorded_hash(path: Path, own_dir: Path) -> str | None:
    """Return what a file hashed to when it was last looked at, if it is the same file still."""
    try:
        record = json.loads(_record_path(path, own_dir).read_text())
        stat = path.stat()
        if (record["size"], record["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
            return str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        # No record, or an unreadable one: the file is hashed.
        return None
    return None


def record_hash(path: Path, own_dir: Path, sha256: str) -> None:
    """Note what a file hashes to, so that its 16 GB are not read again while size and time stay."""
    stat = path.stat()
    record = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
    record_path = _record_path(path, own_dir)
    try:
        record_path.parent.mkdir(parents=True, exist_ok=True)
        record_path.write_text(json.dumps(record))
    except OSError:
        # A read-only weights folder is ordinary; the file is hashed again next time.
        return
