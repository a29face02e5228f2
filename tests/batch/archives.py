"""A small archive of every kind of file, good and bad, and what must come of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedvr2_ray.batch.bulk import BulkRequest
from seedvr2_ray.batch.execution.cluster import Pool
from seedvr2_ray.batch.execution.rows import SegmentResult
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.manifest.manifest import ManifestSource
from seedvr2_ray.batch.manifest.normalise import Normalised
from seedvr2_ray.batch.report.outcomes import Totals
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.batch.restorers import Trace, TracingRestorers
from tests.media.clips import make_clip, make_image
from tests.media.damaged import cut_short

SETTINGS = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4)
LONG_FRAMES = 100


@dataclass(frozen=True)
class Archive:
    """Generated files below one folder."""

    folder: Path
    good: tuple[str, ...]
    """Relative paths."""
    bad: tuple[str, ...]

    @property
    def num_files(self) -> int:
        return len(self.good) + len(self.bad)

    def targets(self) -> list[str]:
        """Where results must lie, relative to the output."""
        return sorted(self.good)


def make_archive(folder: Path, *, num_good: int = 25) -> Archive:
    """Write one long video, short clips in several containers, still images, and five files of no use.

    Every picture of every good file has a number of its own, so that a segment can be told by its first.
    """
    good = ["films/long.mp4"]
    for sub in ("films", "clips/a", "clips/b", "stills"):
        (folder / sub).mkdir(parents=True)
    make_clip(folder / good[0], num_frames=LONG_FRAMES, cuts=(40,), audio_tracks=1)
    for index in range(1, num_good):
        number = 200 + 40 * index
        if index % 5 == 0:
            good.append(f"stills/{index}.png")
            make_image(folder / good[-1], pixel_format="rgb24", codec="png", number=number)
        else:
            suffix = ("mp4", "mkv", "mov", "mp4")[index % 4]
            good.append(f"clips/{'ab'[index % 2]}/clip {index}.{suffix}")
            make_clip(folder / good[-1], num_frames=6 + index % 4, first_number=number, audio_tracks=index % 3 == 0)
    return Archive(folder, tuple(good), _make_bad(folder))


def _make_bad(folder: Path) -> tuple[str, ...]:
    (folder / "clips/a/notes.mp4").write_text("not a film")
    (folder / "clips/b/empty.mkv").write_bytes(b"")
    (folder / "stills/noise.png").write_bytes(bytes(range(256)) * 4)
    make_clip(folder / "films/whole.mp4", num_frames=12)
    cut_short(folder / "films/whole.mp4", 0.5)
    (folder / "films/whole.mp4").unlink()
    make_clip(folder / "films/interlaced.mp4", num_frames=12, interlaced=True)
    return (
        "clips/a/notes.mp4",
        "clips/b/empty.mkv",
        "stills/noise.png",
        "films/cut-whole.mp4",
        "films/interlaced.mp4",
    )


def restore_one_by_one(archive: Archive, output: Path) -> dict[str, str]:
    """Restore the good files without Ray, each by itself; return the SHA-256 of the results by name."""
    restorer = LanczosRestorer()
    for name in archive.good:
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        restore_video(
            str(archive.folder / name), str(target), SETTINGS, restorer.identity, lambda: restorer, report=False
        )
    return digests(output, archive.targets())


def digests(output: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of every file that is there, by name."""
    return {
        name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in names if (output / name).exists()
    }


def request_for(archive: str, output: str, restorers: TracingRestorers, scratch: Path, **more: object) -> BulkRequest:
    """Ask for an archive in the settings all these tests share."""
    options: dict[str, object] = {"pool": Pool(num_gpus=0)}
    return BulkRequest(
        manifest=ManifestSource(url=archive, output=output, defaults=SETTINGS),
        restorers=restorers,
        scratch=str(scratch),
        price_per_gpu_hour=3.0,
        **(options | more),  # type: ignore[arg-type]
    )


class Quiet:
    """A progress that nobody looks at."""

    def began(self, manifest: Normalised, price_per_gpu_hour: float) -> None: ...

    def received(self, result: SegmentResult) -> None: ...

    def finished(self, outcome: VideoOutcome, totals: Totals) -> None: ...


def quarantined(job_folder: Path) -> dict[str, dict[str, str]]:
    """Return the lines of a local quarantine by path."""
    lines = (job_folder / "quarantine.jsonl").read_text().splitlines()
    return {values["path"]: values for values in map(json.loads, lines)}


def committed(job_folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield content and frames (of an intermediate, restored) of every segment that need not be restored again."""
    for kind in ("restored", "parts"):
        for record in (job_folder / "work").glob(f"*/*/{kind}/records/*.json"):
            values = json.loads(record.read_text())["record"]
            start, stop = (values.get("restored") or values)["frames"]
            yield record.parents[2].name, (start, stop - start)


def first_numbers(archive: Archive) -> dict[str, int]:
    """Return the number in the first picture of every good file, by the content its work is filed under."""
    numbers = {}
    for index, name in enumerate(archive.good):
        content = hashlib.sha256((archive.folder / name).read_bytes()).hexdigest()
        numbers[f"sha256-{content}"] = 0 if index == 0 else 200 + 40 * index
    return numbers


def committed_keys(archive: Archive, job_folder: Path) -> set[tuple[int, int]]:
    """Return the keys, as traces have them, of the segments that need not be restored again."""
    numbers = first_numbers(archive)
    return {(numbers[content] + start, length) for content, (start, length) in committed(job_folder)}


def begun_more_than_once(traces: Sequence[Trace]) -> dict[tuple[int, int], int]:
    """Return the segments that were begun several times, with how often."""
    return {key: times for key, times in Counter(trace.key for trace in traces).items() if times > 1}
