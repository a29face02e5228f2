"""Images and image sequences: encoding, what a part holds of them, and how they get their names."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.output.encoders import configure_encoder
from seedvr2_ray.media.output.master import MasterFormat, sequence_name
from seedvr2_ray.media.output.write_errors import whole_file_or_none
from seedvr2_ray.media.stills.embedding import embed
from seedvr2_ray.media.stills.raster import StillTags

_WIRE_FORMATS = {
    ("png", "bgr0"): "rgb24",
    ("png", "bgra"): "rgba",
    ("png", "gbrp16le"): "rgb48be",
    ("png", "gbrap16le"): "rgba64be",
    ("tiff", "bgr0"): "rgb24",
    ("tiff", "bgra"): "rgba",
    ("tiff", "gbrp16le"): "rgb48le",
    ("tiff", "gbrap16le"): "rgba64le",
    ("libwebp", "bgr0"): "bgra",
}
"""The same samples in the order an image encoder wants them."""

_EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class ImageEncoder:
    """Encodes frames of a master's pixel format, each to the bytes of one image file."""

    def __init__(self, master: MasterFormat) -> None:
        context = av.CodecContext.create(master.codec, "w")
        assert isinstance(context, av.VideoCodecContext)
        configure_encoder(context, master)
        self._format = _WIRE_FORMATS.get((master.codec, master.pixel_format), master.pixel_format)
        context.pix_fmt = self._format
        context.time_base = Fraction(1, 25)
        context.options = dict(master.options)
        self._context = context

    def encode(self, frame: av.VideoFrame) -> bytes:
        """Return the file of one picture."""
        packets = self._context.encode(frame.reformat(format=self._format))
        return b"".join(bytes(packet) for packet in packets)


class ImagePart:
    """Writes a segment's images as they will be published, in one uncompressed ZIP archive."""

    def __init__(self, path: str, master: MasterFormat) -> None:
        self._encoder = ImageEncoder(master)
        self._archive = zipfile.ZipFile(path, "w", compression=zipfile.ZIP_STORED)
        self._num_images = 0

    def write(self, frame: av.VideoFrame) -> None:
        """Encode the next frame."""
        entry = zipfile.ZipInfo(f"{self._num_images:06d}", date_time=_EARLIEST_ZIP_DATE)
        self._archive.writestr(entry, self._encoder.encode(frame))
        self._num_images += 1

    def close(self) -> None:
        """Finish the archive."""
        self._archive.close()

    def abandon(self) -> None:
        """Let go of a file that will be removed."""
        self._archive.close()


def join_images(
    parts: Sequence[str],
    *,
    master: MasterFormat,
    num_frames: int,
    target_path: str,
    tags: StillTags | None = None,
) -> tuple[tuple[str, ...], tuple[Notice, ...]]:
    """Write the images of all parts to their final names.

    Args:
        tags: what described the source, if it was a still image.
        num_frames: how many images the parts hold together.
        target_path: the file of a single image; the folder or printf pattern of a sequence, which
            counts from 1. A folder that does not exist is made.

    Returns:
        The paths written, in order, and what became of the tags.
    """
    written: list[str] = []
    notices: tuple[Notice, ...] = ()
    folder = os.path.dirname(target_path)
    if master.kind == "image_sequence" and folder:
        os.makedirs(folder, exist_ok=True)
    for part in parts:
        for image in _read_images(part):
            path = target_path
            if master.kind == "image_sequence":
                path = os.path.join(folder, sequence_name(target_path, master.container, len(written) + 1))
            if tags is not None:
                image, notices = embed(master.container, image, tags, (master.width, master.height))
            with whole_file_or_none(path), open(path, "wb") as file:
                file.write(image)
            written.append(path)
    if len(written) != num_frames:
        raise StorageError(f"the parts hold {len(written)} images where {num_frames} were planned; restore them again")
    return tuple(written), notices


def _read_images(part: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(part) as archive:
            for name in sorted(archive.namelist()):
                yield archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise StorageError(f"part {part} cannot be read back: {error}; restore it again") from error
