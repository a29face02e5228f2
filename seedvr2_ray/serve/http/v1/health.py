"""Whether the service lives, whether it can work, and its gauges."""

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from seedvr2_ray.serve.http.callers import TheService
from seedvr2_ray.serve.http.problem_bodies import documented

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """That it is well."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", response_model=Health, responses=documented())
async def read_health() -> Health:
    """Say that this process answers."""
    return Health()


@router.get("/readyz", response_model=Health, responses=documented())
async def read_readiness(service: TheService) -> Health:
    """Say whether the database and the storage answer; 503 until they do."""
    await service.require_ready()
    return Health()


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented()},
)
async def read_metrics(service: TheService) -> PlainTextResponse:
    """Say how much there is to do, in Prometheus' text format; Ray exports what its workers measure."""
    gauges = await service.gauges()
    lines = []
    for gauge in gauges:
        lines += [f"# HELP {gauge.name} {gauge.help}", f"# TYPE {gauge.name} gauge"]
        lines += [f"{gauge.name}{_labels(gauge.label, value)} {number:g}" for value, number in gauge.values.items()]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=METRICS_TYPE)


def _labels(label: str, value: str) -> str:
    return f'{{{label}="{value}"}}' if label else ""
