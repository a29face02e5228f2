"""Laws of the proof of decode: whoever reads a part of a file gets the pictures that decoding all of it gives."""

from array import array
from contextlib import closing
from dataclasses import replace

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from seedvr2_ray.errors import DamagedMediaError, MediaError, StorageError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.bitstream.nal_units import split_units
from seedvr2_ray.media.container.source import decode_packets, open_source
from seedvr2_ray.media.info import ranges_of
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_thumbnails
from seedvr2_ray.media.reading.proof import Proof, ProofMaker, picture_crc, proof_from_bytes
from seedvr2_ray.media.reading.seek import find_frames
from tests.media.bitstream.in_band import make_changing_clip
from tests.media.clips import make_clip
from tests.media.damaged import damage


def look(media, *, salvage=False):
    """Decode from the beginning, as the pass does that looks for shots."""
    maker = ProofMaker()

    def see(item):
        maker.see(item.frame, is_missing=item.is_missing, is_stand_in=item.is_stand_in)

    for _ in decode_thumbnails(media.path, media.video, media.frame_pts, salvage=salvage, on_picture=see):
        pass
    return maker.made()


def read(media, start, stop, proof=None, *, salvage=False, num_threads=1, on_missing=None):
    span = FrameSpan(start, tuple(media.frame_pts[start:stop]))
    proof = None if proof is None else proof.of_span(start, stop)
    with closing(
        find_frames(
            media.path, media.video, span, salvage=salvage, num_threads=num_threads, proof=proof, on_missing=on_missing
        )
    ) as found:
        return [(item.number, picture_crc(item.frame)) for item in found]


def require_partition(media, proof, length, **kwargs):
    """Read in stretches of a length, the pictures are those of the proof, each exactly once."""
    total = media.video.num_frames
    pieces = [read(media, at, min(at + length, total), proof, **kwargs) for at in range(0, total, length)]
    found = [pair for piece in pieces for pair in piece]
    assert [number for number, _ in found] == list(range(total))
    concealed = {number for start, stop in proof.concealed for number in range(start, stop)}
    assert [pair for pair in found if pair[0] not in concealed] == [
        pair for pair in enumerate(proof.crcs) if pair[0] not in concealed
    ]


QUICK = [
    ("closed.mp4", {"bframes": 2}),
    ("open.mkv", {"codec": "hevc", "bframes": 2, "open_gop": True}),
    ("open.ts", {"codec": "mpeg2", "bframes": 2, "open_gop": True}),
    ("reordered.avi", {"codec": "mpeg4", "bframes": 2}),
    ("odd.webm", {"codec": "vp9", "size": (97, 65)}),
    ("statistics.mkv", {"codec": "ffv1"}),
]
CODECS = {
    "h264": ("mp4", "mkv", "ts", "avi", "mov"),
    "hevc": ("mp4", "mkv", "ts"),
    "mpeg2": ("mkv", "ts", "mpg"),
    "mpeg4": ("mp4", "avi", "mkv"),
    "vp9": ("webm", "mp4"),
    "av1": ("mkv", "mp4"),
    "ffv1": ("mkv", "avi"),
    "prores": ("mov",),
    "mjpeg": ("mov", "avi"),
}
STRUCTURES = {
    "intra": {"gop": 1},
    "closed": {"gop": 8},
    "reordered": {"gop": 8, "bframes": 2},
    "open": {"gop": 8, "bframes": 2, "open_gop": True},
    "long": {"gop": 48, "bframes": 2},
}
MATRIX = [
    (f"{codec}-{structure}.{container}", {"codec": codec, **STRUCTURES[structure]})
    for codec, containers in CODECS.items()
    for container in containers
    for structure in (STRUCTURES if codec in ("h264", "hevc", "mpeg2", "mpeg4") else ("intra", "closed"))
]


