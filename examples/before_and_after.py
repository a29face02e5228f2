"""Put one frame of a source and of its restoration next to each other in a PNG file."""

import argparse
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.report.comparison import side_by_side


def read_frame(path: str, number: int) -> Tensor:
    """Decode one frame, channels x height x width."""
    media = probe(path)
    (frames,) = decode_span(path, media.video, FrameSpan(number, (media.frame_pts[number],)))
    return frames.data_TCHW[0]


def magnified(frame_CHW: Tensor, part: tuple[float, float, float, float], scale: float) -> Tensor:
    """Cut a part out of a frame and enlarge it, bicubically; differences are small where pictures are."""
    height, width = frame_CHW.shape[-2:]
    left, top, right, bottom = (round(share * side) for share, side in zip(part, (width, height) * 2, strict=True))
    cut_CHW = frame_CHW[:, top:bottom, left:right].float()
    larger_CHW = interpolate(cut_CHW[None], scale_factor=scale, mode="bicubic", antialias=True)[0]
    return larger_CHW.round().clamp(0, 255 if frame_CHW.element_size() == 1 else 65535).to(frame_CHW.dtype)


def main() -> None:
    """Read the arguments and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("restored")
    parser.add_argument("picture", type=Path, help="a PNG file")
    parser.add_argument("--frame", type=int, default=0, help="counted from 0")
    parser.add_argument("--part", type=float, nargs=4, metavar="SHARE", help="left, top, right, bottom, from 0 to 1")
    parser.add_argument("--scale", type=float, default=3.0, help="how much larger a part is shown than it is restored")
    arguments = parser.parse_args()
    before_CHW, after_CHW = (read_frame(path, arguments.frame) for path in (arguments.source, arguments.restored))
    if arguments.part:
        scale = after_CHW.shape[-1] / before_CHW.shape[-1]
        before_CHW = magnified(before_CHW, arguments.part, arguments.scale * scale)
        after_CHW = magnified(after_CHW, arguments.part, arguments.scale)
    arguments.picture.write_bytes(side_by_side(before_CHW, after_CHW))
    print(f"picture: {arguments.picture}")


if __name__ == "__main__":
    main()
