"""What an archive is handed on with: every result with size and SHA-256, in forms that other programs check."""

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import seedvr2_ray
from seedvr2_ray.batch.execution.videos import VideoOutcome, read_sidecar
from seedvr2_ray.restoration.work.assemble import folder_of
from seedvr2_ray.storage.location import publish, publish_bytes

_COLUMNS = ("target", "size_bytes", "sha256", "source", "source_content", "model", "published_at")


def write_fixity(folder: str, outcomes: Iterable[VideoOutcome], scratch: Path, *, bag_of: str | None = None) -> None:
    """Publish ``manifest.csv``: a line for every file of every result that is done.

    Args:
        bag_of: the output, where tag files of BagIt (RFC 8493) are wanted beside the results: ``bagit.txt``,
            ``bag-info.txt``, and ``manifest-sha256.txt`` for ``sha256sum --check``. Results stay where they are
            instead of moving to ``data/``, so that it is a bag in all but that.
    """
    table, sums = scratch / "manifest.csv", scratch / "manifest-sha256.txt"
    num_bytes = num_files = 0
    with table.open("w", newline="", encoding="utf-8") as rows, sums.open("w", encoding="utf-8") as lines:
        writer = csv.DictWriter(rows, _COLUMNS)
        writer.writeheader()
        for row in _rows(outcomes):
            writer.writerow(row)
            num_files += 1
            num_bytes += row["size_bytes"]
            if bag_of is not None:
                lines.write(f"{row['sha256']}  {_within(row['target'], bag_of)}\n")
    publish(table, f"{folder}/manifest.csv", overwrite=True)
    if bag_of is not None:
        root = bag_of.rstrip("/")
        publish(sums, f"{root}/manifest-sha256.txt", overwrite=True)
        publish_bytes(b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n", f"{root}/bagit.txt", overwrite=True)
        info = (
            f"Bagging-Date: {datetime.now(UTC).date().isoformat()}\n"
            f"Bag-Software-Agent: seedvr2-ray {seedvr2_ray.__version__}\n"
            f"Payload-Oxum: {num_bytes}.{num_files}\n"
        )
        publish_bytes(info.encode(), f"{root}/bag-info.txt", overwrite=True)
    table.unlink()
    sums.unlink()


def _rows(outcomes: Iterable[VideoOutcome]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes:
        if outcome.failure is not None:
            continue
        for each in outcome.figures.get("outputs") or _outputs_in_sidecar(outcome.target):
            yield {
                "target": f"{folder_of(outcome.target)}{each['name']}",
                "size_bytes": int(each["size_bytes"]),
                "sha256": each["sha256"],
                "source": outcome.source,
                "source_content": outcome.content,
                "model": outcome.figures.get("model", ""),
                "published_at": outcome.figures.get("published_at", ""),
            }


def _outputs_in_sidecar(target: str) -> list[dict[str, Any]]:
    """Ask for what stands only there: the images of a sequence."""
    sidecar = read_sidecar(target) or {}
    return list(sidecar.get("target", {}).get("outputs", ()))


def _within(target: str, root: str) -> str:
    """Name a result by its path below the output; one that lies elsewhere keeps its whole name."""
    relative = target.removeprefix(f"{root.rstrip('/')}/")
    # As RFC 8493 wants it: a line ends where the name does.
    return relative.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")