@pytest.mark.parametrize(
    ("name", "kwargs"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in MATRIX)]
)
def test_any_partition_gives_the_pictures_of_a_decode_from_the_beginning(tmp_path, name, kwargs):
    rate = 25 if name.endswith("mpg") else 24
    pixel_format = {"prores": "yuv422p10le", "mjpeg": "yuvj420p"}.get(kwargs.get("codec"), "yuv420p")
    make_clip(tmp_path / name, num_frames=40, rate=rate, **{"pixel_format": pixel_format, **kwargs})
    media = probe(str(tmp_path / name))
    proof = look(media)
    assert len(proof.crcs) == media.video.num_frames and not proof.stand_ins
    for length in (3, 7, 40):
        require_partition(media, proof, length)
    require_partition(media, proof, 11, num_threads=3)


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2", "vp9", "av1", "ffv1"])
def test_the_check_value_of_a_picture_depends_on_no_way_of_threading(tmp_path, codec):
    make_clip(tmp_path / "a.mkv", codec=codec, num_frames=12, bframes=2 if codec in ("h264", "hevc") else 0)

    def crcs(thread_type, num_threads):
        with open_source(str(tmp_path / "a.mkv")) as source:
            decoded = decode_packets(source, seek_to=None, num_threads=num_threads, thread_type=thread_type)
            return [picture_crc(item.frame) for item in decoded]

    alone = crcs("SLICE", 1)
    assert len(set(alone)) == 12
    assert crcs("AUTO", 4) == alone and crcs("SLICE", 4) == alone


# Parameter sets that change in-band.

IN_BAND = [
    ("a.mkv", "h264", False, 0),
    ("a.mp4", "h264", True, 2),
    ("a.ts", "h264", True, 0),
    ("a.mkv", "hevc", True, 0),
    ("b.mp4", "hevc", True, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codec", "cabac", "bframes"), IN_BAND)
def test_decoding_begins_only_where_the_parameter_sets_in_force_are(tmp_path, name, codec, cabac, bframes):
    """Without the proof's help, and without calling a sound file damaged."""
    make_changing_clip(tmp_path / name, codec, cabac=cabac, bframes=bframes)
    media = probe(str(tmp_path / name))
    assert media.video.num_frames == 60 and not media.damaged_frames
    whole = read(media, 0, 60)
    assert whole == list(enumerate(look(media).crcs))
    for start in range(0, 60, 5):
        assert read(media, start, start + 5) == whole[start : start + 5]


@pytest.mark.parametrize(("name", "codec", "cabac", "bframes"), IN_BAND)
def test_the_proof_finds_the_right_pictures_where_nothing_is_known_of_parameter_sets(
    tmp_path, name, codec, cabac, bframes
):
    make_changing_clip(tmp_path / name, codec, cabac=cabac, bframes=bframes)
    media = probe(str(tmp_path / name))
    proof = look(media)
    blind = replace(media, video=replace(media.video, closed=()))
    if media.video.timestamps == "pts" and codec == "h264" and not cabac:
        assert read(blind, 40, 50) != list(enumerate(proof.crcs))[40:50], "the trap is none"
    require_partition(blind, proof, 10)


def test_a_container_that_lies_about_key_frames_is_noticed(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=48, gop=24, bframes=0)
    data = (tmp_path / "a.mp4").read_bytes()
    # Without its list of key frames every frame is taken for one.
    assert data.count(b"stss") == 1
    (tmp_path / "liar.mp4").write_bytes(data.replace(b"stss", b"free"))
    honest, liar = probe(str(tmp_path / "a.mp4")), probe(str(tmp_path / "liar.mp4"))
    proof = look(honest)
    assert look(liar) == proof
    require_partition(liar, proof, 7)


# What is wrong is noticed.


def test_a_wrong_check_value_is_an_error_and_no_picture(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=24)
    media = probe(str(tmp_path / "a.mp4"))
    packed = bytearray(look(media).to_bytes())
    packed[4 * 10] ^= 1
    wrong = proof_from_bytes(bytes(packed))
    assert [number for number, _ in read(media, 0, 10, wrong)] == list(range(10))
    with pytest.raises(StorageError, match="frame 10 does not decode to the picture"):
        read(media, 8, 14, wrong)


@pytest.mark.parametrize("salvage", [False, True])
def test_another_file_of_the_same_shape_is_noticed(tmp_path, salvage):
    make_clip(tmp_path / "a.mp4", num_frames=24)
    media = probe(str(tmp_path / "a.mp4"))
    proof = look(media)
    make_clip(tmp_path / "a.mp4", num_frames=24, first_number=100)
    with pytest.raises(StorageError, match="frame 12 does not decode to the picture"):
        read(media, 12, 16, proof, salvage=salvage)


def test_a_file_that_has_rotted_since_is_noticed(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=48, container_options={"movflags": "faststart"})
    media = probe(str(tmp_path / "a.mp4"))
    proof = look(media)
    rotten = replace(media, path=damage(tmp_path / "a.mp4", 0.6, 300))
    with pytest.raises(StorageError, match="does not decode to the picture"):
        require_partition(rotten, proof, 8)


# Stand-ins.

DAMAGED = [("a.mp4", {"bframes": 2}), ("a.mkv", {"codec": "mpeg4"}), ("a.ts", {"codec": "mpeg2", "bframes": 2})]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), DAMAGED)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_stand_ins_are_proved_like_pictures(tmp_path, name, kwargs, share):
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    make_clip(tmp_path / name, num_frames=48, container_options=options, **kwargs)
    path = damage(tmp_path / name, share, 300)
    try:
        media = probe(path)
        with pytest.raises(DamagedMediaError):
            look(media)
    except DamagedMediaError:
        media = probe(path, salvage=True)
    proof = look(media, salvage=True)
    assert proof.stand_ins
    assert len(proof.concealed) < 3, "what is far from the damage is proved"
    for length in (3, 8):
        require_partition(media, proof, length, salvage=True)
    missing = []
    read(media, 0, media.video.num_frames, proof, salvage=True, on_missing=missing.append)
    assert ranges_of(missing) == proof.stand_ins


