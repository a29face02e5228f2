"""Everything that can be said against rendered manifests without a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from seedvr2_ray.cluster.manifests import Manifest
from seedvr2_ray.cluster.operator_rules import broken_operator_rules
from seedvr2_ray.cluster.platform_rules import broken_platform_rules
from seedvr2_ray.cluster.schemas import schema_of
from seedvr2_ray.errors import DeploymentError, SettingsError

KUBERNETES_VERSION = "1.37"
"""Whose schemas Kubernetes' own kinds are compared with."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an object."""

    label: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.label}: {self.sentence}"


def find_problems(manifests: Sequence[Manifest]) -> list[Problem]:
    """Return what is wrong: schemas first, and where those are kept, the rules of the operator and our own."""
    problems = [Problem(manifest.label, sentence) for manifest in manifests for sentence in _broken_schema(manifest)]
    if problems:
        return problems  # Rules read fields that a broken object may not have.
    problems = [
        Problem(manifest.label, sentence) for manifest in manifests for sentence in broken_operator_rules(manifest)
    ]
    return problems + [Problem(manifest.label, sentence) for manifest, sentence in broken_platform_rules(manifests)]


def require_valid(manifests: Sequence[Manifest]) -> None:
    """Raise with the first problem, if there is one.

    Raises:
        SettingsError: something is wrong.
    """
    problems = find_problems(manifests)
    if problems:
        more = f" (and {len(problems) - 1} more; see seedvr2-ray cluster validate)" if len(problems) > 1 else ""
        raise SettingsError(f"{problems[0]}{more}")


def _broken_schema(manifest: Manifest) -> list[str]:
    schema = schema_of(manifest.api_version, manifest.kind)
    if schema is None:
        return _broken_core_schema(manifest)
    error = best_match(Draft202012Validator(schema).iter_errors(manifest.body))
    return [] if error is None else [_sentence(error)]


def _broken_core_schema(manifest: Manifest) -> list[str]:
    try:
        import kubernetes_validate
    except ImportError:
        raise DeploymentError(
            "checking manifests needs kubernetes-validate; install it with: pip install 'seedvr2-ray[cluster]'"
        ) from None
    try:
        kubernetes_validate.validate(manifest.body, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [_sentence(error)]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"nothing is known of {manifest.api_version} {manifest.kind}; correct apiVersion and kind"]
    return []


def _sentence(error: ValidationError) -> str:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path).lstrip(".")
    return f"{place or 'the object'}: {error.message if len(error.message) < 300 else error.message[:300] + ' ...'}"
