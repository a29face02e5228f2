"""The planner against the restorer itself, on tensors without data."""

import os
import re
from dataclasses import asdict, dataclass, fields
from itertools import product
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
    RANK_RUNGS,
    RUNGS,
    SHOWN_RANKS,
    SIZES,
    memory_table,
    rank_table,
    speed_table,
    stored_rows,
)
from seedvr2_ray.models.seedvr2.vae.bands import MOST_ELEMENTS
from seedvr2_ray.models.weights.catalogue import CATALOGUE, ModelEntry
from seedvr2_ray.restoration.families import facts_of
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.planning.gpus import known_gpus
from seedvr2_ray.restoration.planning.memory import LADDER, ExactKnobs, MemoryCosts, predict
from seedvr2_ray.restoration.planning.segment_plan import describe_segment
from seedvr2_ray.restoration.restorer import SegmentTask

RANKS = ((0, 2), (1, 3), (1, 4), (2, 5), (2, 6), (6, 7), (1, 8))
"""Of every number of ranks one that holds as many rows of 720p as any, with neighbours on both sides if one has."""
RUN_AGAIN = [row_name("3b", SIZES[0], 7, NUM_FRAMES), row_name("7b", SIZES[0], 8, NUM_FRAMES)]
_NAME = re.compile(r"(\w+) (\d+)x(\d+) rung (\d+), (\d+) frames(, alpha)?(?:, rank (\d+) of (\d+))?")


@dataclass(frozen=True, slots=True)
class _Case:
    """What the name of a row says."""

    entry: ModelEntry
    task: SegmentTask
    knobs: ExactKnobs
    channels: int
    rank: tuple[int, int]

    @classmethod
    def of(cls, name: str) -> "_Case":
        found = _NAME.fullmatch(name)
        assert found is not None, name
        model, width, height, rung, num_frames, alpha, rank, size = found.groups()
        return cls(
            entry=CATALOGUE[f"seedvr2-{model}"],
            task=describe_task((int(width), int(height)), int(num_frames)),
            knobs=LADDER[int(rung) - 1],
            channels=4 if alpha else 3,
            rank=(int(rank or 0), int(size or 1)),
        )


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


@pytest.mark.slow
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


@pytest.mark.slow
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
def test_what_is_not_run_again_counts_as_if_it_were() -> None:
    # Slices of four frames, in steps of two.
    task, knobs, repeats = describe_task((64, 64), 17), LADDER[3], Repeats()
    plain = run(TINY, task, knobs)
    for _ in range(2):
        again = run(TINY, task, knobs, repeats=repeats)
        for stage in STAGES:
            for field in fields(StageTally):
                ours, theirs = (getattr(ran.stages[stage], field.name) for ran in (again, plain))
                if field.name in ("flops", "seconds"):
                    assert dict(ours) == pytest.approx(dict(theirs))
                # The same bytes may be reached at another place first.
                elif field.name != "peak_at":
                    assert ours == theirs, (stage, field.name)


def test_every_rung_of_both_models_is_stored_up_to_2160p_and_a_rank_of_every_gang(stored) -> None:
    whole = {row_name(model, size, rung, NUM_FRAMES) for model in MODELS for size in SIZES[:4] for rung in RUNGS}
    ranks = {row_name(model, SIZES[0], 1, RANK_FRAMES, rank=rank) for model in MODELS for rank in RANKS}
    large = product(MODELS, SIZES[2:4], RANK_RUNGS, SHOWN_RANKS)
    ranks |= {row_name(model, size, rung, RANK_FRAMES, rank=rank) for model, size, rung, rank in large}
    assert whole | ranks <= set(stored)


@pytest.mark.parametrize("name", sorted(stored_rows()))
def test_a_stored_plan_is_never_below_the_virtual_gpu_and_a_tenth_above_at_most(name, stored) -> None:
    _require_true_plan(stored[name])
    _require_steady(stored[name])
    assert set(stored[name]["stages"]["decode"]["predicted_seconds"]) == set(known_gpus())


def test_the_tables_of_the_documents_are_those_of_the_stored_runs(stored) -> None:
    text = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    for table in (memory_table(stored), rank_table(stored), speed_table(stored)):
        assert "\n".join(table) in text


@pytest.mark.slow
def test_the_stored_table_is_what_the_planner_says_now(stored) -> None:
    costs, gpu = MemoryCosts.for_device("virtual"), DeviceMemory.of_gpu(known_gpus()["H100"])
    for name, row in stored.items():
        case = _Case.of(name)
        demand = describe_segment(case.task, facts_of(case.entry.seedvr2, gpu.kind, gpu.dtype), case.rank[1])
        planned = {stage: row["stages"][stage]["planned_bytes"] for stage in STAGES}
        assert planned == asdict(predict(demand, costs, case.knobs)), name


@pytest.mark.slow
def test_the_virtual_gpu_still_says_what_is_stored(stored) -> None:
    """A part of the table: with SEEDVR2_EXHAUSTIVE=1 all of it, which takes an hour of one processor."""
    names, repeats = list(stored) if os.environ.get("SEEDVR2_EXHAUSTIVE") == "1" else RUN_AGAIN, Repeats()
    for name in names:
        case = _Case.of(name)
        ran = run(case.entry, case.task, case.knobs, channels=case.channels, repeats=repeats, rank=case.rank)
        fresh = figures(ran)
        for stage in STAGES:
            for kind in ("peak_bytes", "planned_bytes", "largest_convolution", "mixed"):
                assert fresh["stages"][stage][kind] == stored[name]["stages"][stage][kind], (name, stage, kind)
