"""A job looked at from outside, and the rows of it that are tried again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from seedvr2_ray.errors import InputError
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import open_location, publish_bytes, read_bytes, remove

_ROWS = "retry.jsonl"


def job_status(folder: str) -> dict[str, Any]:
    """Return what a job's folder says: whether it runs, its last report, and how many files are set aside why.

    Raises:
        InputError: there is no job.
    """
    report = read_bytes(f"{folder}/report.json")
    lines = list(_lines(f"{folder}/quarantine.jsonl"))
    place = open_location(f"{folder}/manifests")
    with translated(place.url, "store"):
        running = sorted(place.backend.folders(place.path))
    if report is None and not lines and not running:
        raise InputError(
            f"{printable(folder)} holds no job; name the folder that --job-folder named, or OUTPUT/.seedvr2-ray"
        )
    reasons: dict[str, int] = {}
    for line in lines:
        reason = f"{line['stage']}: {str(line['error']).partition(':')[0]}"
        reasons[reason] = reasons.get(reason, 0) + 1
    return {
        "folder": printable(folder),
        "is_running": bool(running),
        "set_aside": len(lines),
        "set_aside_by_reason": dict(sorted(reasons.items(), key=lambda each: -each[1])),
        "last_report": None if report is None else json.loads(report),
    }


def write_retry(folder: str, settings: RestoreSettings) -> str:
    """Write a manifest of the rows that a job set aside; each has its own settings, and over them those given now.

    It stays until :func:`end_retry`: the quarantine is begun anew by the run, which may be killed.

    Returns:
        Its name.

    Raises:
        InputError: nothing is set aside.
    """
    url = f"{folder}/{_ROWS}"
    usual = RestoreSettings().to_mapping()
    now = {name: value for name, value in settings.to_mapping().items() if usual[name] != value}
    rows: dict[str, dict[str, Any]] = {}
    for line in (*_lines(url), *_lines(f"{folder}/quarantine.jsonl")):
        own = line.get("settings", {name: value for name, value in line.items() if name in usual})
        source, target = line.get("source", line.get("path")), line["target"]
        rows[target] = {**own, **now, "source": source, "target": target}
    if not rows:
        raise InputError(f"no file of the job in {printable(folder)} is set aside; there is nothing to try again")
    text = "".join(json.dumps(row) + "\n" for row in rows.values())
    publish_bytes(text.encode(), url, overwrite=True)
    return url


def end_retry(folder: str) -> None:
    """Forget the rows that were tried again: what is still set aside stands in the quarantine."""
    remove(f"{folder}/{_ROWS}")


def _lines(url: str) -> Iterator[Mapping[str, Any]]:
    for line in (read_bytes(url) or b"").splitlines():
        yield json.loads(line)
