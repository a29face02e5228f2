from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_ray.errors import StorageError, TargetError
from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.output.encode import FrameConverter, PartWriter
from seedvr2_ray.media.output.image_files import join_images
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source, pictures

SRGB = ColourTags("bt709", "iec61966-2-1", "rgb", full_range=True)


def write_image(folder, ending, *, bits=8, alpha=False, **settings):
    media = a_source(kind="image", pts=[0], bit_depth=bits, chroma="rgb", has_alpha=alpha, colour=SRGB)
    target = str(folder / f"out{ending}")
    master, _ = plan_master(media, RestoreSettings(**settings), width=96, height=64, target=target)
    frames = pictures([5], master, alpha=alpha)
    with PartWriter(str(folder / "a.part"), master) as writer:
        for frame in FrameConverter(master, num_threads=1).convert(frames):
            writer.write(frame)
    join_images([str(folder / "a.part")], master=master, num_frames=1, target_path=target)
    return target, frames.data_TCHW[0].numpy()


def read_image(path, *, bits=8, alpha=False):
    with av.open(path) as image:
        frame = next(image.decode(video=0))
    name = {8: "rgb24", 16: "rgb48le"}[bits] if not alpha else {8: "rgba", 16: "rgba64le"}[bits]
    return frame.to_ndarray(format=name).transpose(2, 0, 1), frame.format.name


@pytest.mark.parametrize(("ending", "bits"), [(".png", 8), (".png", 16), (".tiff", 8), (".tiff", 16), (".webp", 8)])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_images_hold_the_very_codes(ending, bits, alpha, tmp_path):
    path, codes_CHW = write_image(tmp_path, ending, bits=bits, alpha=alpha)
    read_CHW, _ = read_image(path, bits=bits, alpha=alpha)
    assert read_CHW.dtype == codes_CHW.dtype
    # WebP forgets the colour of what cannot be seen at all.
    visible_HW = codes_CHW[3] > 0 if alpha and ending == ".webp" else np.ones((64, 96), bool)
    assert np.array_equal(read_CHW[:, visible_HW], codes_CHW[:, visible_HW])


def test_jpeg_is_full_range_bt601_with_whole_chroma(tmp_path):
    path, codes_CHW = write_image(tmp_path, ".jpg")
    read_CHW, pixel_format = read_image(path)
    assert pixel_format in ("yuvj444p", "yuv444p")
    assert np.abs(read_CHW.astype(int) - codes_CHW).mean() < 2


def test_quality_settings_shrink_the_file(tmp_path):
    for ending, fine, coarse in ((".jpg", 2, 25), (".webp", 5, 60)):
        sizes = [Path(write_image(tmp_path, ending, crf=crf)[0]).stat().st_size for crf in (fine, coarse)]
        assert sizes[1] < sizes[0]


def test_a_16_bit_jpeg_says_that_bits_are_lost():
    media = a_source(kind="image", pts=[0], bit_depth=16, chroma="rgb", colour=SRGB)
    _, notices = plan_master(media, RestoreSettings(), width=96, height=64, target="out.jpg")
    assert [(notice.outcome, notice.subject) for notice in notices] == [("converted", "bit depth")]


def test_parts_with_too_few_images_or_damaged_ones_are_refused(tmp_path):
    media = a_source(pts=range(2))
    master, _ = plan_master(media, RestoreSettings(), width=96, height=64, target=str(tmp_path / "f_%d.png"))
    part = tmp_path / "a.part"
    with PartWriter(str(part), master) as writer:
        for frame in FrameConverter(master, num_threads=1).convert(pictures([0], master)):
            writer.write(frame)
    with pytest.raises(StorageError, match="hold 1 images where 2"):
        join_images([str(part)], master=master, num_frames=2, target_path=str(tmp_path / "f_%d.png"))
    part.write_bytes(b"nothing")
    with pytest.raises(StorageError, match="restore it again"):
        join_images([str(part)], master=master, num_frames=2, target_path=str(tmp_path / "f_%d.png"))


def test_an_image_that_cannot_be_written_is_named(tmp_path):
    _, _ = write_image(tmp_path, ".png")
    media = a_source(kind="image", pts=[0], chroma="rgb", colour=SRGB)
    master, _ = plan_master(media, RestoreSettings(), width=96, height=64, target="x.png")
    with pytest.raises(TargetError, match=r"missing/x\.png"):
        join_images(
            [str(tmp_path / "a.part")], master=master, num_frames=1, target_path=str(tmp_path / "missing" / "x.png")
        )


def test_an_image_part_written_again_has_the_same_bytes(tmp_path):
    write_image(tmp_path, ".png")
    first = (tmp_path / "a.part").read_bytes()
    write_image(tmp_path, ".png")
    assert (tmp_path / "a.part").read_bytes() == first


def test_a_sequence_may_also_fill_a_folder(tmp_path):
    media = a_source(pts=range(3))
    target = f"{tmp_path}/frames/"
    master, _ = plan_master(media, RestoreSettings(codec="webp"), width=96, height=64, target=target)
    with PartWriter(str(tmp_path / "a.part"), master) as writer:
        for frame in FrameConverter(master, num_threads=1).convert(pictures(range(3), master)):
            writer.write(frame)
    outputs, _ = join_images([str(tmp_path / "a.part")], master=master, num_frames=3, target_path=target)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in outputs] == [
        f"frames/frame_{number:06d}.webp" for number in (1, 2, 3)
    ]
