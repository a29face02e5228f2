"""Every error as one ``application/problem+json`` body (RFC 9457): what was wrong, the limit, and the way out."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from seedvr2_ray.errors import InputError, SeedVR2Error
from seedvr2_ray.serve.problems import PROBLEMS, ProblemKind, Refusal, kind_of
from seedvr2_ray.serve.security.wording import OF_OUR_OWN, OURS, explained

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/v1/problems/"

_log = logging.getLogger(__name__)

PROTOCOL_PROBLEMS: dict[int, ProblemKind] = {
    400: ProblemKind("bad-request", 400, "Not understood", "Compare the request with /openapi.json."),
    404: ProblemKind("no-route", 404, "No such address", "The addresses are listed in /openapi.json."),
    405: ProblemKind("method", 405, "Not with this method", "Use one of the methods that the header Allow names."),
    406: ProblemKind("not-acceptable", 406, "Not in this form", "Accept the media type that /openapi.json names."),
    408: ProblemKind("timeout", 408, "Too slow", "Send the request again over a better connection."),
    412: ProblemKind("precondition", 412, "A condition does not hold", "Send the header Tus-Resumable: 1.0.0."),
    415: ProblemKind("media-type", 415, "Not this content type", "Send the content type that the detail names."),
    416: ProblemKind("range", 416, "No such part", "Ask for a range inside the size that Content-Range names."),
    431: ProblemKind("head-too-large", 431, "The headers are too large", "Send shorter headers."),
    422: ProblemKind("input", 422, "The request cannot be used", "Change the field that the detail names."),
}
"""What is wrong with a request as HTTP, before it means anything to the service."""

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class ProtocolRefusal(Refusal):
    """A request that HTTP itself has a status for."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        """Say what is wrong, and with which status."""
        super().__init__(message, status, headers)
        self.status = status
        self.headers = headers

    def __str__(self) -> str:
        return str(self.args[0])


class Problem(BaseModel):
    """The body of every error."""

    type: str = Field(description="Names the kind of problem; listed at /v1/problems.")
    title: str = Field(description="The kind of problem in words.")
    status: int
    detail: str = Field(description="What was wrong this time, and the limit where there is one.")
    remedy: str = Field(description="The way out.")
    request_id: str = Field(description="Name it when you ask the operator.")


class ProblemResponse(JSONResponse):
    """An error as an answer."""

    media_type = MEDIA_TYPE


def all_kinds() -> dict[str, ProblemKind]:
    """Return every kind of problem there is, by name."""
    return {kind.name: kind for kind in (*PROTOCOL_PROBLEMS.values(), *PROBLEMS.values())}


def problem_of(error: BaseException, request_id: str) -> tuple[Problem, dict[str, str]]:
    """Turn any error into a problem and the headers that go with it."""
    kind, detail, headers = _classified(error)
    if kind.status >= 500:
        _log.error("request %s failed: %s", request_id, type(error).__name__, exc_info=error)
    problem = Problem(
        type=f"{TYPE_PREFIX}{kind.name}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        remedy=kind.remedy,
        request_id=request_id,
    )
    return problem, headers


def respond(error: BaseException, request_id: str) -> Response:
    """Turn any error into an answer."""
    problem, headers = problem_of(error, request_id)
    return ProblemResponse(problem.model_dump(), problem.status, {**headers, "Cache-Control": "no-store"})


def request_id_of(request: Request) -> str:
    """Return the id that the middleware gave a request."""
    return str(request.scope.get("seedvr2_request_id", "-"))


def install(app: FastAPI) -> None:
    """Answer every error that a route raises with a problem; what is left is answered by the middleware."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            error = _explained(request, error.status_code)
        return respond(error, request_id_of(request))

    for kind in (SeedVR2Error, HTTPException, RequestValidationError, ValidationError, ClientDisconnect):
        app.add_exception_handler(kind, answer)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route in the API's document; 500 and 503 may come from any."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, 500, 503})
    }


def validation_detail(errors: list[Any]) -> str:
    """Say which field of a request is wrong and why, in one sentence."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place or 'the body'}: {first['msg']}{more}"


def _explained(request: Request, status: int) -> "ProtocolRefusal":
    """Say which address was asked for and what it answers; the router itself says neither."""
    where = f"{request.method} {request.url.path[:200]}"
    if status == 404:
        return ProtocolRefusal(f"there is nothing at {where}", 404)
    allowed = {method for method in _METHODS if _answers(request, method)}
    methods = ", ".join(sorted(allowed))
    return ProtocolRefusal(f"{where} is not possible; this address answers {methods}", 405, {"Allow": methods})


def _answers(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def _classified(error: BaseException) -> tuple[ProblemKind, str, dict[str, str]]:
    if isinstance(error, ProtocolRefusal):
        return PROTOCOL_PROBLEMS[error.status], str(error), dict(error.headers or {})
    if isinstance(error, (RequestValidationError, ValidationError)):
        return kind_of(InputError), validation_detail(list(error.errors())), {}
    if isinstance(error, HTTPException):
        kind = PROTOCOL_PROBLEMS.get(error.status_code, PROTOCOL_PROBLEMS[400])
        return kind, str(error.detail), dict(error.headers or {})
    if isinstance(error, ClientDisconnect):
        return PROTOCOL_PROBLEMS[400], "the connection broke off before the request was complete", {}
    kind = kind_of(type(error))
    if isinstance(error, OURS):
        return kind, OF_OUR_OWN, {"Retry-After": "5"}
    if kind.status == 500:
        return kind, "something went wrong here; the log names the request's id", {}
    headers = {"WWW-Authenticate": "Bearer"} if kind.status == 401 else {}
    if isinstance(error, Refusal) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif kind.status == 503:
        headers["Retry-After"] = "5"
    return kind, explained(error), headers
