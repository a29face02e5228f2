"""What a caller does with a service, written once: coroutines over a connection.

The two clients only choose how these are run, and document them.
"""

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import httpx

from seedvr2_ray.client.connection import Connection, Tries, whole_answer
from seedvr2_ray.client.transfers import OnTransfer, download_result, upload_file
from seedvr2_ray.client.transport import Answer
from seedvr2_ray.client.values import Job, JobEstimate, JobPage, Model, ModelPage, Upload, Usage, parse
from seedvr2_ray.errors import CapacityError, InputError, RetryableError, TargetError
from seedvr2_ray.settings import RestoreSettings

FileSource = str | os.PathLike[str]
JobSource = FileSource | Upload
"""A path; a URL that the service fetches; or what was uploaded before."""
Settings = RestoreSettings | Mapping[str, Any]

_SILENCE_SECONDS = 60.0
"""A stream of events that says nothing for so long is broken: it says something every 15 seconds."""
_FULL_PAGE = 100
_GONE = (404, 410)


async def list_models(connection: Connection) -> tuple[Model, ...]:
    answer = await connection.send("GET", "/v1/models")
    return parse(ModelPage, answer.body).models


async def read_usage(connection: Connection, days: int) -> Usage:
    answer = await connection.send("GET", "/v1/usage", params={"days": days})
    return parse(Usage, answer.body)


async def estimate(
    connection: Connection, source: JobSource, settings: Settings | None, gang_size: int | None
) -> JobEstimate:
    body = {
        "source": await _named(connection, source, None),
        "settings": _chosen(settings),
        "gang_size": gang_size,
    }
    answer = await connection.send("POST", "/v1/estimate", json=body)
    return parse(JobEstimate, answer.body)


async def submit(
    connection: Connection,
    source: JobSource,
    settings: Settings | None,
    *,
    priority: int,
    metadata: Mapping[str, Any] | None,
    webhook_url: str | None,
    gang_size: int | None,
    idempotency_key: str | None,
    on_upload: OnTransfer | None,
) -> Job:
    body = {
        "source": await _named(connection, source, on_upload),
        "settings": _chosen(settings),
        "priority": priority,
        "metadata": dict(metadata or {}),
        "webhook_url": webhook_url,
        "gang_size": gang_size,
    }
    # With a key the request may be sent again after a break without making a second job.
    headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
    answer = await connection.send("POST", "/v1/jobs", json=body, headers=headers)
    return parse(Job, answer.body)


async def read_job(connection: Connection, job: Job | str) -> Job:
    answer = await connection.send("GET", f"/v1/jobs/{_id_of(job)}")
    return parse(Job, answer.body)


async def list_jobs(connection: Connection, states: tuple[str, ...]) -> AsyncGenerator[Job, None]:
    cursor: str | None = None
    while True:
        asked: dict[str, Any] = {"limit": _FULL_PAGE, "state": list(states)}
        answer = await connection.send("GET", "/v1/jobs", params=asked | ({"cursor": cursor} if cursor else {}))
        page = parse(JobPage, answer.body)
        for job in page.jobs:
            yield job
        cursor = page.next_cursor
        if cursor is None:
            return


async def cancel(connection: Connection, job: Job | str) -> Job:
    answer = await connection.send("POST", f"/v1/jobs/{_id_of(job)}/cancel")
    return parse(Job, answer.body)


async def delete(connection: Connection, job: Job | str) -> None:
    tries = Tries(connection)
    answer = await connection.send_once("DELETE", f"/v1/jobs/{_id_of(job)}")
    while answer.status >= 400:
        if tries.failures and answer.status in _GONE:  # The try before did it, and its answer was lost.
            return
        await connection.wait_or_raise(answer, tries)
        answer = await connection.send_once("DELETE", f"/v1/jobs/{_id_of(job)}")


async def watch(connection: Connection, job: Job | str, timeout_seconds: float | None) -> AsyncGenerator[Job, None]:
    """Yield the job now and whenever it has changed, the last time when it is final; go on after breaks."""
    deadline = inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    tries = Tries(connection)
    seen: Job | None = None
    while True:
        refused: Answer | None = None
        failure = RetryableError("the stream of events ended before the job did; try again later")
        try:
            async with aclosing(_events(connection, _id_of(job), deadline)) as events:
                async for item in events:
                    if isinstance(item, Answer):
                        refused = item
                        break
                    tries.renew()
                    if item is not None and item != seen:
                        seen = item
                        yield item
                        if item.is_final:
                            return
                    if time.monotonic() >= deadline:
                        break
        except httpx.TransportError as error:
            failure = connection.unreachable(error)
        if time.monotonic() >= deadline:
            state = "not known" if seen is None else seen.state
            raise CapacityError(f"job {_id_of(job)} is {state} after {timeout_seconds:g} s; wait longer for it")
        if refused is None:
            await tries.wait(failure)
        else:
            await connection.wait_or_raise(refused, tries)


