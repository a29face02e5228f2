"""What a run wrote beside its master, read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seedvr2_ray.api.files import FileName
from seedvr2_ray.errors import InputError
from seedvr2_ray.html import render_facts, render_grid
from seedvr2_ray.restoration.work.assemble import beside
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import open_location


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The provenance of one master."""

    target: str
    page: str
    """Where the report page for people lies, if one was written."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Everything that is noted: hashes, settings, versions, the map of segments, timings."""

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Return a row per segment in plain values, for ``pandas.DataFrame(report.segments)``.

        Figures that were not measured are None. ``psnr`` is in decibels between the source and the result scaled down
        to its size, ``colour_error`` in codes of 8 bits, ``seconds`` what restoring took,
        on so many ``gpus`` together.
        """
        return [_row(record) for record in self.provenance["segments"]]

    def _repr_html_(self) -> str:
        provenance = self.provenance
        facts = [
            ("model", provenance["restorer"]["name"]),
            ("frames", provenance["frames"]),
            ("shots", len(provenance["shots"])),
            ("software", provenance["software"]["seedvr2_ray"]),
            ("page", self.page),
        ]
        rows = self.segments
        table = render_grid(list(rows[0]), [list(row.values()) for row in rows]) if rows else ""
        return render_facts(self.target, facts, below=table)


def open_report(target: FileName) -> Report:
    """Read what was noted about a restored file, which lies beside it as ``TARGET.json``.

    Args:
        target: the master, not the report.

    Raises:
        InputError: there is none, or it was not written by a run.
        StorageError: its place does not answer.
    """
    name = str(target)
    place = open_location(beside(name, ".json"))
    with translated(place.url, "source"):
        data = place.backend.read(place.path)
    try:
        provenance = json.loads(data)
        known = {"segments", "restorer", "frames", "shots", "software"} <= provenance.keys()
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise InputError(f"{printable(place.url)} is no provenance of a restored file; name the restored file itself")
    return Report(target=printable(name), page=printable(beside(name, ".html")), provenance=provenance)


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    restored = record["restored"]
    quality = restored.get("quality") or {}
    first, stop = record["frames"]
    return {
        "segment": record["segment"],
        "first_frame": first,
        "num_frames": stop - first,
        "seconds": restored["seconds"],
        "gpus": restored.get("gang_size", 1),
        "psnr": quality.get("psnr"),
        "ssim": quality.get("ssim"),
        "colour_error": quality.get("colour_error"),
        "boundary_step": record.get("boundary_step"),
    }
