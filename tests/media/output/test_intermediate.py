import pytest

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.codecs import CODECS
from seedvr2_ray.media.output.encode import FrameConverter
from seedvr2_ray.media.output.intermediate import IntermediateWriter, read_intermediate
from tests.media.masters import a_master, digest, pictures

FORMATS = sorted({pixel_format for facts in CODECS.values() for pixel_format in facts.formats.values()})


def write(path, master, numbers):
    frames = list(FrameConverter(master, num_threads=1).convert(pictures(numbers, master, alpha=master.has_alpha)))
    with IntermediateWriter(str(path), master, num_threads=1) as writer:
        for frame in frames:
            writer.write(frame)
    return [digest(frame) for frame in frames]


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_every_sample_comes_back_as_it_was_written(pixel_format, tmp_path):
    master = a_master(pixel_format)
    written = write(tmp_path / "a.mkv", master, range(3))
    read = list(read_intermediate(str(tmp_path / "a.mkv"), 0, 3))
    assert [digest(frame) for frame in read] == written
    assert {frame.format.name for frame in read} == {pixel_format}


def test_a_range_is_exactly_its_frames(tmp_path):
    master = a_master()
    written = write(tmp_path / "a.mkv", master, range(9))
    for start, stop in ((0, 9), (3, 7), (8, 9), (4, 4)):
        read = read_intermediate(str(tmp_path / "a.mkv"), start, stop)
        assert [digest(frame) for frame in read] == written[start:stop]


def test_writing_again_gives_the_same_bytes(tmp_path):
    for name in ("a.mkv", "b.mkv"):
        write(tmp_path / name, a_master("yuv420p10le"), range(4))
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_colour_is_stored_with_the_pictures(tmp_path):
    master = a_master("yuv420p10le")
    write(tmp_path / "a.mkv", master, [0])
    (frame,) = read_intermediate(str(tmp_path / "a.mkv"), 0, 1)
    assert (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range) == (1, 1, 1, 1)


def test_too_few_frames_or_a_damaged_file_are_a_storage_error(tmp_path):
    path = tmp_path / "a.mkv"
    write(path, a_master(), range(4))
    with pytest.raises(StorageError, match="holds 4 frames where 5"):
        list(read_intermediate(str(path), 0, 5))
    path.write_bytes(b"not a film")
    with pytest.raises(StorageError, match="restore it again"):
        list(read_intermediate(str(path), 0, 4))
