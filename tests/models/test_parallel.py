"""What ranks hand each other arrives whole, is counted, and ends in one sentence when it cannot."""

import socket

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import DeploymentError, RetryableError, SettingsError
from seedvr2_ray.models.parallel import ALONE, SequenceParallel
from tests.models.ranks import run_ranks


def test_whoever_is_alone_sends_nothing_and_gets_its_own() -> None:
    mine = torch.arange(6.0)
    assert ALONE.all_reduce(mine) is mine
    assert ALONE.broadcast(mine) is mine
    assert ALONE.all_gather(mine) == [mine]
    assert ALONE.exchange_halo(mine, mine) == (None, None)
    assert ALONE.agree(3) == [3]
    assert ALONE.sent.total() == 0


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_sum_has_the_same_bits_on_every_rank_and_costs_twice_the_tensor_at_most(size: int) -> None:
    parts = [torch.randn(7, 3, generator=torch.Generator().manual_seed(rank)) for rank in range(size)]

    def reduce(parallel: SequenceParallel) -> tuple[Tensor, int]:
        return parallel.all_reduce(parts[parallel.rank]), parallel.sent["all_reduce"]

    results = run_ranks(size, reduce)
    for total, sent in results:
        assert torch.equal(total, results[0][0])
        torch.testing.assert_close(total, torch.stack(parts).sum(0))
        assert sent <= 2 * 4 * (21 + size)


def test_uneven_pieces_of_any_type_are_gathered_and_the_own_ones_are_not_counted() -> None:
    lengths = [0, 3, 1]

    def gather(parallel: SequenceParallel) -> tuple[list[Tensor], int]:
        mine = torch.full((2, lengths[parallel.rank]), parallel.rank, dtype=torch.bfloat16)
        return parallel.all_gather(mine, lengths, dim=1, kind="x"), parallel.sent["x"]

    for rank, (parts, sent) in enumerate(run_ranks(3, gather)):
        assert [tuple(part.shape) for part in parts] == [(2, 0), (2, 3), (2, 1)]
        assert all((part == owner).all() for owner, part in enumerate(parts))
        assert sent == 2 * 2 * 2 * lengths[rank]


def test_neighbours_get_each_others_rows_and_edges_none() -> None:
    def swap(parallel: SequenceParallel) -> tuple[Tensor | None, ...]:
        row = torch.full((1, 2), float(parallel.rank))
        only_up = parallel.exchange_halo(row, None)
        return (*parallel.exchange_halo(row, row + 10), *only_up)

    values = [[None if row is None else row[0, 0].item() for row in rows] for rows in run_ranks(3, swap)]
    assert values == [[None, 1, None, 1], [10, 2, None, 2], [11, None, None, None]]


def test_one_rank_tells_all_others() -> None:
    found = run_ranks(3, lambda parallel: (parallel.broadcast(torch.tensor([parallel.rank]), 1), parallel.agree(5)))
    assert [(told.item(), agreed) for told, agreed in found] == [(1, [5, 5, 5])] * 3


def test_a_rank_beyond_its_gang_is_refused() -> None:
    with pytest.raises(SettingsError, match="ranks 0 to 1, got rank 2"):
        SequenceParallel(2, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nccl_is_refused_with_the_way_out() -> None:
    with pytest.raises(DeploymentError, match="NCCL.*choose gloo"):
        SequenceParallel.join(rank=0, size=2, init_method="tcp://127.0.0.1:1", backend="nccl", timeout_seconds=1)


@pytest.mark.slow
def test_a_port_in_use_is_told_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RetryableError, match="another process listens at that address; start the gang again"):
            SequenceParallel.join(rank=0, size=2, init_method=address, backend="gloo", timeout_seconds=5)


@pytest.mark.slow
def test_ranks_that_do_not_come_are_not_waited_for_forever(tmp_path: "object") -> None:
    with pytest.raises(RetryableError, match="rank 0 could not meet the 2 ranks of its gang within 2 s"):
        SequenceParallel.join(rank=0, size=2, init_method=f"file://{tmp_path}/meet", backend="gloo", timeout_seconds=2)
