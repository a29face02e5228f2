"""Laws of the driver's log of how files ended."""

from pathlib import Path
from typing import Any

import pytest

from seedvr2_ray.batch.report import outcomes
from seedvr2_ray.batch.report.outcomes import OutcomeLog
from seedvr2_ray.errors import StorageError


def test_a_store_that_is_away_for_a_moment_ends_no_run_that_lets_readers_see_its_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "job" / "quarantine.jsonl"
    log, publish, num_asked = OutcomeLog(tmp_path, str(target)), outcomes.publish, 0

    def publish_at_second_try(*values: Any, **named: Any) -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked == 1:
            raise StorageError("the store could not be reached; try again")
        publish(*values, **named)

    target.unlink()
    monkeypatch.setattr(outcomes, "_PUBLISH_SECONDS", -1.0)
    monkeypatch.setattr(outcomes, "publish", publish_at_second_try)
    log.keep_current()
    assert not target.exists()
    log.keep_current()
    assert target.exists()
    log.close()
