import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from seedvr2_ray.errors import CapacityError, TargetError
from seedvr2_ray.frames import Frames
from seedvr2_ray.media.codecs import CODECS
from seedvr2_ray.media.output import encode
from seedvr2_ray.media.output.encode import FrameConverter, PartWriter
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.picture.colour import LUMA_WEIGHTS
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import HD, a_master, a_source, pictures, samples


def noise(dtype, *, channels=3, seed=0):
    peak = np.iinfo(dtype).max
    codes = np.random.default_rng(seed).integers(0, peak + 1, (1, channels, 64, 96)).astype(dtype)
    return Frames(torch.from_numpy(codes), (0,), Fraction(1, 24))


def exact_yuv(rgb_CHW, matrix, bits, *, full):
    """The definition (ITU-R BT.601, 709, 2020) in float64, unrounded, clipped to the code's range."""
    kr, kb = LUMA_WEIGHTS[matrix]
    red, green, blue = rgb_CHW.astype(np.float64) / np.iinfo(rgb_CHW.dtype).max
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    unit, peak = 1 << (bits - 8), (1 << bits) - 1
    if full:
        planes = [luma * peak, *(c * peak + 128 * unit for c in chroma)]
    else:
        planes = [(16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in chroma)]
    return [plane.clip(0, peak) for plane in planes]


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt470bg", "bt2020nc", "smpte240m"])
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv444p", 8), ("yuv444p10le", 10), ("yuv444p12le", 12)])
@pytest.mark.parametrize("full", [False, True])
def test_conversion_matches_exact_arithmetic(matrix, pixel_format, bits, full):
    master = a_master(pixel_format, colour=replace(HD, matrix=matrix, full_range=full))
    frames = noise(np.uint8 if bits == 8 else np.uint16)
    (frame,) = FrameConverter(master, num_threads=1).convert(frames)
    # Rounding to the nearest code, and coefficients of 16 bits; full-range chroma is rounded down.
    luma_limit = 0.55 + 0.0004 * (1 << bits)
    chroma_limit = luma_limit + (0.5 if full else 0.0)
    limits = (luma_limit, chroma_limit, chroma_limit)
    for got, want, limit in zip(
        samples(frame), exact_yuv(frames.data_TCHW[0].numpy(), matrix, bits, full=full), limits, strict=True
    ):
        assert np.abs(got - want).max() <= limit


def test_subsampled_chroma_lies_at_the_left_where_players_look_for_it():
    ramp_HW = torch.linspace(0, 255, 96).round().to(torch.uint8).expand(64, 96)
    data = torch.stack([ramp_HW, 255 - ramp_HW, torch.full_like(ramp_HW, 90)])[None]
    (frame,) = FrameConverter(a_master("yuv420p"), num_threads=1).convert(Frames(data, (0,), Fraction(1, 24)))
    full_size = exact_yuv(data[0].numpy(), "bt709", 8, full=False)
    for got, want in zip(samples(frame)[1:], full_size[1:], strict=True):
        padded = np.pad(want, ((0, 0), (1, 1)), mode="edge")
        left = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
        assert np.abs(got - left[::2, ::2])[:, 1:-1].max() <= 0.6


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le", "yuv422p10le"])
def test_grey_stays_grey(pixel_format):
    master = a_master(pixel_format)
    steps = torch.linspace(0, 1, 96).expand(1, 3, 64, 96)
    data = (steps * (255 if master.working_depth == 8 else 65535)).round().to(torch.int32)
    data = data.to(torch.uint8 if master.working_depth == 8 else torch.uint16)
    (frame,) = FrameConverter(master, num_threads=1).convert(Frames(data, (0,), Fraction(1, 24)))
    luma, blue, red = samples(frame)
    unit = 1 << (master.bit_depth - 8)
    assert (luma.min(), luma.max()) == (16 * unit, 235 * unit)
    assert (blue == 128 * unit).all() and (red == 128 * unit).all()


