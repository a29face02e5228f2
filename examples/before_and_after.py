"""Put one frame of a source and of its restoration next to each other in a PNG file."""

import argparse
from pathlib import Path

from torch import Tensor

from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.report.comparison import side_by_side


def read_frame(path: str, number: int) -> Tensor:
    """Decode one frame, channels x height x width."""
    media = probe(path)
    (frames,) = decode_span(path, media.video, FrameSpan(number, (media.frame_pts[number],)))
    return frames.data_TCHW[0]


def main() -> None:
    """Read the arguments and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("restored")
    parser.add_argument("picture", type=Path, help="a PNG file")
    parser.add_argument("--frame", type=int, default=0, help="counted from 0")
    arguments = parser.parse_args()
    before_CHW, after_CHW = (read_frame(path, arguments.frame) for path in (arguments.source, arguments.restored))
    arguments.picture.write_bytes(side_by_side(before_CHW, after_CHW))
    print(f"picture: {arguments.picture}")


if __name__ == "__main__":
    main()
