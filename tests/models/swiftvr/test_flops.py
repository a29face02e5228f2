"""Arithmetic is what the architecture's description says it is."""

import pytest

from seedvr2_ray.models.swiftvr.config import SWIFTVR
from seedvr2_ray.models.swiftvr.flops import reae_flops, transformer_flops


@pytest.mark.parametrize(
    ("height", "width", "encode", "decode", "transform"),
    [
        (736, 1280, 38, 310, 2.26),
        (1088, 1920, 85, 686, 5.01),
        (1440, 2560, 149, 1211, 8.69),
        (2176, 3840, 338, 2745, 19.6),
    ],
)
def test_a_frame_costs_what_the_specification_says(height, width, encode, decode, transform):
    codec = reae_flops(SWIFTVR.reae, height, width)
    assert codec.encode / 1e9 == pytest.approx(encode, rel=0.01)
    assert codec.decode / 1e9 == pytest.approx(decode, rel=0.01)
    per_frame = transformer_flops(SWIFTVR.transformer, (6, height // 32, width // 32)) / 24
    assert per_frame / 1e12 == pytest.approx(transform, rel=0.01)
