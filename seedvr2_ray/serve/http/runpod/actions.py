"""What stands in ``input`` of a RunPod request, and what it means to the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.config import ServiceConfig
from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.settings import RestoreSettings

ActionName = Literal["health", "initialize", "restore"]
ACTIONS: tuple[ActionName, ...] = ("health", "initialize", "restore")
MODEL_TYPES = ("seedvr2_3b", "seedvr2_7b")
VARIANTS = ("normal", "sharp")
MEDIA_TYPES = ("auto", "video", "image")
MEDIA_FIELDS = ("media", "video", "image")
API = "runpod"
"""What ``metadata`` of a job says about who made it."""

_LONGEST_SIDE = 16384
_MOST_DEVICES = 1024
_IMAGE_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"\xff\xd8\xff", 0, "jpg"),
    (b"WEBP", 8, "webp"),
    (b"II*\x00", 0, "tiff"),
    (b"MM\x00*", 0, "tiff"),
    (b"BM", 0, "bmp"),
)


class ActionError(InputError):
    """An action cannot be done; the message is what clients of this API know it by."""


class ModelMissing(ActionError):
    """A model is asked for that is not deployed here; says what is deployed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice:
    """Which model a client names, and which one that is here."""

    model_type: str
    model_variant: str
    sp_size: int
    """Devices that restore one video together."""
    model: str
    """Name in the catalogue."""

    @property
    def gang_size(self) -> int | None:
        """The size of gangs that was asked for: 1, which every client says, leaves it to the deployment."""
        return self.sp_size if self.sp_size > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreAction:
    """A restoration that was asked for."""

    choice: ModelChoice
    media: str
    """As it stands in the document: base64, or what stands for it."""
    res_h: int
    res_w: int
    settings: Mapping[str, Any]

    def metadata(self, endpoint_id: str) -> dict[str, Any]:
        """Return what a job keeps so that its answer can be given in this API's words."""
        return {
            "api": API,
            "endpoint": endpoint_id,
            "model_type": self.choice.model_type,
            "model_variant": self.choice.model_variant,
            "sp_size": self.choice.sp_size,
            "resolution": f"{self.res_h}x{self.res_w}",
        }


def action_of(document: Mapping[str, Any]) -> tuple[ActionName, Mapping[str, Any]]:
    """Return what a request asks for; without an action, media mean that they are to be restored.

    Raises:
        ActionError: there is no input, or its action is unknown.
    """
    if "webhook" in document:
        raise ActionError("webhook is not part of this API here; poll status, or submit to /v1/jobs with webhook_url")
    given = document.get("input")
    if not isinstance(given, dict):
        raise ActionError('the body must be {"input": {...}}')
    action = given.get("action", "restore")
    if action not in ACTIONS:
        raise ActionError(f"Unknown action {action!r}; known are {', '.join(ACTIONS)}")
    return action, given


