"""Closed captions as bytes of a coded picture.

EIA-608 and CTA-708 captions travel as ATSC's ``GA94`` user data (ATSC A/53 part 4, 6.2.3), which MPEG-2, H.264 and
HEVC all carry. AV1 has a place for them too, but readers differ in which of a packet's frames, hidden ones included,
they take it for.
"""

from seedvr2_ray.media.bitstream.nal_units import unescaped

_IN_T35 = b"\xb5\x00\x31GA94\x03"
_IN_MPEG2 = b"\x00\x00\x01\xb2GA94\x03"
_SIGNS = {"h264": _IN_T35, "hevc": _IN_T35, "vvc": _IN_T35, "mpeg2video": _IN_MPEG2}
_OTHER_FORMS = {b"\x00\x00\x01\xb2CC\x01": "DVD", b"\x00\x00\x01\xb2\x03": "SCTE-20"}
_LONGEST = 3 * 31
_HAS_CAPTIONS, _COUNT, _IS_VALID, _IS_708 = 0x40, 0x1F, 4, 2


def can_carry(codec: str) -> bool:
    """Whether captions can be read from a codec's pictures."""
    return codec in _SIGNS


def captions_of(codec: str, data: bytes) -> bytes:
    """Return the caption data of a packet: three bytes each, padding included; empty where there is none."""
    sign = _SIGNS[codec]
    found = b""
    at = data.find(sign)
    while at >= 0:
        body = data[at + len(sign) : at + len(sign) + 2 * _LONGEST]
        if codec != "mpeg2video":
            body = unescaped(body)
        if len(body) > 2 and body[0] & _HAS_CAPTIONS:
            found += body[2 : 2 + 3 * (body[0] & _COUNT)]
        at = data.find(sign, at + len(sign))
    return found[: len(found) // 3 * 3]


def says_something(captions: bytes) -> bool:
    """Whether there is more than padding, which many encoders write into every picture."""
    for at in range(0, len(captions), 3):
        head, first, second = captions[at : at + 3]
        if head & _IS_VALID and (head & _IS_708 or (first | second) & 0x7F):
            return True
    return False


def other_form(codec: str, data: bytes) -> str:
    """Name captions in a form that is not carried over; empty where there are none."""
    if codec == "av1" and _IN_T35 in data:
        return "AV1"
    if codec != "mpeg2video":
        return ""
    return next((name for sign, name in _OTHER_FORMS.items() if sign in data), "")


def t35_payload(captions: bytes) -> bytes:
    """Return the message that carries a picture's captions in H.264 and HEVC; what one has no room for is left out."""
    captions = captions[:_LONGEST]
    return _IN_T35 + bytes([0x80 | _HAS_CAPTIONS | len(captions) // 3, 0xFF]) + captions + b"\xff"
