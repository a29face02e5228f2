"""Sound of every form a camera, a capture card or an old player wrote, in every container written here."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.media.masters import restore_like


def a_recording(path, *, codec, rate, layout="stereo", seconds=1.0, container=None):
    """Write grey pictures and a tone, in a container that may only count the channels."""
    with av.open(str(path), "w", format=container) as output:
        video = output.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 96, 64, "yuvj420p"
        sound = output.add_stream(codec, rate=rate, layout=layout)
        if codec.startswith("wma"):
            sound.bit_rate = 64000
        packets = []
        for number in range(round(25 * seconds)):
            frame = av.VideoFrame(96, 64, "yuvj420p")
            for plane in frame.planes:
                plane.update(bytes([number]) * plane.buffer_size)
            frame.pts = number
            packets += video.encode(frame)
        packets += video.encode(None)
        count = av.AudioLayout(layout).nb_channels
        wave = (np.sin(np.arange(round(rate * seconds)) * 2 * np.pi * 440 / rate) * 8000).astype(np.int16)
        for start in range(0, len(wave), 1024):
            part = wave[start : start + 1024]
            frame = av.AudioFrame.from_ndarray(np.repeat(part, count)[None], format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            output.mux(packet)
    return str(path)


def heard(path):
    """Codec, layout, rate and length in seconds of the first sound track, decoded."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        name = stream.codec_context.codec.canonical_name
        # Packed: PyAV 18.1 reads beyond the eighth plane of planar sound.
        resampler = av.AudioResampler(format="s16")
        frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
        seconds = sum(frame.samples for frame in frames) / frames[0].sample_rate
        level = max(float(np.abs(frame.to_ndarray().astype(np.float64)).max()) for frame in frames)
        assert level > 0
        return name, frames[0].layout.name, stream.sample_rate, seconds


def times(path):
    with av.open(path) as container:
        stream = container.streams.audio[0]
        return [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le", "pcm_f32le"])
@pytest.mark.parametrize(("suffix", "layout"), [("avi", "stereo"), ("mkv", "stereo"), ("nut", "5.1"), ("mkv", "7.1")])
def test_uncompressed_sound_that_only_counts_its_channels_is_kept_in_mp4(tmp_path, codec, suffix, layout):
    source = a_recording(tmp_path / f"in.{suffix}", codec=codec, rate=48000, layout=layout)
    target = str(tmp_path / "out.mp4")
    _, _, report = restore_like(source, target)
    name, _, rate, seconds = heard(target)
    assert (name, rate, round(seconds, 3)) == (codec, 48000, 1)
    assert report.left_out == ()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["out.mp4", "out.mov"])
@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "layout", "expected"),
    [
        ("wmv", "wmav2", 44100, "stereo", "aac"),
        ("avi", "adpcm_ms", 44100, "stereo", "aac"),
        ("avi", "adpcm_ima_wav", 22050, "mono", "aac"),
        ("avi", "pcm_mulaw", 8000, "mono", "alac"),
        ("avi", "pcm_u8", 11024, "mono", "alac"),
        ("avi", "pcm_u8", 6000, "mono", "alac"),
        ("wmv", "wmav2", 22050, "mono", "aac"),
    ],
)
def test_sound_that_mp4_cannot_hold_is_encoded_anew(tmp_path, target, suffix, codec, rate, layout, expected):
    source = a_recording(tmp_path / f"in.{suffix}", codec=codec, rate=rate, layout=layout)
    written = str(tmp_path / target)
    _, _, report = restore_like(source, written)
    name, got, _, seconds = heard(written)
    assert seconds == pytest.approx(1, abs=0.15)
    if name != codec:  # MOV takes some of them as they are.
        assert (name, got) == (expected, layout)
        assert expected in report.converted[0].reason


def test_a_rate_the_encoder_lacks_becomes_the_next_it_has_and_the_notice_says_so(tmp_path):
    source = a_recording(tmp_path / "in.avi", codec="adpcm_ms", rate=37800)
    target = str(tmp_path / "out.mp4")
    _, _, report = restore_like(source, target)
    assert heard(target)[:3] == ("aac", "stereo", 44100)
    assert "44100 instead of 37800" in report.converted[0].reason


@pytest.mark.parametrize(("codec", "container"), [("ac3", "avi"), ("mp3", "avi"), ("mp2", "avi"), ("ac3", "mkv")])
def test_coded_sound_keeps_its_times_from_avi_to_avi(tmp_path, codec, container):
    encoder = {"mp3": "libmp3lame"}.get(codec, codec)
    source = a_recording(tmp_path / f"in.{container}", codec=encoder, rate=48000, seconds=3)
    target = str(tmp_path / "out.avi")
    # What AVI says of the rate of its pictures is another matter.
    restore_like(source, target, described={"frame_rate": Fraction(25)})
    written = times(target)
    steps = [late - early for early, late in pairwise(written)]
    assert min(steps) > 0.02
    assert written[-1] == pytest.approx(3, abs=0.1)


def test_opus_gets_a_layout_it_knows(tmp_path):
    source = a_recording(tmp_path / "in.mkv", codec="pcm_s16le", rate=44100, layout="4.0")
    target = str(tmp_path / "out.webm")
    _, _, report = restore_like(source, target)
    assert heard(target)[0] == "opus"
    assert "48000 instead of 44100" in report.converted[0].reason
    assert report.left_out == ()


@pytest.mark.parametrize(
    ("source_codec", "target", "codec"), [("pcm_u8", "out.mp4", "flac"), ("flac", "out.mov", "pcm_s24le")]
)
def test_lossless_sound_of_eight_channels_stays_lossless(tmp_path, source_codec, target, codec):
    """ALAC knows another 7.1 only."""
    source = a_recording(tmp_path / "in.mkv", codec=source_codec, rate=48000, layout="7.1")
    written = str(tmp_path / target)
    _, _, report = restore_like(source, written)
    assert heard(written)[:3] == (codec, "7.1", 48000)
    assert report.left_out == ()


def test_lossless_sound_that_becomes_lossy_is_said(tmp_path):
    source = a_recording(tmp_path / "in.mkv", codec="pcm_u8", rate=48000, layout="hexadecagonal")
    _, _, report = restore_like(source, str(tmp_path / "out.mp4"))
    assert "not lossless" in report.converted[0].reason or report.left_out