def choose_model(given: Mapping[str, Any], config: ServiceConfig) -> ModelChoice:
    """Return the deployed model that an input names, or the default one if it names none.

    Raises:
        ModelMissing: it is not deployed here.
        ActionError: type, variant or number of devices are none that there are.
    """
    variant = given.get("model_variant", "normal")
    if variant not in VARIANTS:
        raise ActionError(f"model_variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    model_type, sp_size = given.get("model_type"), _whole(given, "sp_size", 1, most=_MOST_DEVICES)
    if model_type is None and variant == "normal":
        model = _of_size(sp_size, config)
        model_type, variant = runpod_name(model)
    else:
        # Only the 7B has a variant, so that a variant alone means it.
        model_type = model_type or "seedvr2_7b"
        model = _deployed(model_type, variant, config)
    sizes = config.models[model].sizes
    if sp_size not in (1, *sizes):
        there = " or ".join(map(str, sizes))
        raise ActionError(
            f"sp_size {sp_size} needs {sp_size} devices that act as one, and this deployment has {model} on "
            f"{there}; use sp_size {there}"
        )
    return ModelChoice(model_type=model_type, model_variant=variant, sp_size=sp_size, model=model)


def _of_size(sp_size: int, config: ServiceConfig) -> str:
    """Return the model whose gangs have this size, where no model is named: the default one if it is any of them."""
    pools = config.models
    if sp_size in (1, *pools[config.default_model].sizes):
        return config.default_model
    return next((model for model, pool in pools.items() if sp_size in pool.sizes), config.default_model)


def _deployed(model_type: object, variant: str, config: ServiceConfig) -> str:
    """Return the deployed model that stands for a type and a variant."""
    name = f"{model_type}_sharp" if variant == "sharp" else str(model_type)
    model = config.model_aliases.get(name, name.replace("_", "-"))
    if model in config.models:
        return model
    if model_type not in MODEL_TYPES:
        raise ActionError(f"model_type must be one of {', '.join(MODEL_TYPES)}; got {model_type!r}")
    if name == "seedvr2_3b_sharp":
        raise ModelMissing("seedvr2_3b has no sharp variant; use model_variant normal, or seedvr2_7b")
    raise ModelMissing(f"{name} is not deployed here; this deployment has {', '.join(sorted(config.models))}")


def runpod_name(model: str) -> tuple[str, str]:
    """Return type and variant of a model of the catalogue in this API's words."""
    stem, is_sharp, _ = model.partition("-sharp")
    return stem.replace("-", "_"), "sharp" if is_sharp else "normal"


def parse_restore(given: Mapping[str, Any], config: ServiceConfig) -> RestoreAction:
    """Read the input of the action ``restore``.

    Raises:
        ActionError: a field is missing or cannot be used.
    """
    choice = choose_model(given, config)
    media = next((given[field] for field in MEDIA_FIELDS if given.get(field)), None)
    if media is None:
        raise ActionError("No video data provided")
    if not isinstance(media, str):
        raise ActionError(f"Invalid base64 video data: it is no string but {type(media).__name__}")
    # What the media are is seen from their bytes; the field is checked only so that a misspelling is not swallowed.
    media_type = given.get("media_type", "auto")
    if media_type not in MEDIA_TYPES:
        raise ActionError(f"media_type must be one of {', '.join(MEDIA_TYPES)}; got {media_type!r}")
    res_h = _whole(given, "res_h", 1280, most=_LONGEST_SIDE)
    res_w = _whole(given, "res_w", 720, most=_LONGEST_SIDE)
    defaults = RestoreSettings()
    return RestoreAction(
        choice=choice,
        media=media,
        res_h=res_h,
        res_w=res_w,
        settings={
            "model": choice.model,
            # Only the product of the sides counts, so that the swapped-looking defaults do no harm.
            "resolution": f"area:{res_w}x{res_h}",
            "seed": _whole(given, "seed", defaults.seed, least=0, most=2**63 - 1),
            "sample_steps": _whole(given, "sample_steps", defaults.sample_steps, most=1000),
            "cfg_scale": _number(given, "cfg_scale", defaults.cfg_scale),
            "cfg_rescale": _number(given, "cfg_rescale", defaults.cfg_rescale),
        },
    )


def image_suffix(path: Path) -> str | None:
    """Return the usual ending of an image file's name, by its first bytes; None for anything else."""
    with path.open("rb") as file:
        head = file.read(16)
    return next((suffix for signature, at, suffix in _IMAGE_SIGNATURES if head[at:].startswith(signature)), None)


def wrapping_of(path: Path) -> tuple[str, dict[str, str]]:
    """Return a name for media that came without one, and the settings that say what their result is wrapped in.

    A result is named and wrapped like its source. Clients of this API write what they get to ``.mp4`` and ``.png``.
    """
    suffix = image_suffix(path)
    if suffix is None:
        return "video.mp4", {}
    # WebP may be animated, and then a PNG could not hold it.
    return f"image.{suffix}", {} if suffix == "webp" else {"codec": "png"}


def processing_info(job: Job) -> dict[str, Any]:
    """Return how a job was restored, in this API's words."""
    return {
        "seed": job.settings["seed"],
        "cfg_scale": job.settings["cfg_scale"],
        "sample_steps": job.settings["sample_steps"],
        "sequence_parallel_size": job.metadata.get("sp_size", 1),
    }


def _whole(given: Mapping[str, Any], field: str, default: int, *, least: int = 1, most: int) -> int:
    value = given.get(field, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ActionError(f"{field} must be a whole number in {least}..{most}, got {value!r}")
    return value


def _number(given: Mapping[str, Any], field: str, default: float) -> float:
    value = given.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ActionError(f"{field} must be a number, got {value!r}")
    return float(value)
