"""The client's values are the service's bodies: every field that both have is of one type, and nobody forgets one."""

import dataclasses
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter

from seedvr2_ray.client import values
from seedvr2_ray.serve.http.v1 import catalogue, schemas

PAIRS: dict[type[Any], type[BaseModel]] = {
    values.Job: schemas.JobView,
    values.JobProgress: schemas.ProgressView,
    values.JobResult: schemas.ResultView,
    values.JobError: schemas.ErrorView,
    values.JobUsage: schemas.UsageOfJob,
    values.JobPage: schemas.JobList,
    values.Notice: schemas.NoticeView,
    values.JobEstimate: schemas.EstimateView,
    values.Model: schemas.ModelView,
    values.ModelPage: schemas.ModelList,
    values.DayOfUsage: catalogue.UsageView,
    values.Usage: catalogue.UsageList,
}
LEFT_TO_THE_SERVICE = {
    values.Job: {"cancel_requested", "source", "estimate", "links"},
    values.JobEstimate: {"source_width", "source_height"},
    values.Model: {"max_replicas", "num_gpus", "gang_size"},
    values.Usage: {"gpu_seconds_per_day"},
}
"""What the page needs and a program does not."""
NEWER_THAN_SOME_SERVICES = {
    values.JobEstimate: {"gang_size", "gib_per_gpu"},
    values.Model: {"price_per_gpu_hour"},
    values.Usage: {"days", "gpu_seconds", "cost"},
}
"""Fields that the client has a default for, so that it reads older services."""


@pytest.mark.parametrize("ours", PAIRS, ids=lambda kind: kind.__name__)
def test_a_value_has_the_fields_of_the_body_and_they_are_of_the_same_type(ours: type[Any]) -> None:
    body = PAIRS[ours]
    hints = get_type_hints(ours)
    assert body.model_fields.keys() - hints.keys() == LEFT_TO_THE_SERVICE.get(ours, set())
    for name, hint in hints.items():
        assert shape_of(hint) == shape_of(body.model_fields[name].annotation), f"{ours.__name__}.{name}"
    optional = {
        field.name
        for field in dataclasses.fields(ours)
        if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
    }
    assert optional == NEWER_THAN_SOME_SERVICES.get(ours, set())


def test_every_value_of_the_client_has_a_body() -> None:
    found = {each for each in vars(values).values() if dataclasses.is_dataclass(each)}
    # An upload is no body of the service: tus puts what it has into headers.
    assert found - {values.Upload} == PAIRS.keys()


def shape_of(hint: Any) -> Any:
    """Return what JSON a type takes: values and bodies are one where both describe the same thing."""
    schema = TypeAdapter(hint).json_schema(mode="validation")
    return _resolved(schema, schema.get("$defs", {}))


def _resolved(schema: Any, known: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_resolved(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolved(known[schema["$ref"].rpartition("/")[2]], known)
    if "properties" in schema:
        return "object"  # Its fields are compared as a pair of their own.
    said = {"title", "description", "$defs", "default"}
    return {name: _resolved(each, known) for name, each in schema.items() if name not in said}
