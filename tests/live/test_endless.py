"""Laws of any restorer as an endless stream: as many frames out as in, whenever they stop."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.frames import Frames
from seedvr2_ray.live.endless import EndlessRestorer, make_endless, measure_rate
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.swiftvr.restorer import SwiftVRRestorer
from seedvr2_ray.settings import RestoreSettings
from tests.live.restorers import ChunkedRestorer
from tests.models.swiftvr.tiny import load_model

GEOMETRY = Geometry(source_width=16, source_height=16, width=32, height=32)


def frames_of(num_frames: int, batch: int = 3) -> Iterator[Frames]:
    codes = torch.randint(0, 255, (num_frames, 3, 16, 16), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    for start in range(0, num_frames, batch):
        stop = min(start + batch, num_frames)
        yield Frames(codes[start:stop], tuple(range(start, stop)), Fraction(1, 25))


def times_out(endless: EndlessRestorer, num_frames: int) -> list[int]:
    return [pts for batch in endless.restore(frames_of(num_frames), GEOMETRY) for pts in batch.pts]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lanczos", "nano"])
def test_every_length_from_1_to_60_comes_out_whole(model: str) -> None:
    restorer = LanczosRestorer() if model == "lanczos" else ChunkedRestorer()
    endless = make_endless(restorer, find_entry(model), RestoreSettings())
    for num_frames in range(1, 61):
        assert times_out(endless, num_frames) == list(range(num_frames))


@pytest.fixture(scope="module")
def swiftvr() -> EndlessRestorer:
    with torch.no_grad():
        restorer = SwiftVRRestorer(load_model(), RestorerIdentity("tiny", "0"), device=torch.device("cpu"))
    return EndlessRestorer(restorer, True, 24, RestoreSettings(colour_match="none"))


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [1, 13, 30])
def test_a_model_made_for_streams_needs_no_length(swiftvr: EndlessRestorer, num_frames: int) -> None:
    assert times_out(swiftvr, num_frames) == list(range(num_frames))


def test_a_restorer_that_needs_a_length_is_never_asked_without() -> None:
    endless = EndlessRestorer(ChunkedRestorer(), True, 5, RestoreSettings())
    with pytest.raises(SettingsError, match="must know how many frames"):
        times_out(endless, 3)


def test_chunks_are_as_long_as_the_settings_say() -> None:
    restorer = ChunkedRestorer()
    endless = make_endless(restorer, find_entry("nano"), RestoreSettings(chunk_frames=5, chunk_overlap=1))
    times_out(endless, 12)
    assert restorer.segments == [(0, 5), (5, 5), (10, 2)]


def test_the_measured_rate_is_that_of_the_restorer() -> None:
    endless = make_endless(
        ChunkedRestorer(seconds=0.02), find_entry("nano"), RestoreSettings(chunk_frames=5, chunk_overlap=1)
    )
    rate, first = measure_rate(endless, next(frames_of(1)), GEOMETRY)
    # 5 frames in more than 0.02 s; how much more is the machine's business.
    assert 0 < rate < 251
    assert tuple(first.data_TCHW.shape[2:]) == (GEOMETRY.height, GEOMETRY.width)
