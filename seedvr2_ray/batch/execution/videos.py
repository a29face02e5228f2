"""From a row of the manifest to a planned video, or to the reason why there is nothing to do for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from seedvr2_ray.batch.execution.machines import losses_in, this_machine
from seedvr2_ray.batch.figures import figures_of
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.errors import TargetError
from seedvr2_ray.media.info import merge_notices
from seedvr2_ray.media.output.rehearsal import rehearse
from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.planning.plan import Plan, plan_video, publication_key
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.work.assemble import beside
from seedvr2_ray.restoration.work.failures import Failure, Stage, describe_failure
from seedvr2_ray.restoration.work.first_pass import look_through
from seedvr2_ray.restoration.work.published import look_at
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED, Work, plan_work
from seedvr2_ray.storage.address import Fingerprint, digest_of, fingerprint
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import printable, translated
from seedvr2_ray.storage.location import exists, is_local, open_location, read_bytes
from seedvr2_ray.storage.sources import Pinned, SourceCopies, pin, require_unchanged

VideoState = Literal["published", "skipped", "quarantined"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOutcome:
    """How one row of the manifest ended."""

    number: int
    where: str
    source: str
    target: str
    state: VideoState
    content: str = ""
    """What its work is filed under; empty when it was not even read."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a row that is set aside: what differs from the defaults, so that it can be tried again by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """A planned row: everything needed to finish it, wherever its segments are restored."""

    row: ManifestRow
    source: Pinned
    plan: Plan
    key: str
    """Address of its publication: of row, settings, limits and restorer."""
    restored: frozenset[str]
    """Intermediates that were committed when it was planned."""
    parts: frozenset[str]

    def work(self) -> Work:
        """Say what was left to do when it was planned."""
        return plan_work(self.plan.segments, self.restored, self.parts)

    def store(self, job: Job) -> CommitStore:
        """Return where its segments are committed."""
        return job.store_of(self.source.content)


def plan_row(row: ManifestRow, job: Job, identity: RestorerIdentity) -> Video | VideoOutcome:
    """Read, probe and plan one row; nothing is planned again that an earlier run published.

    Returns:
        The video, or an outcome: ``skipped`` because it is published as planned, ``quarantined`` because it
        cannot be restored.
    """
    key = publication_key(row.source, row.target, row.settings, identity, max_pixels=job.max_pixels)
    kind = log_kind(f"planning/{job.run}", key)
    try:
        finished = job.retrying(lambda: find_published(row, job, key))
        if finished is not None:
            return finished
        # Noted before it is read: a file that kills whoever probes it would take its shard along.
        begun = job.log.attempt_notes(kind, key)
        deaths = losses_in(begun).deaths
        if deaths >= job.max_deaths:
            return outcome_of(row, _poison(deaths))
        number = job.log.record_attempt(kind, key, after=len(begun), extra=this_machine())
        planned = _read_and_plan(row, job, identity, key)
        job.log.clear_attempts(kind, key, known=number)
    except Exception as error:  # noqa: BLE001  # A file that cannot be planned must not stop the others.
        return outcome_of(row, describe_failure("read", error))
    return planned


def _read_and_plan(row: ManifestRow, job: Job, identity: RestorerIdentity, key: str) -> Video | VideoOutcome:
    stage: Stage = "read"
    try:
        version = job.retrying(lambda: _known_version(row.source, job) or fingerprint(row.source))
        with SourceCopies(Path(job.scratch) / "sources", job.scratch_bytes).opened(row.source, version) as path:
            source = pin(row.source, version, path)
            require_unchanged(source)
            stage = "plan"
            return job.retrying(lambda: _plan(row, job, identity, source, path, key))
    except Exception as error:  # noqa: BLE001  # As above, and whoever can say what went wrong did not die of it.
        return outcome_of(row, describe_failure(stage, error))


def _poison(deaths: int) -> Failure:
    return Failure(
        stage="read",
        error=f"the process that probed it died {deaths} times",
        remedy="repair or convert the file, or take it out of the manifest, then run the same command again",
    )


def outcome_of(row: ManifestRow, failure: Failure, content: str = "") -> VideoOutcome:
    """Say that a row is set aside."""
    return VideoOutcome(
        number=row.number,
        where=row.where,
        source=printable(row.source),
        target=printable(row.target),
        state="quarantined",
        content=content,
        failure=failure,
        settings=row.settings.to_mapping(),
    )


def log_kind(kind: str, address: str) -> str:
    """Spread the records on whole files over 256 folders: there may be millions."""
    return f"{kind}/{address[:2]}"


def parts_digest(part_addresses: list[str]) -> str:
    """Return one address for all parts of a video: equal means that a master holds the same pictures."""
    return digest_of(part_addresses)


def find_published(row: ManifestRow, job: Job, key: str) -> VideoOutcome | None:
    """Recognise a file that an earlier run published from the same bytes, by its record, its sidecar and itself."""
    kind = log_kind("published", key)
    noted = job.log.look(kind, key)
    if noted is None:
        return None
    record = noted.record
    version = Fingerprint(**record["version"])
    place = open_location(row.source)
    with translated(place.url, "source"):
        found = place.backend.info(place.path)
    is_same = (found.size, found.mark) == (version.size, version.mark) or fingerprint(row.source) == version
    sidecar = read_sidecar(row.target) if is_same else None
    known_mark = record.get("mark", "")
    if sidecar is not None and _parts_of(sidecar) == record["parts"]:
        seen = look_at(row.target, sidecar, known_mark=known_mark, verify=job.verify)
        if seen.state == "whole":
            if seen.mark != known_mark:  # Touched, or copied back: read once, and known from now on.
                job.log.discard(kind, key, known=noted)
                job.log.settle(kind, key, {**record, "mark": seen.mark})
            return _skipped(row, record["content"], record["figures"])
    job.log.discard(kind, key, known=noted)  # Something was replaced or removed: it is made again.
    return None


def _skipped(row: ManifestRow, content: str, figures: Mapping[str, Any]) -> VideoOutcome:
    return VideoOutcome(
        number=row.number,
        where=row.where,
        source=printable(row.source),
        target=printable(row.target),
        state="skipped",
        content=content,
        figures=figures,
    )


def _known_version(url: str, job: Job) -> Fingerprint | None:
    """Spare a local file from being read again when it looks as it did. A store says by itself what it holds."""
    if not is_local(url):
        return None
    address = digest_of(url)
    noted = job.log.look(log_kind("versions", address), address)
    if noted is None:
        return None
    known = Fingerprint(**noted.record)
    place = open_location(url)
    with translated(place.url, "source"):
        found = place.backend.info(place.path)
    if found.mark and (found.size, found.mark) == (known.size, known.mark):
        return known
    job.log.discard(log_kind("versions", address), address, known=noted)
    return None


def _note_version(url: str, version: Fingerprint, job: Job) -> None:
    if is_local(url):
        address = digest_of(url)
        values = {"text": version.text, "size": version.size, "mark": version.mark}
        job.log.commit(log_kind("versions", address), address, values)


def _plan(
    row: ManifestRow, job: Job, identity: RestorerIdentity, source: Pinned, path: Path, key: str
) -> Video | VideoOutcome:
    store = job.store_of(source.content)
    _note_version(row.source, source.version, job)
    media = probe(str(path), limits=job.limits, salvage=row.settings.salvage)
    plan_with = partial(
        plan_video,
        media,
        row.settings,
        source=row.source,
        fingerprint=source.content,
        restorer=identity,
        target=row.target,
        max_pixels=job.max_pixels,
    )
    # Whatever can be refused is refused before minutes are spent on looking through the source.
    plan = plan_with(shots=(0,))
    outlook = rehearse(str(path), media, plan.recipe.master)
    # Looked through once per content and committed: it is what planning spends its time on.
    seen = look_through(str(path), media, source.content, store, salvage=row.settings.salvage)
    plan = plan_with(shots=seen.shots if row.settings.detect_shots else (0,), proof=seen.proof)
    plan = replace(plan, notices=merge_notices(plan.notices, outlook))
    finished = _require_target(row, job, plan, source, key)
    if finished is not None:
        return finished
    return Video(
        row=row,
        source=source,
        plan=plan,
        key=key,
        restored=store.addresses(RESTORED),
        parts=store.addresses(PARTS),
    )


def _require_target(row: ManifestRow, job: Job, plan: Plan, source: Pinned, key: str) -> VideoOutcome | None:
    """Refuse a target that is somebody else's; recognise one that is this plan's, and mend it where it is damaged.

    Raises:
        TargetError: it exists, was made otherwise or changed since, and may not be overwritten.
    """
    sidecar = read_sidecar(row.target)
    expected = parts_digest([segment.part_address for segment in plan.segments])
    seen = look_at(row.target, sidecar) if sidecar is not None and _parts_of(sidecar) == expected else None
    if sidecar is not None and seen is not None and seen.state == "whole":
        figures = figures_of(plan, sidecar)
        job.log.commit(log_kind("published", key), key, published_record(plan, source, figures, seen.mark))
        return _skipped(row, source.content, figures)
    publishing = log_kind("publishing", key)
    if job.overwrite or (seen is None and not exists(row.target)) or job.log.find(publishing, key) is not None:
        return None  # Allowed, or an earlier run of this very job was stopped while it published.
    if seen is not None and seen.state in ("missing", "damaged"):
        # What is left of this very master: whoever publishes it again may replace it.
        job.log.commit(publishing, key, {"target": printable(row.target)})
        return None
    if seen is not None and seen.state == "changed":
        raise TargetError(
            f"{printable(row.target)} is longer than what was published there; move it away to have it made again, or "
            "allow overwriting it"
        )
    if read_sidecar(row.target) != sidecar:
        # Published while it was looked at, by another driver of the same archive.
        return _require_target(row, job, plan, source, key)
    raise TargetError(
        f"{printable(row.target)} exists and was not made from this source with these settings; "
        "choose another target or allow overwriting it"
    )


def published_record(plan: Plan, source: Pinned, figures: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """Return what is noted of a finished master, so that the next run need not even probe its source.

    Args:
        mark: of the files as they were found whole; see :func:`~seedvr2_ray.restoration.work.published.look_at`.
    """
    version = source.version
    return {
        "content": source.content,
        "version": {"text": version.text, "size": version.size, "mark": version.mark},
        "parts": parts_digest([segment.part_address for segment in plan.segments]),
        "figures": figures,
        "mark": mark,
    }


def read_sidecar(target: str) -> dict[str, Any] | None:
    """Return the provenance beside a target, if there is one that can be read."""
    data = read_bytes(beside(target, ".json"))
    try:
        found = None if data is None else json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _parts_of(sidecar: Mapping[str, Any]) -> str | None:
    try:
        return parts_digest([str(segment["part_address"]) for segment in sidecar["segments"]])
    except (KeyError, TypeError):
        return None