@pytest.mark.parametrize("pixel_format", ["bgr0", "bgra", "gbrp16le", "gbrap16le"])
def test_rgb_masters_hold_the_very_codes(pixel_format):
    master = a_master(pixel_format)
    frames = noise(np.uint8 if master.working_depth == 8 else np.uint16, channels=4 if master.has_alpha else 3)
    (frame,) = FrameConverter(master, num_threads=1).convert(frames)
    planes = samples(frame)
    red_green_blue = (
        [planes[2], planes[0], planes[1]]
        if len(planes) >= 3
        else [planes[0].reshape(64, 96, -1)[..., channel] for channel in (2, 1, 0)]
    )
    assert (np.stack(red_green_blue) == frames.data_TCHW[0, :3].numpy()).all()


@pytest.mark.parametrize(("pixel_format", "peak"), [("yuva444p10le", 1023), ("bgra", 255), ("gbrap12le", 4095)])
def test_alpha_spans_its_whole_range_and_is_opaque_when_there_was_none(pixel_format, peak):
    master = a_master(pixel_format)
    for alpha, lowest in ((True, 0), (False, peak)):
        (frame,) = FrameConverter(master, num_threads=1).convert(pictures([0], master, alpha=alpha))
        plane = samples(frame)[-1]
        values = plane.reshape(64, 96, 4)[..., 3] if pixel_format == "bgra" else plane
        assert (values.min(), values.max()) == (lowest, peak)


def test_frames_keep_their_times_and_carry_the_masters_tags():
    master = a_master("yuv420p10le", colour=replace(HD, primaries="bt2020", transfer="smpte2084", matrix="bt2020nc"))
    data = torch.zeros(2, 3, 64, 96, dtype=torch.uint16)
    first, second = FrameConverter(master).convert(Frames(data, (7, 11), Fraction(1, 48)))
    assert (first.pts, second.pts, second.time_base) == (7, 11, Fraction(1, 48))
    assert (first.color_primaries, first.color_trc, first.colorspace, first.color_range) == (9, 16, 9, 1)


def test_a_frame_of_another_size_is_refused():
    data = torch.zeros(1, 3, 64, 98, dtype=torch.uint8)
    with pytest.raises(ValueError, match="98x64"):
        list(FrameConverter(a_master()).convert(Frames(data, (0,), Fraction(1, 24))))


def encoded(path, codec, num_frames=10, **settings):
    container = CODECS[codec].containers[0]
    master, _ = plan_master(
        a_source(), RestoreSettings(codec=codec, **settings), width=96, height=64, target=f"o.{container}"
    )
    with PartWriter(str(path), master) as writer:
        for frame in FrameConverter(master, num_threads=1).convert(pictures(range(num_frames), master)):
            writer.write(frame)
    return Path(path).read_bytes()


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "prores", "ffv1"])
def test_encoding_again_gives_the_same_bytes(codec, tmp_path):
    runs = {encoded(tmp_path / "a.part", codec) for _ in range(4 if codec == "h264" else 2)}
    assert len(runs) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the number of cores cannot be limited here")
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "prores", "ffv1"])
def test_the_number_of_cores_does_not_change_the_bytes(codec, tmp_path):
    expected = encoded(tmp_path / "many.part", codec, 30)
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"from tests.media.output.test_encode import encoded; encoded(sys.argv[1], {codec!r}, 30)"
    )
    one = tmp_path / "one.part"
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", script, str(one)], check=True, cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert one.read_bytes() == expected


