"""The same light has the same cuts, whichever way it was coded."""

from fractions import Fraction

import av
import numpy as np
import pytest

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.picture.tone import tone_map
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_thumbnails
from seedvr2_ray.media.shots import detect_shots
from tests.media.clips import _tag, to_pixel_format

NUM_CUTS, SHOT_FRAMES = 40, 5
SIZE = (64, 48)
BT709_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
SDR = ColourTags("bt709", "bt709", "bt709")
PQ = ColourTags("bt2020", "smpte2084", "bt2020nc")
HLG = ColourTags("bt2020", "arib-std-b67", "bt2020nc")


def to_pq(nits):
    y = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 4096 * 32 * y) / (1 + 2392 / 4096 * 32 * y)) ** (2523 / 4096 * 128)


def to_hlg(nits):
    scene = (nits / 1000) ** (1 / 1.2)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def scenes(*, coloured):
    """Textures that differ by little more than a cut's least change, as codes of ordinary video in 0..1."""
    rng = np.random.default_rng(3)
    for _ in range(NUM_CUTS + 1):
        blocks = rng.uniform(0.15, 0.75, (6, 8, 3 if coloured else 1))
        picture = blocks.repeat(8, axis=0).repeat(8, axis=1) * np.ones(3)
        yield from (np.clip(picture + rng.normal(0, 0.004, picture.shape), 0, 1) for _ in range(SHOT_FRAMES))


def cuts_of(path, tags, white_nits, *, coloured):
    """Write the scenes as the same light in another coding; find the cuts in the file."""
    pixel_format = "yuv444p" if tags is SDR else "yuv444p10le"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixel_format
        _tag(stream.codec_context, tags)
        for picture in scenes(coloured=coloured):
            if tags is not SDR:
                light = white_nits * picture**2.4 @ BT709_TO_BT2020.T
                picture = to_pq(light) if tags is PQ else to_hlg(light)
            output.mux(stream.encode(to_pixel_format(picture, pixel_format, tags)))
        output.mux(stream.encode(None))
    media = probe(str(path))
    assert media.video.colour.transfer == tags.transfer
    thumbnails = decode_thumbnails(str(path), media.video, media.frame_pts)
    return detect_shots(thumbnails, media.video.num_frames, frame_rate=Fraction(25))


@pytest.mark.slow
@pytest.mark.parametrize("coloured", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("tags", "white_nits"),
    [
        pytest.param(SDR, 100, marks=pytest.mark.slow),
        pytest.param(PQ, 100, marks=pytest.mark.slow),
        (PQ, 203),
        (HLG, 203),
        pytest.param(HLG, 100, marks=pytest.mark.slow),
    ],
)
def test_the_same_light_has_the_same_cuts(tmp_path, tags, white_nits, coloured):
    expected = tuple(range(0, (NUM_CUTS + 1) * SHOT_FRAMES, SHOT_FRAMES))
    assert cuts_of(tmp_path / "in.mkv", tags, white_nits, coloured=coloured) == expected


@pytest.mark.parametrize(("transfer", "encode"), [("smpte2084", to_pq), ("arib-std-b67", to_hlg)])
def test_the_light_of_ordinary_video_gets_its_own_codes_back(transfer, encode):
    wanted = np.arange(0, 192, dtype=np.uint8)
    light = 100 * (wanted / 255) ** 2.4
    codes = np.round(encode(light) * 65535).astype(np.uint16)[:, None, None] * np.ones((1, 1, 3), np.uint16)
    got = tone_map(transfer, "bt709")(codes)
    assert np.abs(got[:, 0, 0].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67", "linear"])
def test_more_light_is_never_a_lower_code(transfer):
    codes = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    got = tone_map(transfer, "bt709")(codes)[:, :, 0].reshape(-1).astype(int)
    assert (np.diff(got) >= 0).all()
    assert got[0] == 0
    assert got[-1] >= 230


def test_ordinary_codes_are_left_alone():
    assert tone_map("bt709", "bt709") is None
    assert tone_map("bt2020-10", "bt2020") is None
