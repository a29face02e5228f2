"""Laws of decoded frames as values."""

from fractions import Fraction

import pytest
import torch

from seedvr2_ray.frames import Frames, FrameSpan, to_codes, to_unit_range

TICK = Fraction(1, 24)


def _frames(shape: tuple[int, ...], pts: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Frames:
    return Frames(torch.zeros(shape, dtype=dtype), pts, TICK)


@pytest.mark.parametrize(("dtype", "num_codes"), [(torch.uint8, 256), (torch.uint16, 65536)])
def test_every_code_survives_the_way_through_floats(dtype: torch.dtype, num_codes: int) -> None:
    codes = torch.arange(num_codes, dtype=torch.int32).to(dtype)
    back = to_codes(to_unit_range(codes), dtype)
    assert back.dtype == dtype
    assert back.to(torch.int32).tolist() == list(range(num_codes))


@pytest.mark.parametrize(("dtype", "peak"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_codes_saturate_instead_of_wrapping(dtype: torch.dtype, peak: int) -> None:
    codes = to_codes(torch.tensor([-1.0, -1e-9, 0.0, 1.0, 1.0 + 1e-6, 7.0]), dtype)
    assert codes.to(torch.int32).tolist() == [0, 0, 0, peak, peak, peak]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_values_become_the_nearest_codes(dtype: torch.dtype) -> None:
    values = torch.linspace(0, 1, 33, dtype=dtype)
    exact = (values.double() * 65535).round().long()
    assert (to_codes(values, torch.uint16).long() - exact).abs().max() <= (0 if dtype == torch.float32 else 1)


def test_conversions_leave_their_argument_alone() -> None:
    codes = torch.tensor([0, 128, 255], dtype=torch.uint8)
    values = torch.tensor([0.0, 0.5, 2.0])
    to_unit_range(codes)
    to_codes(values, torch.uint8)
    assert codes.tolist() == [0, 128, 255]
    assert values.tolist() == [0.0, 0.5, 2.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_frames_with_as_many_timestamps_as_pictures_are_taken(dtype: torch.dtype, channels: int) -> None:
    assert len(_frames((3, channels, 4, 6), (0, 1, 5), dtype)) == 3


@pytest.mark.parametrize(
    ("shape", "pts", "dtype", "complaint"),
    [
        ((2, 3, 4, 6), (0,), torch.uint8, "2 frames but 1 timestamps"),
        ((2, 3, 4, 6), (5, 5), torch.uint8, "increase strictly"),
        ((2, 3, 4, 6), (5, 4), torch.uint8, "increase strictly"),
        ((2, 1, 4, 6), (0, 1), torch.uint8, "3|4"),
        ((3, 4, 6), (0,), torch.uint8, "T x"),
        ((1, 3, 4, 6), (0,), torch.float32, "uint8 or uint16"),
    ],
)
def test_frames_that_contradict_themselves_are_refused(
    shape: tuple[int, ...], pts: tuple[int, ...], dtype: torch.dtype, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint.replace("|", r"\|")):
        _frames(shape, pts, dtype)


def test_a_span_counts_frames_and_ends_after_the_last() -> None:
    span = FrameSpan(start=7, pts=(10, 20, 40))
    assert (len(span), span.stop) == (3, 10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_what_is_no_number_gets_no_code(bad: float, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="NaN or infinite have no codes"):
        to_codes(torch.tensor([0.5, bad, 0.5]), dtype)
