"""The files of a folder or of an object store's prefix, as a stream in a fixed order."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from seedvr2_ray.errors import InputError
from seedvr2_ray.media.codecs import SUFFIXES
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import is_local

VIDEO_SUFFIXES = frozenset(
    [
        *(".264", ".265", ".3g2", ".3gp", ".amv", ".asf", ".av1", ".avc", ".avi", ".bik", ".cine", ".dav", ".divx"),
        *(".dv", ".f4v", ".flv", ".gif", ".gxf", ".h263", ".h264", ".h265", ".hevc", ".ivf", ".lxf", ".m1v", ".m2t"),
        *(".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe"),
        *(".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".roq"),
        *(".tod", ".trp", ".ts", ".vc1", ".vob", ".webm", ".wmv", ".wtv", ".y4m"),
    ]
)
IMAGE_SUFFIXES = frozenset(
    [
        *(".avif", ".bmp", ".dds", ".dib", ".dpx", ".heic", ".heif", ".hif", ".ico", ".j2c", ".j2k", ".jfif", ".jp2"),
        *(".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".pam", ".pbm", ".pcx", ".pgm", ".png", ".pnm"),
        *(".ppm", ".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
    ]
)

_PAGE = 1000
"""Names that S3 lists at a time; it allows no more."""


def list_sources(
    folder: str, patterns: Sequence[str] = (), ignored: Counter[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Find videos and images below a folder or prefix.

    Hidden files and folders are passed over: unfinished downloads and other jobs' work lie there.

    Args:
        patterns: shell patterns of relative paths or of bare names; a file must match one of them. By
            default every known ending is taken.
        ignored: counts the endings of files that are not taken and not hidden.

    Yields:
        URL and path relative to ``folder`` in an order that stays the same. At most one folder's names are in
        memory at a time, and of an S3 prefix one page.

    Raises:
        InputError: the folder is not there or may not be read.
    """
    for url, relative in _walk_local(folder) if is_local(folder) else _walk_remote(folder):
        if _is_wanted(relative, patterns):
            yield url, relative
        elif ignored is not None and not _is_hidden(relative):
            ignored[PurePosixPath(relative).suffix.lower()] += 1


def target_name(relative: str, *, container: str, containers_of_codec: Sequence[str]) -> str:
    """Name the result of a source so that its ending says a container that can be written.

    Args:
        relative: path of the source.
        container: the setting; ``auto`` keeps the source's ending where that is possible.
        containers_of_codec: where the codec that was asked for fits; empty when none was.
    """
    suffix = PurePosixPath(relative).suffix.lower()
    kept = SUFFIXES.get(suffix)
    if container != "auto":
        wanted = container
    elif kept is None:
        wanted = containers_of_codec[0] if containers_of_codec else ("png" if suffix in IMAGE_SUFFIXES else "mkv")
    elif containers_of_codec and kept not in containers_of_codec:
        wanted = containers_of_codec[0]
    else:
        wanted = kept
    # The old ending stays in the name when it changes: b.ts and b.mts must not become one b.mkv.
    return relative if wanted == kept else f"{relative}.{wanted}"


def _is_wanted(relative: str, patterns: Sequence[str]) -> bool:
    path = PurePosixPath(relative)
    if _is_hidden(relative):
        return False
    if patterns:
        return any(fnmatch(relative, pattern) or fnmatch(path.name, pattern) for pattern in patterns)
    return path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(relative).parts)


def _walk_local(folder: str) -> Iterator[tuple[str, str]]:
    root = os.path.abspath(folder.removeprefix("file://"))

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}; check the name and its owner") from error

    for current, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(current, name)
            yield path, os.path.relpath(path, root)


def _walk_remote(folder: str) -> Iterator[tuple[str, str]]:
    with translated(folder, "source"):
        filesystem, root = url_to_fs(folder)
        root = root.rstrip("/")
        is_s3 = "s3" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)
        is_empty = True
        try:
            for path in _walk_s3(filesystem, root) if is_s3 else _walk_prefix(filesystem, root):
                is_empty = False
                yield filesystem.unstrip_protocol(path), path[len(root) + 1 :]
        except FileNotFoundError:
            is_empty = True
        if is_empty:
            raise InputError(f"{printable(folder)} holds nothing, or does not exist; check the name of the bucket")


def _walk_s3(filesystem: Any, root: str) -> Iterator[str]:
    """Yield all names below a prefix, a page at a time: millions of them may lie side by side."""
    bucket, _, prefix = root.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "MaxKeys": _PAGE}
    while True:
        page = filesystem.call_s3("list_objects_v2", **request)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # What some tools leave to mark an empty folder.
                yield f"{bucket}/{entry['Key']}"
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _walk_prefix(filesystem: Any, current: str) -> Iterator[str]:
    entries = filesystem.ls(current, detail=True, refresh=True)
    filesystem.invalidate_cache()  # It would keep every listing of the archive.
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        path = str(entry["name"]).rstrip("/")
        if path.rpartition("/")[2].startswith(".") or path == current:
            continue
        if entry["type"] == "directory":
            yield from _walk_prefix(filesystem, path)
        else:
            yield path
