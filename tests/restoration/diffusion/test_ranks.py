"""Several ranks restore a segment as one does, and end it together."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import MediaError, NotFiniteError, SettingsError, StoppedElsewhereError
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.vae.config import FAST
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.models.weights.download import WeightsSource, require_model
from seedvr2_ray.restoration.diffusion.load import load_networks
from seedvr2_ray.restoration.diffusion.ranks import PictureShare
from seedvr2_ray.restoration.planning.padding import SpatialPadding
from tests.models.ranks import run_ranks
from tests.restoration.diffusion.test_restorer import MODEL, _clip, _restore, _restorer, _task

pytestmark = pytest.mark.slow

GPU_LIKE = replace(FAST, conv_elements=20_000)


def _codes(batches: list[Frames]) -> Tensor | None:
    return torch.cat([batch.data_TCHW for batch in batches]).int() if batches else None


CASES = {
    "still image": (1, (48, 24), 3, {}),
    "video": (7, (64, 40), 3, {}),
    "odd size, more frames than a chunk": (13, (46, 30), 3, {"padding": "reflect_black"}),
    "alpha": (6, (48, 24), 4, {}),
    "tiles": (5, (80, 80), 3, {"vae_tile": 64}),
}


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_segment_on_ranks_is_that_of_one_device(case: str, num_ranks: int) -> None:
    num_frames, size, channels, settings = CASES[case]
    task = _task(num_frames, size, (20, 12), depth=16, colour_match="none", **settings)

    def restore(parallel: SequenceParallel) -> Tensor | None:
        restorer = _restorer(parallel=parallel, vae_options=GPU_LIKE)
        return _codes(list(restorer.restore(_clip(num_frames, (20, 12), channels=channels), task)))

    first, *others = run_ranks(num_ranks, restore)
    expected = _restore(_restorer(vae_options=GPU_LIKE), task, _clip(num_frames, (20, 12), channels=channels))
    # Rounding to codes turns the last bits into one code of 65535. Alpha is divided by small variances on the way.
    difference = (first - expected.int()).abs()
    assert difference[:, :3].max() <= 1
    assert difference.max() <= 32
    assert others == [None] * (num_ranks - 1)


@pytest.mark.parametrize("colour_match", ["wavelet", "wavelet_adaptive", "hsv", "adain"])
def test_colours_are_matched_on_whole_frames_wherever_they_are(colour_match: str) -> None:
    task = _task(5, (48, 24), (20, 12), colour_match=colour_match)

    def restore(parallel: SequenceParallel) -> Tensor | None:
        return _codes(list(_restorer(parallel=parallel).restore(_clip(5, (20, 12)), task)))

    difference = (run_ranks(2, restore)[0] - _restore(_restorer(), task).int()).abs()
    assert difference.max() <= 1


def test_what_only_moves_keeps_its_bytes() -> None:
    padding = SpatialPadding(20, 8, 4, 0, 0, 0)
    frames = torch.randn(5, 3, 24, 8)

    def there_and_back(parallel: SequenceParallel) -> Tensor | None:
        share = PictureShare(parallel, padding, 4)
        rows = share.to_rows(frames[[*share.frames(range(5))]], 5)
        assert torch.equal(rows, share.rows_of(frames))
        return share.collect(share.whole_frames(rows).mul(1000).to(torch.int16).view(torch.uint16), 5)

    first, *others = run_ranks(4, there_and_back)
    assert torch.equal(first, frames[:, :, :20].mul(1000).to(torch.int16).view(torch.uint16))
    assert others == [None] * 3


@pytest.mark.slow
def test_nano_on_two_ranks_gives_the_bytes_of_one_but_for_a_last_code_here_and_there() -> None:
    """Merged statistics and the text's sum over ranks add up in another order; nothing else does."""
    files = require_model(find_entry("nano"), WeightsSource(), may_download=False)
    model = load_networks(find_entry("nano"), files, device=torch.device("cpu"), dtype=torch.float32)
    task = _task(6, (96, 64), (48, 32))

    def restore(parallel: SequenceParallel) -> Tensor | None:
        return _codes(list(_restorer(model, parallel=parallel).restore(_clip(6, (48, 32)), task)))

    difference = (run_ranks(2, restore)[0] - _restore(_restorer(model), task).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_too_few_rows_are_refused_on_every_rank_before_a_frame_is_read() -> None:
    def never() -> Iterator[Frames]:
        raise AssertionError("a frame was read")
        yield

    def refuse(parallel: SequenceParallel) -> str:
        with pytest.raises(SettingsError) as refused:
            list(_restorer(parallel=parallel).restore(never(), _task(1, (8, 16))))
        return str(refused.value)

    assert {message.split(";")[0] for message in run_ranks(3, refuse)} == {
        "a picture of 2 rows of latents cannot be spread over 3 ranks, each of which needs one"
    }


class _Cancelled(Exception):
    pass


def test_whoever_is_cancelled_stops_all_and_all_go_on_with_the_next_segment() -> None:
    def cancel() -> None:
        raise _Cancelled

    def restore(parallel: SequenceParallel) -> Tensor | None:
        restorer, task = _restorer(parallel=parallel), _task(5, (48, 24))
        mine = replace(task, check_cancelled=cancel) if parallel.rank == 1 else task
        with pytest.raises(_Cancelled if parallel.rank == 1 else StoppedElsewhereError):
            list(restorer.restore(_clip(5), mine))
        return _codes(list(restorer.restore(_clip(5), task)))

    assert run_ranks(2, restore)[0] is not None


def test_a_caller_that_takes_no_more_frames_stops_all() -> None:
    task = _task(40, (48, 24), chunk_frames=5)

    def restore(parallel: SequenceParallel) -> Tensor | None:
        restorer = _restorer(parallel=parallel)
        if parallel.rank == 0:
            stream = restorer.restore(_clip(40), task)
            next(stream)
            stream.close()
        else:
            with pytest.raises(StoppedElsewhereError, match="rank 0 stopped this segment"):
                list(restorer.restore(_clip(40), task))
        return _codes(list(restorer.restore(_clip(5), _task(5, (48, 24)))))

    assert run_ranks(2, restore)[0] is not None


def test_a_source_that_fails_on_one_rank_stops_all() -> None:
    def broken() -> Iterator[Frames]:
        yield from _clip(2, batches=2)
        raise MediaError("the file ends here")

    def restore(parallel: SequenceParallel) -> None:
        clip = broken() if parallel.rank == 0 else _clip(5, batches=2)
        with pytest.raises(MediaError if parallel.rank == 0 else StoppedElsewhereError):
            list(_restorer(parallel=parallel).restore(clip, _task(5, (48, 24))))

    run_ranks(2, restore)


def test_a_number_that_is_none_on_one_rank_is_refused_by_all_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, bad_thread = MODEL.vae.decoder.forward, threading.local()

    def spoil(*args: object) -> Tensor:
        out: Tensor = decode(*args)
        return out * float("nan") if getattr(bad_thread, "is_bad", False) else out

    monkeypatch.setattr(MODEL.vae.decoder, "forward", spoil)

    def restore(parallel: SequenceParallel) -> str:
        bad_thread.is_bad = parallel.rank == 1
        with pytest.raises(NotFiniteError) as refused:
            list(_restorer(parallel=parallel).restore(_clip(5), _task(5, (48, 24))))
        return str(refused.value)

    messages = run_ranks(2, restore)
    assert messages[0] == messages[1]
    assert "'decode'" in messages[0]
