"""What the deployment has and what was used of it: models, usage, kinds of problems."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from seedvr2_ray.serve.http.callers import TheCaller, TheService
from seedvr2_ray.serve.http.problem_bodies import TYPE_PREFIX, all_kinds, documented
from seedvr2_ray.serve.http.v1.schemas import ModelList, ModelView
from seedvr2_ray.serve.problems import MissingRefusal, ProblemKind

router = APIRouter(prefix="/v1", tags=["deployment"])


class UsageView(BaseModel):
    """What one owner used on one day (UTC)."""

    owner: str
    day: date
    gpu_seconds: float
    megapixels: float
    output_seconds: float
    cost: float


class UsageList(BaseModel):
    """Usage by day, the earliest first."""

    days: list[UsageView]
    gpu_seconds: float
    cost: float
    gpu_seconds_per_day: float | None
    """The quota, if there is one."""


class KindView(BaseModel):
    """A kind of problem that an answer may name in its ``type``."""

    type: str
    status: int
    title: str
    remedy: str

    @classmethod
    def of(cls, kind: ProblemKind) -> "KindView":
        """Show a row of the table."""
        return cls(type=f"{TYPE_PREFIX}{kind.name}", status=kind.status, title=kind.title, remedy=kind.remedy)


@router.get("/models", response_model=ModelList, responses=documented(401, 403, 422, 429))
async def list_models(service: TheService, caller: TheCaller) -> ModelList:
    """List the models that jobs may name here, the default first."""
    return ModelList(
        models=[
            ModelView(
                name=entry.name,
                summary=entry.summary,
                licence=entry.licence,
                is_default=entry.name == service.config.default_model,
                max_replicas=pool.max_replicas,
                num_gpus=pool.num_gpus,
                gang_size=pool.gang_size,
                price_per_gpu_hour=pool.price_per_gpu_hour,
            )
            for entry, pool in service.models()
        ]
    )


@router.get("/usage", response_model=UsageList, responses=documented(401, 403, 422, 429))
async def read_usage(
    service: TheService, caller: TheCaller, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> UsageList:
    """Sum up what you used, by day; what was used stays here when jobs are deleted."""
    found = await service.usage_by_day(caller, days=days)
    return UsageList(
        days=[
            UsageView(
                owner=each.owner,
                day=each.day,
                gpu_seconds=each.gpu_seconds,
                megapixels=each.megapixels,
                output_seconds=each.output_seconds,
                cost=each.cost,
            )
            for each in found
        ],
        gpu_seconds=sum(each.gpu_seconds for each in found),
        cost=sum(each.cost for each in found),
        gpu_seconds_per_day=service.limits.gpu_seconds_per_day or None,
    )


@router.get("/problems", response_model=list[KindView], responses=documented())
async def list_problems() -> list[KindView]:
    """List every kind of problem that an answer may name."""
    return [KindView.of(kind) for kind in all_kinds().values()]


@router.get("/problems/{name}", response_model=KindView, responses=documented(404, 422))
async def read_problem(name: str) -> KindView:
    """Describe a kind of problem."""
    kind = all_kinds().get(name)
    if kind is None:
        raise MissingRefusal(f"there is no kind of problem {name[:80]!r}; /v1/problems lists them")
    return KindView.of(kind)