def test_what_may_be_predicted_from_damage_is_not_called_proved():
    """Seven frames between two key frames, the fourth of them half read or gone."""
    key, predicted, between = PictureType.I, PictureType.P, PictureType.B
    types = [key, predicted, between, predicted, predicted, key, predicted]

    def concealed(broken, **facts):
        maker = ProofMaker()
        for number, kind in enumerate(types):
            frame = av.VideoFrame(16, 16, "gray")
            frame.planes[0].update(bytes([number]) * frame.planes[0].buffer_size)
            frame.pict_type = kind
            frame.key_frame = kind == key
            is_broken = number in broken
            maker.see(frame, is_missing=is_broken, is_stand_in=is_broken and facts["is_stand_in"])
        return maker.made()

    half = concealed({3}, is_stand_in=False)
    assert (half.stand_ins, half.concealed) == (((3, 4),), ((2, 5),))
    gone = concealed({3}, is_stand_in=True)
    assert (gone.stand_ins, gone.concealed) == (((3, 4),), ((2, 5),))
    first = concealed({0}, is_stand_in=True)
    assert first.concealed == ((0, 5),)
    after_good = concealed({1}, is_stand_in=True)
    assert after_good.concealed == ((2, 5),)
    assert not concealed(set(), is_stand_in=False).concealed
    types[0] = predicted
    assert concealed(set(), is_stand_in=False).concealed == ((0, 5),), "it began without a key frame"


# The check value.


def test_what_is_beside_the_picture_changes_nothing():
    width, height = 37, 11
    picture = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    values = set()
    for seed in range(3):
        frame = av.VideoFrame(width, height, "gray")
        rows = np.random.default_rng(seed).integers(0, 256, (height, frame.planes[0].line_size), dtype=np.uint8)
        assert rows.shape[1] > width
        rows[:, :width] = picture
        frame.planes[0].update(rows.tobytes())
        values.add(picture_crc(frame))
    assert len(values) == 1


@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuv422p10le", "gbrap16le", "rgb24", "bgr0", "nv12", "p010le", "pal8"]
)
def test_every_visible_byte_counts(pixel_format):
    frame = av.VideoFrame(6, 4, pixel_format)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    before = picture_crc(frame)
    for plane in frame.planes:
        for row in (0, plane.height - 1):
            data = bytearray(plane.buffer_size)
            data[row * plane.line_size + 1] = 1
            plane.update(bytes(data))
            assert picture_crc(frame) != before
        plane.update(bytes(plane.buffer_size))
    assert picture_crc(frame) == before