@pytest.mark.slow
def test_encoders_say_nothing_on_the_terminal(tmp_path):
    """In a process of its own, where nobody has set the variable that SVT-AV1 looks at."""
    masters = [
        plan_master(a_source(), RestoreSettings(codec=codec), width=96, height=64, target="o.mkv")[0]
        for codec in ("av1", "hevc", "h264")
    ]
    script = (
        "import pickle, sys\n"
        "import torch\n"
        "from fractions import Fraction\n"
        "from seedvr2_ray.frames import Frames\n"
        "from seedvr2_ray.media.output.encode import FrameConverter, PartWriter\n"
        "frames = Frames(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), (0,), Fraction(1, 24))\n"
        "for master in pickle.load(sys.stdin.buffer):\n"
        "    with PartWriter(sys.argv[1], master) as writer:\n"
        "        for frame in FrameConverter(master).convert(frames):\n"
        "            writer.write(frame)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SVT_LOG"}
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.part")],
        input=pickle.dumps(masters),
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[3],
        env={**environment, "PYTHONPATH": "."},
    )
    assert (said.stdout, said.stderr) == (b"", b"")


def test_a_part_begins_with_a_picture_that_needs_no_other(tmp_path):
    for codec in ("h264", "hevc"):
        encoded(tmp_path / "a.part", codec, 12, preset="medium")
        with av.open(str(tmp_path / "a.part")) as part:
            packets = [packet for packet in part.demux(video=0) if packet.size]
            assert packets[0].is_keyframe
            assert packets[0].pts == min(packet.pts for packet in packets)


class GarbledStream:
    """An encoder's stream that says for each packet to decode it at any time at all."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def encode(self, frame):
        for packet in self._stream.encode(frame):
            packet.dts = 281_472_700_569_319
            yield packet


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
def test_a_part_however_short_does_not_hang_on_what_x265_says_of_decoding(num_frames, tmp_path, monkeypatch):
    whole = encoded(tmp_path / "whole.mkv", "hevc", num_frames)
    open_encoder = encode._open_encoder
    monkeypatch.setattr(encode, "_open_encoder", lambda *arguments: GarbledStream(open_encoder(*arguments)))
    assert encoded(tmp_path / "garbled.mkv", "hevc", num_frames) == whole


def test_picture_types_left_by_a_decoder_do_not_force_the_encoder(tmp_path):
    master, _ = plan_master(a_source(), RestoreSettings(preset="veryfast"), width=96, height=64, target="o.mp4")
    with PartWriter(str(tmp_path / "a.part"), master) as writer:
        for frame in FrameConverter(master).convert(pictures(range(10), master)):
            frame.pict_type = av.video.frame.PictureType.I
            writer.write(frame)
    with av.open(str(tmp_path / "a.part")) as part:
        assert [packet.is_keyframe for packet in part.demux(video=0) if packet.size].count(True) == 1


def test_a_writer_that_fails_or_is_abandoned_leaves_no_file(tmp_path):
    path = tmp_path / "a.part"
    master = a_master()
    with pytest.raises(RuntimeError, match="stop"), PartWriter(str(path), master) as writer:
        for frame in FrameConverter(master).convert(pictures(range(3), master)):
            writer.write(frame)
        raise RuntimeError("stop")
    assert not path.exists()
    with pytest.raises(ValueError, match="no frame"), PartWriter(str(path), master):
        pass
    assert not path.exists()


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    master = a_master()
    with (
        pytest.raises(TargetError, match="missing/a.part"),
        PartWriter(str(tmp_path / "missing" / "a.part"), master) as writer,
    ):
        for frame in FrameConverter(master).convert(pictures([0], master)):
            writer.write(frame)


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]).returncode:
        pytest.skip("a disk of a known size cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tiny_disk):
    master = a_master("yuv444p", options=(("g", "1"),))
    path = tiny_disk / "a.part"
    with pytest.raises(CapacityError, match="no space left"), PartWriter(str(path), master) as writer:
        for seed in range(20):
            for frame in FrameConverter(master).convert(noise(np.uint8, seed=seed)):
                writer.write(frame)
    assert not path.exists()


def test_a_device_that_is_always_full_is_told_apart_from_other_errors(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    master = a_master()
    with pytest.raises(CapacityError, match="no space left"), PartWriter("/dev/full", master) as writer:
        for frame in FrameConverter(master).convert(pictures(range(3), master)):
            writer.write(frame)
    assert Path("/dev/full").exists()
