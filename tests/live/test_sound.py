"""Sound that is coded anew stays with its pictures, however long it lasts. A simulated clock: nothing is encoded."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from seedvr2_ray.live.sound import CodedSound
from seedvr2_ray.live.source import Sound, SoundFormat

SOURCE_RATE = 44100


class _Unencoded:
    """A container whose encoder only listens."""

    def __init__(self) -> None:
        self.num_samples = 0

    def add_stream(self, codec: str, **options: Any) -> Any:
        return self

    def encode(self, frame: av.AudioFrame | None) -> list[Any]:
        self.num_samples += 0 if frame is None else frame.samples
        return []


@pytest.mark.slow
@pytest.mark.parametrize("drift", [Fraction(1, 2000), Fraction(-1, 2000)])
def test_five_minutes_of_a_sender_whose_clock_is_wrong_stay_within_a_frame_of_their_times(drift: Fraction) -> None:
    container, samples = _Unencoded(), np.zeros((1, SOURCE_RATE), np.float32)
    described = SoundFormat("opus", SOURCE_RATE, 1, b"", None, None)
    coded = CodedSound(container, described)  # type: ignore[arg-type]  # As much of a container as it uses.
    at = Fraction(0)
    for _ in range(300):
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = SOURCE_RATE
        assert list(coded.packets(Sound(frame, at))) == []
        at += 1 + drift
        # What waits for the encoder's next packet is at most one.
        assert abs(container.num_samples / 48000 - float(at)) < 1 / 25 + 1024 / 48000
    assert float(at) == pytest.approx(300, abs=0.2)
    assert described.kind == ("opus", SOURCE_RATE, 1)
