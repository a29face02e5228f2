import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from seedvr2_ray.batch.execution.machines import Losses
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.figures import cost_of
from seedvr2_ray.batch.report.losses import Repeated
from seedvr2_ray.batch.report.outcomes import OutcomeLog
from seedvr2_ray.batch.report.page import RunFacts, summarise, write_job_report
from seedvr2_ray.restoration.work.failures import Failure

FIGURES = {
    "frames": 100,
    "restored_frames": 108,
    "restored_megapixels": 20.0,
    "segments": 2,
    "duration_seconds": 4.0,
    "gpu_seconds": 36.0,
    "idle_seconds": 9.0,
    "missing_frames": 0,
    "size": "192x128",
    "model": "lanczos",
    "psnr": 40.0,
    "ssim": 0.9,
    "colour_error": 1.0,
}


def done(number: int, **figures: object) -> VideoOutcome:
    return VideoOutcome(
        number=number,
        where=f"row {number}",
        source=f"{number}.mp4",
        target=f"out/{number}.mp4",
        state="published",
        content=f"sha256-{number}",
        figures={**FIGURES, **figures},
    )


REFUSED = VideoOutcome(
    number=9,
    where="row 9",
    source="<script>alert(1)</script>.mp4",
    target="out/9.mp4",
    state="quarantined",
    failure=Failure(stage="read", error="MediaError: it holds text", remedy="replace it"),
)
PICTURE = b"\xff\xd8 a picture"
FACTS = RunFacts(
    manifest="films.csv",
    wall_seconds=50.0,
    price_per_gpu_hour=2.0,
    restored_now={"segments": 4, "frames": 216, "gpu_seconds": 72.0, "idle_share": 0.25},
    num_workers=2,
)


@pytest.fixture
def log(tmp_path: Path) -> OutcomeLog:
    (tmp_path / "local").mkdir()
    log = OutcomeLog(tmp_path / "local", str(tmp_path / "job/quarantine.jsonl"))
    log.add(done(0))
    log.add(done(1, frames=300, psnr=44.0))
    log.add(REFUSED)
    log.close()
    return log


def test_what_was_noted_is_read_back_whole(log):
    assert list(log.read()) == [done(0), done(1, frames=300, psnr=44.0), REFUSED]


def test_sums_are_sums_and_qualities_are_means_per_frame(log):
    summary = summarise(log.totals, FACTS)
    assert summary["files"] == {"published": 2, "skipped": 0, "quarantined": 1}
    assert (summary["frames"], summary["gpu_seconds"], summary["decode_wait_share"]) == (400, 72.0, 0.25)
    assert summary["quality"]["psnr"] == pytest.approx((100 * 40 + 300 * 44) / 400)
    assert summary["cost"] == cost_of(72.0, 2.0) == 0.04
    assert summary["this_run"]["frames_per_second"] == pytest.approx(216 / 50)


def test_the_quarantine_names_path_stage_error_and_remedy(log, tmp_path):
    (line,) = (tmp_path / "job/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "path": "<script>alert(1)</script>.mp4",
        "row": "row 9",
        "target": "out/9.mp4",
        "stage": "read",
        "error": "MediaError: it holds text",
        "remedy": "replace it",
        "settings": {},
    }


def test_a_new_run_begins_with_an_empty_quarantine(log, tmp_path):
    OutcomeLog(tmp_path / "local", str(tmp_path / "job/quarantine.jsonl")).close()
    assert (tmp_path / "job/quarantine.jsonl").read_text() == ""


def test_the_report_says_the_same_to_programs_analysts_and_people(log, tmp_path):
    write_job_report(str(tmp_path / "job"), log.read(), log.totals, FACTS, tmp_path)
    summary = json.loads((tmp_path / "job/report.json").read_text())
    assert summary == summarise(log.totals, FACTS) | {"made_at": summary["made_at"]}
    rows = pyarrow.parquet.read_table(tmp_path / "job/report.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["published", "published", "quarantined"]
    assert (rows[0]["cost"], rows[0]["idle_share"], rows[0]["error"]) == (0.02, 0.25, None)
    assert (rows[2]["error"], rows[2]["frames"], rows[2]["cost"]) == ("MediaError: it holds text", None, None)
    page = (tmp_path / "job/report.html").read_text()
    assert "out/1.mp4" in page and "it holds text" in page and "2 restored" in page


def test_the_page_shows_of_every_file_what_it_looks_like_how_it_was_made_and_what_was_lost(tmp_path):
    (tmp_path / "job/pictures").mkdir(parents=True)
    (tmp_path / "job/pictures/0.jpg").write_bytes(PICTURE)
    log = OutcomeLog(tmp_path, str(tmp_path / "job/quarantine.jsonl"))
    told = {
        "picture": "pictures/0.jpg",
        "settings": '{"crf": 30}',
        "published_at": "2026-11-29T01:00:00+00:00",
        "converted": ["audio 1: to AAC"],
        "losses": ["stream 2: captions"],
        "outputs": [{"name": "0.mp4", "size_bytes": 5, "sha256": "ab" * 32}],
    }
    log.add(done(0, **told))
    log.add(done(1, **(told | {"picture": "pictures/gone.jpg"})))
    log.close()
    write_job_report(
        str(tmp_path / "report"), log.read(), log.totals, FACTS, tmp_path, job_folder=str(tmp_path / "job")
    )
    page = (tmp_path / "report/report.html").read_text()
    data = b64encode(PICTURE).decode()
    assert page.count("<img") == page.count(f"data:image/jpeg;base64,{data}") == 1
    assert page.count("ab" * 32) == page.count("audio 1: to AAC") == page.count("stream 2: captions") == 2
    assert page.count("2026-11-29T01:00:00") == 2 and page.count("crf") == 2
    first = pyarrow.parquet.read_table(tmp_path / "report/report.parquet").to_pylist()[0]
    assert (first["picture"], first["sha256"], first["converted"]) == ("pictures/0.jpg", "ab" * 32, "audio 1: to AAC")


def test_what_was_lost_with_machines_and_processes_has_a_price(log, tmp_path):
    repeated = Repeated()
    repeated.note(Losses(), 50.0)
    repeated.note(Losses(1, ("b",)), 900.0)
    repeated.note(Losses(0, ("b", "c")), 450.0)
    losses = repeated.summary(2.0, gang_size=2)
    assert losses == {
        "machines": 2,
        "segments_lost_with_their_machine": 3,
        "segments_lost_with_their_process": 1,
        "gpu_seconds_at_most": 5400.0,
        "cost_at_most": 3.0,
    }
    assert summarise(log.totals, replace(FACTS, losses=losses))["this_run"]["losses"] == losses
    for name, facts in (("lost", replace(FACTS, losses=losses)), ("quiet", FACTS)):
        write_job_report(str(tmp_path / name), log.read(), log.totals, facts, tmp_path)
    page = (tmp_path / "lost/report.html").read_text()
    assert "4 segments" in page and "3 with 2 lost machines" in page and "at most 3.00" in page
    assert "Lost and done again" not in (tmp_path / "quiet/report.html").read_text()


def test_the_page_runs_nothing_that_a_file_name_says(log, tmp_path):
    write_job_report(str(tmp_path / "job"), log.read(), log.totals, FACTS, tmp_path)
    page = (tmp_path / "job/report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
