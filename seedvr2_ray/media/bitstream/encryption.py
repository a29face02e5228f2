"""Telling protected files from damaged ones: to a decoder both are noise."""

from seedvr2_ray.media.bitstream.iso_boxes import boxes_of
from seedvr2_ray.media.bitstream.matroska import read_tracks

_HEAD_BYTES = 2**20
_MOST_BOX_BYTES = 16 * 2**20
_PROTECTED_ENTRIES = (b"encv", b"drmi")
"""What MP4 calls a track of pictures that is protected: by Common Encryption, and by Apple's FairPlay."""
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROTECTIONS = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)
"""The identifiers of ASF's content encryption, the plain and the extended one."""
_WHOLE_FILE = (b"Salted__", b"age-encryption.org/", b"-----BEGIN PGP MESSAGE")
"""How files begin that OpenSSL, age and PGP have encrypted as a whole."""
_TS_SIZES = (188, 192, 204)
_MIN_PACKETS = 16
_PICTURES = range(0xE0, 0xF0)


def is_encrypted(path: str) -> bool:
    """Whether a file that could not be used is protected, as its container says."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    if head.startswith(_WHOLE_FILE):
        return True
    if head.startswith(_ASF):
        return any(name in head for name in _ASF_PROTECTIONS)
    if head[4:8] == b"ftyp":
        movie = _movie_box(path)
        return any(name in movie for name in _PROTECTED_ENTRIES)
    if head[:4] == b"\0\0\1\xba":
        return _is_scrambled_program(head)
    return any(track.is_encrypted for track in read_tracks(path)) or _is_scrambled_broadcast(head)


def _movie_box(path: str) -> bytes:
    """The box that describes the tracks of an MP4 file."""
    with open(path, "rb") as file:
        for name, start, stop in boxes_of(file):
            if name == b"moov":
                file.seek(start)
                return file.read(min(stop - start, _MOST_BOX_BYTES))
    return b""


def _is_scrambled_broadcast(head: bytes) -> bool:
    """Transport streams say in every packet whether its content is scrambled (ISO 13818-1, 2.4.3.3)."""
    for size in _TS_SIZES:
        start = 4 if size == 192 else 0
        packets = range(start, len(head) - 4, size)
        if len(packets) < _MIN_PACKETS or any(head[at] != 0x47 for at in packets):
            continue
        return sum(head[at + 3] >> 7 for at in packets) > len(packets) // 3
    return False


def _is_scrambled_program(head: bytes) -> bool:
    """Discs scramble pictures within program streams; the header of every packet says so (ISO 13818-1, 2.4.3.7)."""
    num_packets = num_scrambled = 0
    at = head.find(b"\0\0\1")
    while 0 <= at < len(head) - 7:
        if head[at + 3] in _PICTURES and head[at + 6] & 0xC0 == 0x80:
            num_packets += 1
            num_scrambled += head[at + 6] & 0x30 != 0
        at = head.find(b"\0\0\1", at + 3)
    return num_scrambled > num_packets // 4
