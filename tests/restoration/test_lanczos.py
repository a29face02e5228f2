from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.frames import Frames, to_codes, to_unit_range
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import Restorer, SegmentTask
from seedvr2_ray.settings import RestoreSettings


def make_task(frames_TCHW: Tensor, width: int, height: int, depth: Literal[8, 16] = 8) -> SegmentTask:
    return SegmentTask(
        first_frame=0,
        num_frames=len(frames_TCHW),
        geometry=Geometry(
            source_width=frames_TCHW.shape[3], source_height=frames_TCHW.shape[2], width=width, height=height
        ),
        settings=RestoreSettings(),
        output_depth=depth,
    )


def in_batches(frames_TCHW: Tensor, lengths: list[int]) -> Iterator[Frames]:
    start = 0
    for length in lengths:
        pts = tuple(10 * number + 3 for number in range(start, start + length))
        yield Frames(frames_TCHW[start : start + length], pts, Fraction(1, 1000))
        start += length


def restore(frames_TCHW: Tensor, width: int, height: int, depth: Literal[8, 16] = 8) -> Tensor:
    task = make_task(frames_TCHW, width, height, depth)
    batches = in_batches(frames_TCHW, [len(frames_TCHW)])
    return torch.cat([out.data_TCHW for out in LanczosRestorer().restore(batches, task)])


def test_a_stream_whose_end_nobody_knows_leaves_frame_by_frame_as_a_segment_does():
    frames_TCHW = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    stream = replace(make_task(frames_TCHW, 12, 12), num_frames=None)
    pulled = in_batches(frames_TCHW, [1] * 6)
    restored = LanczosRestorer().restore(pulled, stream)
    first = next(restored)
    assert next(pulled).pts == (13,), "a filter looks at no frame but the one it enlarges"
    whole_TCHW = restore(frames_TCHW, 12, 12)
    assert torch.equal(first.data_TCHW, whole_TCHW[:1])
    assert torch.equal(torch.cat([frames.data_TCHW for frames in restored]), whole_TCHW[2:])


