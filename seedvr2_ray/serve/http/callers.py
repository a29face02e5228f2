"""Who is asking: what every route needs before it does anything."""

import re
from typing import Annotated

import anyio.to_thread
from fastapi import Depends, Path, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import HTTPConnection

from seedvr2_ray.serve.http.middleware import HELD
from seedvr2_ray.serve.problems import AuthenticationRefusal, MissingRefusal
from seedvr2_ray.serve.security.api_keys import Scope
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.service.verbs import Service

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_UNUSUAL: dict[tuple[str, str], Scope | None] = {
    # Looked at in the middle of sending a file.
    ("HEAD", "/v1/uploads/{upload_id}"): "jobs:write",
    # Looks at a source and makes nothing.
    ("POST", "/v1/estimate"): "jobs:read",
    # The same for everybody who has signed in.
    ("GET", "/v1/models"): None,
}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key or a signed token.")
_api_key = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="An API key.")


def service_of(connection: HTTPConnection) -> Service:
    """Return the service that an application was made for."""
    service: Service = connection.app.state.service
    return service


async def signed_in(connection: HTTPConnection, key: str | None = None) -> Caller:
    """Find out who is asking, and count the request.

    Args:
        key: instead of the headers', from pages that cannot set any.

    Raises:
        AuthenticationRefusal: nobody we know.
        RateRefusal: they ask too often.
    """
    service = service_of(connection)
    host = connection.client.host if connection.client else None
    headers = dict(connection.headers) if key is None else {**connection.headers, "authorization": f"Bearer {key}"}
    try:
        caller = await anyio.to_thread.run_sync(
            service.authenticator.authenticate, headers, connection.query_params, host
        )
    except AuthenticationRefusal:
        await service.gate.count(None, host)  # Whoever guesses keys does not do so for long.
        raise
    await service.gate.count(caller, host)
    service.gate.hold(caller, connection.scope[HELD])
    return caller


async def may_read_job(connection: HTTPConnection, job_id: str) -> Caller:
    """Let in whoever owns a job, or holds a link that was signed for this path.

    Raises:
        AuthenticationRefusal: neither.
    """
    if "signature" not in connection.query_params:
        return await signed_in(connection)
    service = service_of(connection)
    await service.gate.count(None, connection.client.host if connection.client else None)
    path = connection.scope["path"].removeprefix(connection.scope.get("root_path", ""))
    service.links.require_valid(connection.scope.get("method", "GET"), path, connection.query_params)
    job = await anyio.to_thread.run_sync(service.jobs.get, job_id)
    caller = Caller(owner=job.owner, scopes=frozenset({"jobs:read"}))
    service.gate.hold(caller, connection.scope[HELD])
    return caller


def usable_id(text: str) -> str:
    """Refuse what cannot be an id before a database has to look at it.

    Raises:
        MissingRefusal: it has letters that no id has.
    """
    if not _ID.fullmatch(text):
        raise MissingRefusal("there is nothing with such an id; ids have letters, digits, dashes and underscores")
    return text


async def _job_id(job_id: Annotated[str, Path(description="As the submission answered it.")]) -> str:
    return usable_id(job_id)


async def _upload_id(upload_id: Annotated[str, Path(description="As the creation answered it.")]) -> str:
    return usable_id(upload_id)


def needed_scope(method: str, path: str) -> Scope | None:
    """Return what a key must be allowed for a route to be entered at all: by the kind of request, not by the route, so
    that none can be forgotten.

    Args:
        path: of the route, with its parameters in braces.
    """
    usual: Scope = "jobs:read" if method in _READING else "jobs:write"
    return _UNUSUAL.get((method, path), usual)


def _require_scope(connection: HTTPConnection, caller: Caller) -> Caller:
    route = connection.scope.get("route")
    scope = needed_scope(connection.scope.get("method", "GET"), getattr(route, "path", ""))
    if scope is not None:
        caller.require(scope)
    return caller


async def _caller(connection: HTTPConnection) -> Caller:
    return _require_scope(connection, await signed_in(connection))


async def _job_reader(connection: HTTPConnection, job_id: Annotated[str, Depends(_job_id)]) -> Caller:
    return _require_scope(connection, await may_read_job(connection, job_id))


async def _service(connection: HTTPConnection) -> Service:
    return service_of(connection)  # Awaited, for FastAPI gives a thread to whatever is not.


TheService = Annotated[Service, Depends(_service)]
JobId = Annotated[str, Depends(_job_id)]
UploadId = Annotated[str, Depends(_upload_id)]
TheCaller = Annotated[Caller, Depends(_caller)]
JobReader = Annotated[Caller, Depends(_job_reader)]
"""The owner of a job, or whoever holds a signed link to the path."""

SIGNED_IN = [Security(_bearer), Security(_api_key)]
"""For the API's document: the two ways to sign in, of which one is needed."""
