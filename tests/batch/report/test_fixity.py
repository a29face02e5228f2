"""Laws of what an archive is handed on with."""

import csv
import hashlib
import subprocess
from pathlib import Path

import pytest

from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.report.fixity import write_fixity
from seedvr2_ray.restoration.work.failures import Failure

BROKEN = Failure(stage="read", error="broken", remedy="replace it")


def done(output: Path, name: str, content: bytes) -> VideoOutcome:
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_bytes(content)
    known = {"name": Path(name).name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return VideoOutcome(
        number=0,
        where="",
        source=f"/in/{name}",
        target=str(output / name),
        state="published",
        content="sha256-0",
        figures={"outputs": [known], "model": "lanczos"},
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_every_result_has_a_line_that_other_programs_can_check(tmp_path: Path, scratch: Path) -> None:
    output = tmp_path / "out"
    refused = VideoOutcome(number=2, where="", source="c", target="c", state="quarantined", failure=BROKEN)
    outcomes = [done(output, "films/a.mp4", b"one"), done(output, "b b.png", b"twofold"), refused]
    write_fixity(str(tmp_path / "job"), outcomes, scratch, bag_of=str(output))
    rows = list(csv.DictReader((tmp_path / "job/manifest.csv").read_text("utf-8").splitlines()))
    assert [(row["target"], row["size_bytes"]) for row in rows] == [
        (str(output / "films/a.mp4"), "3"),
        (str(output / "b b.png"), "7"),
    ]
    assert all(row["source"] and row["sha256"] and row["model"] == "lanczos" for row in rows)
    checked = subprocess.run(["sha256sum", "--check", "--strict", "manifest-sha256.txt"], cwd=output, check=False)
    assert checked.returncode == 0
    assert "Payload-Oxum: 10.2" in (output / "bag-info.txt").read_text()
    assert (output / "bagit.txt").read_text().startswith("BagIt-Version: 1.0\n")


def test_without_a_bag_nothing_is_put_beside_the_results(tmp_path: Path, scratch: Path) -> None:
    write_fixity(str(tmp_path / "job"), [done(tmp_path / "out", "a.mp4", b"one")], scratch)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]
