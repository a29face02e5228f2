"""What results are called while they are made, which says in which container."""

from pathlib import PurePosixPath

from seedvr2_ray.media.codecs import CODECS, IMAGE_CONTAINERS, SUFFIXES, codecs_for
from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.settings import RestoreSettings

_USUAL_CONTAINER = "mp4"
_KEPT_CONTAINERS = frozenset({"mp4", "mov", "mkv", "webm"})


def target_name(media: MediaInfo, settings: RestoreSettings, source_name: str) -> str:
    """Choose the container of a result, as the ending of a name; a pattern where every frame becomes an image."""
    own = SUFFIXES.get(PurePosixPath(source_name).suffix.lower(), "")
    if settings.codec in IMAGE_CONTAINERS:
        return f"restored.{settings.codec}" if media.kind == "image" else f"restored_%06d.{settings.codec}"
    if media.kind == "image":
        return f"restored.{own if own in IMAGE_CONTAINERS else 'png'}"
    if settings.container != "auto":
        return f"restored.{settings.container}"
    container = own if own in _KEPT_CONTAINERS else _USUAL_CONTAINER
    if settings.codec != "auto" and settings.codec not in codecs_for(container):
        container = CODECS[settings.codec].containers[0]
    return f"restored.{container}"
