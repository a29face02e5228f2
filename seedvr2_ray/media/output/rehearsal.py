"""Writing a master in small before the first frame is restored: what can be refused is refused now."""

import tempfile
from functools import lru_cache
from pathlib import Path

import av

from seedvr2_ray.media.info import MediaInfo, Notice
from seedvr2_ray.media.output.encode import PartWriter
from seedvr2_ray.media.output.encoders import tag_frame
from seedvr2_ray.media.output.intermediate import IntermediateWriter
from seedvr2_ray.media.output.join import rehearse_join
from seedvr2_ray.media.output.master import MasterFormat

_REMEMBERED_MASTERS = 8


def rehearse(source_path: str, media: MediaInfo, master: MasterFormat) -> tuple[Notice, ...]:
    """Encode one picture and write it with the first packets of everything else the source holds.

    Opens every encoder, of intermediates, of pictures and of sound, with the parameters the real run will
    use, and writes the container's header and its end. Takes a fraction of a second, most of it in the
    encoder of pictures, whose work is remembered for the next source with the same master.

    Returns:
        What becomes of the source's other streams, chapters and tags.

    Raises:
        InputError: this source cannot be stored like this; the message says why and the way out.
        DeploymentError: an encoder is missing here.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        part = Path(folder, f"part.{master.container}")
        part.write_bytes(_part_of_one_frame(master))
        target = str(Path(folder, f"rehearsal.{master.container}"))
        return rehearse_join(str(part), master=master, source_path=source_path, media=media, target_path=target)


@lru_cache(maxsize=_REMEMBERED_MASTERS)
def _part_of_one_frame(master: MasterFormat) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        path = Path(folder, f"part.{master.container}")
        with PartWriter(str(path), master) as writer:
            writer.write(_black(master))
        with IntermediateWriter(f"{path}.mkv", master) as writer:
            writer.write(_black(master))
        return path.read_bytes()


def _black(master: MasterFormat) -> av.VideoFrame:
    frame = av.VideoFrame(master.width, master.height, master.pixel_format)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    tag_frame(frame, master.colour)
    return frame
