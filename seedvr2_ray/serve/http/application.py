"""The HTTP application: every route, wrapped so that each answer has an id, safe headers and a body that helps."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

import seedvr2_ray
from seedvr2_ray.serve.http import problem_bodies as problems
from seedvr2_ray.serve.http.callers import SIGNED_IN
from seedvr2_ray.serve.http.middleware import REQUEST_ID, Envelope
from seedvr2_ray.serve.http.problem_bodies import Problem
from seedvr2_ray.serve.http.v1 import catalogue, events, health, jobs, results, uploads
from seedvr2_ray.serve.http.v1.schemas import JobRequest, UploadRequest
from seedvr2_ray.serve.service.verbs import Service

_EXPOSED_HEADERS = (
    *("Content-Disposition", "Content-Range", "ETag", "Location", "Retry-After", REQUEST_ID),
    *("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size"),
    *("Upload-Expires", "Upload-Length", "Upload-Metadata", "Upload-Offset"),
)


def create_api(service: Service, *, routers: Iterable[APIRouter] = ()) -> FastAPI:
    """Build the application of one ingress process.

    Args:
        service: what the routes call; also at ``app.state.service``.
        routers: of the other dialects and of the page, which find the service there too.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.warm_up()
        yield
        await service.watch.close()

    app = FastAPI(
        title="seedvr2-ray",
        summary="Video and image restoration",
        version=seedvr2_ray.__version__,
        openapi_url="/openapi.json",
        # Their pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    problems.install(app)
    for module in (health, catalogue):
        app.include_router(module.router)
    for module in (jobs, results, events, uploads):
        app.include_router(module.router, dependencies=SIGNED_IN)
    for router in routers:
        app.include_router(router)
    origins = service.config.cors_origins
    # What is added last is outermost.
    app.add_middleware(
        Envelope, cors_origins=origins, admit=lambda scope, held: service.gate.admit(scope.get("client"), held)
    )
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=list(_EXPOSED_HEADERS),
        )
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """Describe the API (OpenAPI 3.1), the bodies that routes read themselves included."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for shape in (Problem, JobRequest, UploadRequest):
            described = shape.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(described.pop("$defs", {}))
            schemas[shape.__name__] = described
        app.openapi_schema = document
    return app.openapi_schema
