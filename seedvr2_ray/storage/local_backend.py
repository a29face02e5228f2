"""Files on this machine, written so that they survive a power cut whole or not at all."""

import errno
import hashlib
import os
import shutil
from pathlib import Path
from uuid import uuid4

from seedvr2_ray.storage.backend import PART_PREFIX, ObjectInfo

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}

_MOST_SWEEPS = 5


class LocalBackend:
    """A POSIX file system: content first, then its name, both flushed to the disk."""

    def info(self, path: str) -> ObjectInfo:
        """Describe a file by its size, and by its inode and time of change."""
        found = os.stat(path)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        mark = f"{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}"
        # The time of the inode, because a file that was linked here keeps the time it was written elsewhere.
        return ObjectInfo(found.st_size, mark, False, found.st_ctime)

    def is_file(self, path: str) -> bool:
        """Say whether a file is there."""
        try:
            self.info(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        return True

    def read(self, path: str) -> bytes:
        """Return the whole content."""
        return Path(path).read_bytes()

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return some of the content."""
        with Path(path).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of the content."""
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, path: str, data: bytes, *, overwrite: bool) -> None:
        """Write under a temporary name, flush, then give it its name in one step."""
        target = Path(path)
        make_folder(target.parent)
        part = _part_beside(target)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _give_name(part, target, overwrite=overwrite)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(target.parent)

    def put(self, local: Path, path: str, *, overwrite: bool) -> None:
        """Give a finished file a second name; it is copied only across file systems."""
        target = Path(path)
        make_folder(target.parent)
        part = _part_beside(target)
        try:
            _link_or_copy(local, part)
            _flush_file(part)
            _give_name(part, target, overwrite=overwrite)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(target.parent)

    def get(self, path: str, local: Path) -> None:
        """Copy a file."""
        shutil.copyfile(path, local)

    def names(self, folder: str) -> list[str]:
        """List the files of a folder."""
        try:
            with os.scandir(folder) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return []

    def folders(self, folder: str) -> list[str]:
        """List the folders of a folder."""
        try:
            with os.scandir(folder) as entries:
                return [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        Path(path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        """Delete a folder with all that is in it, and whatever is written there meanwhile."""
        for _ in range(_MOST_SWEEPS):
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.lexists(path):
                return
        shutil.rmtree(path)

    def probe(self, path: str) -> None:
        """Write an empty file into the folder, or into the nearest one above that exists."""
        target = Path(path)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        part = folder / f"{PART_PREFIX}{uuid4().hex}"
        try:
            part.touch(exist_ok=False)
        finally:
            part.unlink(missing_ok=True)

    def sign_get(self, path: str, *, seconds: int, media_type: str, disposition: str) -> str | None:
        """Return None: nobody elsewhere can read from a folder."""
        return None

    def sign_put(self, path: str, *, num_bytes: int, seconds: int) -> str | None:
        """Return None: nobody elsewhere can write into a folder."""
        return None


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, and flush their names to the disk."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush_folder(each.parent)


def _part_beside(target: Path) -> Path:
    return target.parent / f"{PART_PREFIX}{uuid4().hex}"


def _link_or_copy(source: Path, part: Path) -> None:
    try:
        os.link(os.path.realpath(source), part)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, part)


def _give_name(part: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        part.replace(target)
        return
    try:
        os.link(part, target)  # Unlike a rename, a link never replaces what is there.
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links (exFAT, some network mounts) cannot create a whole file and refuse
        # to replace one in a single step; the gap between look and rename is the best it has.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        part.rename(target)


def _flush_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Some network mounts cannot flush a folder.
            raise
    finally:
        os.close(descriptor)
