"""Laws of protected files: they are called encrypted, not damaged, and damaged ones are not called encrypted."""

import pytest

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.bitstream.encryption import is_encrypted
from seedvr2_ray.media.probe import probe
from tests.media.clips import make_clip
from tests.media.damaged import cut_short


def scrambled_broadcast(path):
    make_clip(path, num_frames=24)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 188):
        if (data[at + 1] & 0x1F) << 8 | data[at + 2] == 0x100:
            data[at + 3] |= 0xC0
            for place in range(at + 8, at + 188):
                data[place] ^= 0x5A
    path.write_bytes(data)


def scrambled_disc(path):
    make_clip(path, codec="mpeg2", num_frames=24, rate=25)
    data = bytearray(path.read_bytes())
    at = data.find(b"\0\0\1\xe0")
    while at >= 0:
        data[at + 6] |= 0x30
        stop = data.find(b"\0\0\1", at + 30)
        for place in range(at + 24, stop if stop >= 0 else len(data)):
            data[place] |= 0x81
        at = data.find(b"\0\0\1\xe0", at + 4)
    path.write_bytes(data)


def protected_movie(path):
    make_clip(path, num_frames=24)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"drmi").replace(b"avcC", b"xxxx"))


def whole_file(path):
    path.write_bytes(b"Salted__" + bytes(range(256)) * 40)


def protected_asf(path):
    make_clip(path, codec="wmv2", num_frames=12, container_format="asf")
    data = path.read_bytes()
    # In place of the object that lists streams: without it nothing can be found.
    name = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
    path.write_bytes(data.replace(name, bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")))


@pytest.mark.parametrize(
    ("name", "protect"),
    [
        ("a.ts", scrambled_broadcast),
        ("a.vob", scrambled_disc),
        ("a.mp4", protected_movie),
        ("a.bin", whole_file),
        ("a.asf", protected_asf),
    ],
)
def test_a_protected_file_is_called_encrypted(tmp_path, name, protect):
    protect(tmp_path / name)
    with pytest.raises(MediaError, match="is encrypted; only unprotected files can be restored"):
        probe(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ts", "h264"), ("a.mp4", "h264"), ("a.mkv", "h264"), ("a.vob", "mpeg2")]
)
def test_damage_is_not_called_encryption(tmp_path, name, codec):
    make_clip(tmp_path / name, codec=codec, num_frames=24, rate=25)
    assert not is_encrypted(str(tmp_path / name))
    assert not is_encrypted(str(cut_short(tmp_path / name, 0.6)))
    assert not is_encrypted(str(tmp_path / "missing"))
