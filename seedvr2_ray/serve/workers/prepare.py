"""Preparing a job: its source is fetched, inspected, looked through and planned. May be called again and again."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from seedvr2_ray.errors import DeploymentError, MediaError, RetryableError, SettingsError
from seedvr2_ray.media.info import merge_notices
from seedvr2_ray.media.output.rehearsal import rehearse
from seedvr2_ray.media.reading.proof import Proof
from seedvr2_ray.restoration.planning.plan import Plan, plan_video, publication_key
from seedvr2_ray.restoration.work.first_pass import look_through
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.observability.tracing import traced
from seedvr2_ray.serve.pools import choose_pool
from seedvr2_ray.serve.security.fetch import fetch_url
from seedvr2_ray.serve.security.inspection import inspect
from seedvr2_ray.serve.target_names import target_name
from seedvr2_ray.serve.workers.protocol import (
    PreparedJob,
    PrepareOrder,
)
from seedvr2_ray.serve.workers.storage_layout import PREPARE_DEATHS, StorageLayout
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import fingerprint
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.location import exists, publish
from seedvr2_ray.storage.sources import Pinned, pin, require_unchanged

"""Those in which a source's container is kept; AVI and others become MP4."""


@traced("prepare")
def prepare(layout: StorageLayout, order: PrepareOrder) -> PreparedJob:
    """Fetch a source, look whether what is asked for is published, and if it is not, inspect and plan.

    Raises:
        InputError: the source or the settings are refused.
        RetryableError: a server or a store did not answer.
    """
    # Noted before it is read: a file that kills whoever reads it would kill one after the other.
    deaths = layout.log.record_attempt(PREPARE_DEATHS, order.job_id) - 1
    try:
        if deaths >= order.limits.max_segment_tries:
            raise MediaError(
                f"{order.source.name} ended the process that read it {deaths} times; convert it with another program"
            )
        return _prepare(layout, order)
    finally:
        # Whoever gets here did not die of it.
        with suppress(RetryableError):
            layout.log.clear_attempts(PREPARE_DEATHS, order.job_id)


def _prepare(layout: StorageLayout, order: PrepareOrder) -> PreparedJob:
    settings = RestoreSettings.from_mapping(order.settings)
    url = _bring_here(layout, order)
    version = fingerprint(url)
    with layout.copies.opened(url, version) as path:
        source = pin(url, version, path)
        require_unchanged(source)
        address = result_address(source.content, order.source.name, settings, order)
        published = layout.results.find(address, name=order.source.name)
        if published is not None:
            return PreparedJob(
                source=source,
                result_address=address,
                plan=None,
                published=replace(published, was_cached=True),
                has_preview=True,
            )
        store = layout.store_of(source.content)
        plan, gang_size = _plan(order, settings, source, path, store)
    return PreparedJob(
        source=source,
        result_address=address,
        plan=plan,
        restored=store.addresses(RESTORED),
        parts=store.addresses(PARTS),
        has_preview=layout.results.has("after", address),
        gang_size=gang_size,
    )


def _plan(
    order: PrepareOrder, settings: RestoreSettings, source: Pinned, path: Path, store: CommitStore
) -> tuple[Plan, int]:
    media = inspect(path, order.limits, salvage=settings.salvage)

    def plan_with(shots: Sequence[int], proof: Proof | None = None) -> Plan:
        return plan_video(
            media,
            settings,
            # Neither name stands in a result: another owner with the same file may be given the same one.
            source=f"source{PurePosixPath(order.source.name).suffix.lower()}",
            target=target_name(media, settings, order.source.name),
            fingerprint=source.content,
            shots=shots,
            restorer=order.identity,
            max_pixels=order.limits.max_pixels,
            proof=proof,
        )

    # Whatever can be refused is refused before minutes are spent on looking through the source.
    plan = plan_with((0,))
    chosen = choose_pool(plan, order.pool, order.gang_size)
    if chosen.memory is not None and chosen.memory.refusal:
        raise SettingsError(chosen.memory.refusal)
    outlook = rehearse(str(path), media, plan.recipe.master)
    seen = look_through(str(path), media, source.content, store, salvage=settings.salvage)
    plan = plan_with(seen.shots if settings.detect_shots else (0,), seen.proof)
    return replace(plan, notices=merge_notices(plan.notices, outlook)), chosen.pool.gang_size


def result_address(content: str, name: str, settings: RestoreSettings, order: PrepareOrder) -> str:
    """Address a result by everything that changes it: bytes, settings, model, versions, and the source's ending."""
    # The model is named by its identity: "auto" and its name are the same question.
    settings = replace(settings, model=order.identity.name)
    return publication_key(content, PurePosixPath(name).suffix.lower(), settings, order.identity)


def _bring_here(layout: StorageLayout, order: PrepareOrder) -> str:
    """Return the URL under which every machine can read the source."""
    source = order.source
    if source.kind == "object":
        _require_allowed(source, order.fetch.object_prefixes)
        return source.location
    if source.kind == "upload":
        return f"{layout.upload_folder(source.location)}/{_plain(source.name)}"
    url = f"{layout.source_folder(order.job_id)}/{_plain(source.name)}"
    if not exists(url):
        with layout.workspace() as folder:
            fetched = folder / "fetched"
            fetch_url(source.location, fetched, order.fetch, order.limits)
            publish(fetched, url, overwrite=True)
    return url


def _plain(name: str) -> str:
    """Make sure that a name names a file right in its folder, whoever checked it before."""
    if name != PurePosixPath(name).name or name in ("", ".", ".."):
        raise MediaError("the source's file name is not usable; give it a name without slashes")
    return name


def _require_allowed(source: Source, prefixes: Sequence[str]) -> None:
    if not any(source.location.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes):
        raise DeploymentError(f"{source.name} lies in an object store that this deployment may not read any more")
