"""The planner against the restorer itself, on tensors without data."""

import os
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from benchmarks.models import TINY
from benchmarks.virtual_device import OutOfVirtualMemoryError, StageTally, counting, virtual_device
from benchmarks.virtual_gpu import STAGES, describe_task, figures, row_name, run
from benchmarks.virtual_repeats import Repeats
from benchmarks.virtual_table import (
    MODELS,
    NUM_FRAMES,
    RANK_FRAMES,
    RUNGS,
    SIZES,
    memory_table,
    speed_table,
    stored_rows,
)
from seedvr2_ray.models.seedvr2.vae.bands import MOST_ELEMENTS
from seedvr2_ray.models.weights.catalogue import CATALOGUE
from seedvr2_ray.restoration.planning.forecast import DeviceMemory, facts_of
from seedvr2_ray.restoration.planning.gpus import known_gpus
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryCosts, predict
from seedvr2_ray.restoration.planning.segment_plan import describe_segment

RANKS = [(SIZES[0], 1, *rank) for rank in ((0, 2), (1, 3), (1, 4), (2, 5), (2, 6), (6, 7), (1, 8))]
RANKS += [(SIZES[0], rung, *rank) for rung in (5, 9) for rank in ((0, 2), (1, 4), (1, 8))]
"""Of every number of ranks one that holds as many rows as any, and has neighbours on both sides where there is one."""
FIRST = [("3b", SIZES[0], 1, 3), ("7b", SIZES[0], 8, 3), ("3b", SIZES[1], 6, 4)]


def _entry(model):
    return CATALOGUE[f"seedvr2-{model}"]


def _require_true_plan(row) -> None:
    for stage in STAGES:
        planned, lived = row["stages"][stage]["planned_bytes"], row["stages"][stage]["peak_bytes"]
        assert lived <= planned, f"{stage} was planned with {planned} and lives at {lived}"
    planned, lived = (max(row["stages"][stage][name] for stage in STAGES) for name in ("planned_bytes", "peak_bytes"))
    assert planned <= 1.1 * lived


def _require_steady(row) -> None:
    for stage in STAGES:
        figures_of_stage = row["stages"][stage]
        assert not figures_of_stage["mixed"]
        assert figures_of_stage["largest_convolution"] <= MOST_ELEMENTS
        # Only what leaves is waited for.
        assert not figures_of_stage["syncs"] or stage == "finish"


@pytest.fixture(scope="module")
def stored():
    return stored_rows()


def test_live_bytes_syncs_and_copies_are_counted() -> None:
    device = virtual_device()
    with counting() as tally, tally.watch("one"):
        first = torch.empty(1000, device=device)
        second = first + 1
        del first
        third = second * 2
        assert tally.live_bytes == 8000
        assert tally.stages["one"].peak_bytes == 8000
        assert bool((third > 0).any())
        third.cpu()
        torch.empty(10).to(device)
    stage = tally.stages["one"]
    assert sum(stage.syncs.values()) == 2
    assert (sum(stage.to_host.values()), sum(stage.to_device.values())) == (4000, 40)


def test_tensors_of_both_sides_are_an_error_and_a_full_device_too() -> None:
    device = virtual_device()
    with counting(limit_bytes=5000), pytest.raises(RuntimeError, match="same device"):
        torch.empty(3, device=device) + torch.empty(3)
    with counting(limit_bytes=5000), pytest.raises(OutOfVirtualMemoryError):
        [torch.empty(1000, device=device) for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 4])
def test_a_restorer_waits_for_the_device_only_where_frames_leave(channels: int) -> None:
    row = figures(run(TINY, describe_task((128, 64), 13), LADDER[0], channels=channels))
    _require_steady(row)
    assert row["stages"]["decode"]["tflop"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("rung", [1, 4])
def test_what_is_not_run_again_counts_as_if_it_were(rung: int) -> None:
    task, repeats = describe_task((64, 64), 29), Repeats()
    plain = run(TINY, task, LADDER[rung - 1])
    for _ in range(2):
        again = run(TINY, task, LADDER[rung - 1], repeats=repeats)
        for stage in STAGES:
            for field in fields(StageTally):
                ours, theirs = (getattr(ran.stages[stage], field.name) for ran in (again, plain))
                if field.name in ("flops", "seconds"):
                    assert dict(ours) == pytest.approx(dict(theirs))
                # The same bytes may be reached at another place first.
                elif field.name != "peak_at":
                    assert ours == theirs, (stage, field.name)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_a_stored_plan_is_never_below_the_virtual_gpu_and_a_tenth_above_at_most(
    model, size, rung, channels, stored
) -> None:
    row = stored[row_name(model, size, rung, NUM_FRAMES, channels)]
    _require_true_plan(row)
    _require_steady(row)
    assert set(row["stages"]["decode"]["predicted_seconds"]) == set(known_gpus())


@pytest.mark.parametrize("rank", RANKS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_no_rank_of_a_gang_holds_more_than_is_planned_nor_much_less(model, rank, stored) -> None:
    size, rung, *which = rank
    row = stored[row_name(model, size, rung, RANK_FRAMES, rank=tuple(which))]
    _require_true_plan(row)
    _require_steady(row)


def test_the_tables_of_the_documents_are_those_of_the_stored_runs(stored) -> None:
    text = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    for table in (memory_table(stored), speed_table(stored)):
        assert "\n".join(table) in text


@pytest.mark.slow
def test_the_stored_table_is_what_the_planner_says_now(stored) -> None:
    costs = MemoryCosts.for_device("virtual")
    gpu = DeviceMemory.of_gpu(known_gpus()["H100"])
    for name, row in stored.items():
        model, width, height, rung, num_frames = re.match(r"(\w+) (\d+)x(\d+) rung (\d+), (\d+) frames", name).groups()
        task = describe_task((int(width), int(height)), int(num_frames))
        demand = describe_segment(task, facts_of(_entry(model), gpu.kind, gpu.dtype))
        fresh = predict(demand, costs, LADDER[int(rung) - 1])
        assert {stage: row["stages"][stage]["planned_bytes"] for stage in STAGES} == asdict(fresh), name


@pytest.mark.slow
def test_the_virtual_gpu_still_says_what_is_stored(stored) -> None:
    """A part of the table: with SEEDVR2_EXHAUSTIVE=1 all of it, which takes an hour of one processor."""
    cases = FIRST
    if os.environ.get("SEEDVR2_EXHAUSTIVE") == "1":
        cases = [(m, size, rung, channels) for size in SIZES for rung in RUNGS for m in MODELS for channels in (3, 4)]
    repeats = Repeats()
    for model, size, rung, channels in cases:
        task = describe_task(size, NUM_FRAMES)
        ran = run(_entry(model), task, LADDER[rung - 1], channels=channels, repeats=repeats)
        row = stored[row_name(model, size, rung, NUM_FRAMES, channels)]
        fresh = figures(ran)
        for stage in STAGES:
            for kind in ("peak_bytes", "planned_bytes", "launches", "largest_convolution", "syncs", "mixed"):
                assert fresh["stages"][stage][kind] == row["stages"][stage][kind], (model, size, rung, stage, kind)