def test_size_and_format_count_too():
    def blank(*shape):
        frame = av.VideoFrame(*shape)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        return picture_crc(frame)

    assert len({blank(8, 4, "gray"), blank(4, 8, "gray"), blank(8, 4, "yuv420p"), blank(8, 4, "yuv422p")}) == 4


def test_a_span_carries_its_own_values_and_those_of_its_neighbours():
    proof = Proof(array("I", range(100, 120)), ((3, 5),))
    span = proof.of_span(5, 9)
    assert [span.crc_of(number) for number in range(3, 11)] == [None, *range(104, 110), None]
    assert len(span.crcs) == 4 * 6
    assert [proof.of_span(0, 20).crc_of(number) for number in (-1, 0, 19, 20)] == [None, 100, 119, None]
    assert proof_from_bytes(proof.to_bytes(), proof.stand_ins) == proof


# Everything together: what comes is right, or it is an error of ours.

ROTTEN = [
    (f"{codec}.{container}", codec, share)
    for codec, containers in CODECS.items()
    for container in containers
    for share in (0.25, 0.55, 0.85)
]


def attempt(media, length, *, salvage):
    """Read all of a file in stretches, each against the proof; nothing where an error of ours says why not."""
    try:
        proof = look(media, salvage=salvage)
    except DamagedMediaError:
        return None
    require_partition(media, proof, length, salvage=salvage)
    return proof


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codec", "share"), ROTTEN)
def test_a_damaged_file_gives_the_same_pictures_however_it_is_cut_or_says_why_not(tmp_path, name, codec, share):
    pixel_format = {"prores": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    bframes = 2 if codec in ("h264", "hevc", "mpeg2", "mpeg4") else 0
    # A cluster's checksum would say so before anything is decoded.
    options = {"mp4": {"movflags": "faststart"}, "mov": {"movflags": "faststart"}, "mkv": {"write_crc32": "0"}}
    make_clip(
        tmp_path / name,
        codec=codec,
        num_frames=40,
        rate=25 if name.endswith("mpg") else 24,
        bframes=bframes,
        pixel_format=pixel_format,
        container_options=options.get(name.rpartition(".")[2]),
    )
    path = damage(tmp_path / name, share, 60)
    try:
        attempt(probe(path), 6, salvage=False)
    except MediaError as error:
        assert "damaged" in str(error) or "decoded" in str(error)
    try:
        media = probe(path, salvage=True)
    except MediaError as error:
        assert path in str(error)
        return
    attempt(media, 6, salvage=True)
    attempt(media, 13, salvage=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codec", "cabac", "bframes"), IN_BAND)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_damage_and_changing_parameter_sets_together(tmp_path, name, codec, cabac, bframes, share):
    make_changing_clip(tmp_path / name, codec, cabac=cabac, bframes=bframes)
    media = probe(damage(tmp_path / name, share, 60), salvage=True)
    attempt(media, 7, salvage=True)


def test_a_damaged_first_key_frame_is_damage_and_not_left_out(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=24, bframes=2, container_options={"movflags": "faststart"})
    with av.open(str(tmp_path / "a.mp4")) as container:
        packet = next(container.demux(video=0))
        picture = list(split_units(bytes(packet), 4))[-1]
    data = (tmp_path / "a.mp4").read_bytes()
    assert picture[0] & 31 == 5 and data.count(picture) == 1
    # It says that it begins far below the picture.
    (tmp_path / "b.mp4").write_bytes(data.replace(picture, picture[:1] + b"\x01\x80\x80" + picture[4:]))
    with pytest.raises(DamagedMediaError, match="of 24 frames can be read"):
        probe(str(tmp_path / "b.mp4"))
    media = probe(str(tmp_path / "b.mp4"), salvage=True)
    assert media.video.num_frames == 24 and media.damaged_frames[0][0] == 0
    proof = look(media, salvage=True)
    assert proof.concealed == ((0, 8),)
    require_partition(media, proof, 5, salvage=True)