async def wait(
    connection: Connection, job: Job | str, timeout_seconds: float | None, on_change: Callable[[Job], None] | None
) -> Job:
    async with aclosing(watch(connection, job, timeout_seconds)) as jobs:
        async for now in jobs:
            if on_change is not None:
                on_change(now)
            if now.is_final:
                return now
    raise AssertionError("a job is watched until it is final")


async def download(
    connection: Connection, job: Job | str, target: FileSource, *, overwrite: bool, on_progress: OnTransfer | None
) -> Path:
    now = job if isinstance(job, Job) and job.is_final else await read_job(connection, job)
    result = now.require_completed()
    place = Path(target)
    place = place / result.name if place.is_dir() else place
    return await download_result(connection, now.id, result, place, overwrite=overwrite, on_progress=on_progress)


async def read_preview(connection: Connection, job: Job | str, which: Literal["before", "after"]) -> bytes:
    answer = await connection.send("GET", f"/v1/jobs/{_id_of(job)}/preview/{which}")
    return answer.body


async def restore(
    connection: Connection,
    source: JobSource,
    target: FileSource,
    settings: Settings | None,
    *,
    overwrite: bool,
    on_change: Callable[[Job], None] | None,
) -> Job:
    if Path(target).exists() and not Path(target).is_dir() and not overwrite:
        raise TargetError(f"{target} exists; choose another name, or overwrite it")
    job = await submit(
        connection,
        source,
        settings,
        priority=0,
        metadata=None,
        webhook_url=None,
        gang_size=None,
        idempotency_key=None,
        on_upload=None,
    )
    done = await wait(connection, job, None, on_change)
    await download(connection, done, target, overwrite=overwrite, on_progress=None)
    return done


async def upload(
    connection: Connection,
    path: FileSource,
    *,
    resume: str | None,
    piece_bytes: int,
    on_progress: OnTransfer | None,
) -> Upload:
    return await upload_file(connection, Path(path), resume=resume, piece_bytes=piece_bytes, on_progress=on_progress)


async def _events(connection: Connection, job_id: str, deadline: float) -> AsyncGenerator[Job | Answer | None, None]:
    """Yield the job whenever the service says it, None when it says only that it is alive, or its refusal."""
    left = min(_SILENCE_SECONDS, max(0.01, deadline - time.monotonic()))
    timeout = httpx.Timeout(_SILENCE_SECONDS, read=left)
    headers = {"Accept": "text/event-stream"}
    async with connection.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as answer:
        if answer.status >= 400:
            yield await whole_answer(answer)
            return
        data: list[str] = []
        async for line in answer.lines():
            if line.startswith("data:"):
                data.append(line.removeprefix("data:").removeprefix(" "))
            elif line.startswith(":"):
                yield None
            elif not line and data:
                yield parse(Job, "\n".join(data))
                data.clear()


async def _named(connection: Connection, source: JobSource, on_upload: OnTransfer | None) -> dict[str, str]:
    """Name a source as the service knows it; a file of this machine is uploaded."""
    if isinstance(source, Upload):
        return {"upload": source.id}
    if isinstance(source, str) and "://" in source:
        return {"url": source}
    return {"upload": (await upload_file(connection, Path(source), on_progress=on_upload)).id}


def _chosen(settings: Settings | None) -> dict[str, Any]:
    """Return what differs from the defaults: a service of another version may not know every field."""
    if settings is None:
        return {}
    if isinstance(settings, RestoreSettings):
        usual = RestoreSettings()
        return {
            each.name: value
            for each in fields(settings)
            if (value := getattr(settings, each.name)) != getattr(usual, each.name)
        }
    return dict(settings)


def _id_of(job: Job | str) -> str:
    found = job.id if isinstance(job, Job) else job
    if not found or not all(letter.isalnum() or letter in "-_" for letter in found):
        raise InputError(f"{found!r} is no id of a job; Job.id is one")
    return found