def smooth_picture(num_channels: int, height: int, width: int) -> Tensor:
    """Return a picture in 0..1 without anything a filter could ring on."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    channels = [0.5 + 0.4 * torch.sin(x + number) * torch.cos(y * (number + 1) / 2) for number in range(num_channels)]
    return torch.stack(channels)[None]


@pytest.mark.parametrize("lengths", [[7], [1] * 7, [3, 4], [5, 2]])
def test_frames_and_timestamps_are_the_same_however_they_come(lengths: list[int]) -> None:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (7, 3, 9, 13), dtype=torch.uint8)
    out = list(LanczosRestorer().restore(in_batches(frames, lengths), make_task(frames, 26, 18)))
    assert [pts for each in out for pts in each.pts] == [10 * number + 3 for number in range(7)]
    assert {each.time_base for each in out} == {Fraction(1, 1000)}
    assert torch.equal(torch.cat([each.data_TCHW for each in out]), restore(frames, 26, 18))


@pytest.mark.parametrize("size", [(52, 34), (39, 25), (13, 9), (20, 12)])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_filter_is_pillows(size: tuple[int, int], depth: Literal[8, 16]) -> None:
    picture = to_codes(smooth_picture(3, 17, 26), torch.uint8)
    known = Image.fromarray(picture[0].permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
    restored = restore(picture, *size, depth)[0].permute(1, 2, 0).numpy().astype(np.float64)
    error = np.abs(restored / (1 if depth == 8 else 257) - np.asarray(known, dtype=np.float64)).max()
    assert error <= (2.0 if depth == 8 else 1.2)  # both round between their passes


@pytest.mark.parametrize("source_dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("num_channels", [3, 4])
def test_every_depth_comes_out_as_asked_and_means_the_same(
    source_dtype: torch.dtype, depth: Literal[8, 16], num_channels: int
) -> None:
    picture = smooth_picture(num_channels, 16, 24)
    if num_channels == 4:
        picture[:, 3] = 1
    source = to_codes(picture, source_dtype)
    restored = restore(source, 48, 32, depth)
    assert restored.dtype == (torch.uint8 if depth == 8 else torch.uint16)
    peak = 255 if depth == 8 else 65535
    exact = F.interpolate(to_unit_range(source).double(), size=(32, 48), mode="lanczos", antialias=True).clamp(0, 1)
    assert (restored.double() / peak - exact).abs().max() <= (1.5 / 255 if depth == 8 else 0.6 / 65535)


def test_sixteen_bits_are_not_computed_in_eight() -> None:
    ramp = torch.linspace(20000, 20255, 64).round().expand(1, 3, 8, 64).to(torch.int32).to(torch.uint16)
    assert len(restore(ramp, 256, 16, 16).to(torch.int32).unique()) > 200


def test_the_same_size_and_depth_is_the_same_picture() -> None:
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (2, 4, 8, 8), dtype=torch.uint8)
    frames[:, 3] = 255
    assert torch.equal(restore(frames, 8, 8), frames)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_the_colour_of_invisible_pixels_does_not_bleed_into_edges(dtype: torch.dtype) -> None:
    picture = torch.zeros(1, 4, 16, 16)
    picture[:, :3, 4:12, 4:12] = 0.8  # grey on transparent black
    picture[:, 3, 4:12, 4:12] = 1.0
    restored = restore(to_codes(picture, dtype), 64, 64).float()
    visible = restored[0, 3] > 0
    assert visible.sum() > 32 * 32
    assert (restored[0, :3, visible] - 0.8 * 255).abs().max() <= 1
    assert restored[0, 3].max() == 255


def test_alpha_rides_through_the_fast_kernel_unchanged_when_opaque() -> None:
    torch.manual_seed(2)
    frames = torch.randint(0, 256, (1, 4, 37, 53), dtype=torch.uint8)
    frames[:, 3] = 255
    restored = restore(frames, 111, 80)
    assert restored[:, 3].unique().tolist() == [255]
    assert torch.equal(restored[:, :3], restore(frames[:, :3], 111, 80))


def test_frames_come_out_one_by_one_and_are_made_only_when_wanted() -> None:
    taken: list[int] = []

    def source() -> Iterator[Frames]:
        for number in range(100):
            taken.append(number)
            yield Frames(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), (number,), Fraction(1, 25))

    stream = LanczosRestorer().restore(source(), make_task(torch.zeros(1, 3, 4, 4), 8, 8))
    assert [next(stream).pts for _ in range(3)] == [(0,), (1,), (2,)]
    assert len(taken) == 3
    stream.close()  # type: ignore[attr-defined]


def test_a_cancelled_segment_stops_between_frames() -> None:
    class Cancelled(Exception):
        pass

    calls = 0

    def cancel_on_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled

    frames = torch.zeros(1000, 3, 2, 2, dtype=torch.uint8)
    task = SegmentTask(
        first_frame=0,
        num_frames=1000,
        geometry=Geometry(source_width=2, source_height=2, width=4, height=4),
        settings=RestoreSettings(),
        output_depth=8,
        check_cancelled=cancel_on_third,
    )
    with pytest.raises(Cancelled):
        list(LanczosRestorer().restore(in_batches(frames, [1000]), task))
    assert calls == 3


def test_it_fits_the_seam_and_is_known_before_it_is_built() -> None:
    restorer: Restorer = LanczosRestorer()
    assert restorer.identity == LANCZOS
    assert LANCZOS.name == "lanczos"
    assert len(LANCZOS.digest) == 64


def test_an_old_torch_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_lanczos(*args: object, **kwargs: object) -> Tensor:
        raise NotImplementedError("no such mode")

    monkeypatch.setattr(F, "interpolate", without_lanczos)
    with pytest.raises(DeploymentError, match=r"install torch 2\.13 or newer"):
        LanczosRestorer()
