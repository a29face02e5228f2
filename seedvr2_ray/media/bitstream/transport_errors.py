"""What MPEG transport packets say of themselves (ISO 13818-1, 2.4.3.3): bytes that are wrong, or missing.

libav marks a picture when it sees such a packet, also where two recordings were put one after the
other, and sometimes the one beside it. So whatever it marks is looked at again.
"""

from dataclasses import dataclass

_SYNC = 0x47
_STRIDES = (188, 192, 204)
_MOST_BYTES = 64 << 20
"""Read between two pictures."""
_LONGEST_STEP_SECONDS = 1.0
"""Between two pictures of one recording."""


@dataclass(frozen=True, slots=True)
class TransportUnit:
    """One packet of the pictures, as it lies in the file."""

    position: int
    next_position: int
    """Of the packet after it; the end of the file for the last one."""
    seconds_to_next: float | None
    """In decoding times; nothing where one of them is not known."""
    next_is_key: bool


def is_damaged(path: str, unit: TransportUnit) -> bool:
    """Say whether bytes of a picture are wrong or missing."""
    if unit.position < 0 or unit.next_position <= unit.position:
        return True  # The container says it is, and where it lies cannot be looked up.
    with open(path, "rb") as file:
        file.seek(unit.position)
        data = file.read(min(unit.next_position - unit.position + max(_STRIDES), _MOST_BYTES))
    at = 0 if data[:1] == bytes([_SYNC]) else 4
    stride = next((size for size in _STRIDES if data[at + size : at + size + 1] == bytes([_SYNC])), 0)
    if not stride or data[at : at + 1] != bytes([_SYNC]):
        return True
    length = unit.next_position - unit.position
    pid = _pid(data, at)
    counter: int | None = None
    for start in range(at, len(data) - 3, stride):
        if data[start] != _SYNC:
            return start < length
        if _pid(data, start) != pid:
            continue
        begins_another = start >= length
        if data[start + 1] & 0x80 and not begins_another:
            return True
        if counter is not None and _is_gap(data, start, counter):
            return not (begins_another and _is_splice(unit, data[start + 3] & 15))
        if begins_another:
            return False
        counter = data[start + 3] & 15
    return False


def _pid(data: bytes, start: int) -> int:
    return int.from_bytes(data[start + 1 : start + 3], "big") & 0x1FFF


def _is_gap(data: bytes, start: int, previous: int) -> bool:
    counter, has_payload = data[start + 3] & 15, bool(data[start + 3] & 0x10)
    # A packet may be sent twice, and one without payload does not count.
    return counter not in ({(previous + 1) & 15, previous} if has_payload else {previous})


def _is_splice(unit: TransportUnit, counter: int) -> bool:
    """Whether another recording begins, with a key frame and a clock or a count of its own: nothing is missing."""
    step = unit.seconds_to_next
    return unit.next_is_key and (counter == 0 or step is None or not 0 < step <= _LONGEST_STEP_SECONDS)
