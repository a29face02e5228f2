"""The stored runs of the virtual GPU as the tables of docs/performance.md.

    python -m benchmarks.virtual_table

Nothing is run: ``benchmarks/results/virtual_gpu.json`` is read, which ``python -m benchmarks.virtual_gpu`` writes.
"""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from benchmarks.machine import results_folder
from benchmarks.virtual_gpu import GIB, STAGES, row_name
from seedvr2_ray.restoration.planning.gpus import KnownGPU, known_gpus
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryCosts

MODELS = ("3b", "7b")
SIZES = ((1280, 720), (1920, 1080), (2560, 1440), (3840, 2160), (7680, 4320))
RUNGS = range(1, len(LADDER) + 1)
NUM_FRAMES = 61
"""Long enough for every rung that all stages alternate: slices of 17 and 16 frames, and four chunks."""
RANK_FRAMES = 29
SHOWN_RUNGS = (1, 3, 5, 7, 9)
SHOWN_RANKS = ((0, 2), (1, 4), (1, 8))
"""Of 2, 4 and 8 one that holds as many rows as any, with neighbours on both sides if one has."""
RANK_RUNGS = (1, 5, 9)


def stored_rows() -> dict[str, Any]:
    """Return all runs by name."""
    rows: dict[str, Any] = json.loads((results_folder() / "virtual_gpu.json").read_text())["rows"]
    return rows


def peak(row: dict[str, Any], kind: str) -> int:
    """Return the most of all stages: ``peak_bytes`` that lived, or ``planned_bytes``."""
    return max(int(row["stages"][stage][kind]) for stage in STAGES)


def frames_per_second(row: dict[str, Any], gpu: str) -> float:
    """Return what the rates of a GPU allow at most; predicted."""
    return NUM_FRAMES / sum(float(row["stages"][stage]["predicted_seconds"][gpu]) for stage in STAGES)


def memory_table(rows: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of: what lives at the peak, what is planned, and how far the plan is above it at most."""
    names = " | ".join(f"rung {rung}" for rung in SHOWN_RUNGS)
    yield f"| model | output | {names} | plan above, at most | rungs run |"
    yield "|---" * (len(SHOWN_RUNGS) + 4) + "|"
    for model in MODELS:
        for size in SIZES:
            found = {rung: rows.get(row_name(model, size, rung, NUM_FRAMES)) for rung in RUNGS}
            cells = [_cell(found[rung]) for rung in SHOWN_RUNGS]
            above = [peak(row, "planned_bytes") / peak(row, "peak_bytes") for row in found.values() if row]
            excess = f"{100 * (max(above) - 1):.1f} %" if above else "not run"
            yield f"| {model.upper()} | {size[1]}p | {' | '.join(cells)} | {excess} | {len(above)} of {len(RUNGS)} |"


def rank_table(rows: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of: the same of one GPU of a gang."""
    names = " | ".join(f"rung {rung}" for rung in RANK_RUNGS)
    yield f"| model | output | GPUs | {names} | plan above, at most |"
    yield "|---" * (len(RANK_RUNGS) + 4) + "|"
    for model, size, rank in product(MODELS, SIZES, SHOWN_RANKS):
        found = [rows.get(row_name(model, size, rung, RANK_FRAMES, rank=rank)) for rung in RANK_RUNGS]
        above = [peak(row, "planned_bytes") / peak(row, "peak_bytes") for row in found if row]
        if above:
            cells = " | ".join(_cell(row) for row in found)
            yield f"| {model.upper()} | {size[1]}p | {rank[1]} | {cells} | {100 * (max(above) - 1):.1f} % |"


def speed_table(rows: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of: predicted frames per second in the fastest rung that fits a GPU, and that rung."""
    gpus = known_gpus()
    yield f"| model | output | {' | '.join(f'{name}, *predicted*' for name in gpus)} |"
    yield "|---" * (len(gpus) + 2) + "|"
    for model in MODELS:
        for size in SIZES:
            cells = [_fastest(rows, model, size, name, gpu) for name, gpu in gpus.items()]
            yield f"| {model.upper()} | {size[1]}p | {' | '.join(cells)} |"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    return f"{peak(row, 'peak_bytes') / GIB:.1f} / {peak(row, 'planned_bytes') / GIB:.1f}"


def _fastest(rows: dict[str, Any], model: str, size: tuple[int, int], name: str, gpu: KnownGPU) -> str:
    costs = MemoryCosts.for_device(gpu.name)
    usable = gpu.free_bytes * (1 - costs.reserve_share) - costs.workspace_bytes
    for rung in RUNGS:
        row = rows.get(row_name(model, size, rung, NUM_FRAMES))
        if row is None:
            # What was not run might be the fastest.
            return "not run"
        if peak(row, "planned_bytes") <= usable:
            return f"{frames_per_second(row, name):.2g} ({rung})"
    return "-"


def main() -> None:
    """Print all tables."""
    rows = stored_rows()
    for table in (memory_table(rows), rank_table(rows), speed_table(rows)):
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    main()
