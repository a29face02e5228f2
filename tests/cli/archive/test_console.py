"""What a person reads when a job is over."""

import io
from typing import Any

from rich.console import Console

from seedvr2_ray.cli.archive.console import show_report

SUMMARY: dict[str, Any] = {
    "files": {"published": 2, "skipped": 0, "quarantined": 0},
    "price_per_gpu_hour": 2.0,
    "cost": 5.0,
    "this_run": {"frames": 10.0, "wall_seconds": 3.0, "cost": 5.0},
}
LOSSES = {
    "machines": 2,
    "segments_lost_with_their_machine": 3,
    "segments_lost_with_their_process": 1,
    "gpu_seconds_at_most": 5400.0,
    "cost_at_most": 3.0,
}


def shown(losses: dict[str, Any]) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200)
    show_report(SUMMARY | {"this_run": SUMMARY["this_run"] | {"losses": losses}}, "job", console)
    return file.getvalue()


def test_what_was_lost_and_done_again_is_told_with_its_price_and_otherwise_not():
    assert "lost and done again: 4 segments, 2 machines; at most 1 h 30 min of devices or 3.00" in shown(LOSSES)
    assert "lost" not in shown(dict.fromkeys(LOSSES, 0))
