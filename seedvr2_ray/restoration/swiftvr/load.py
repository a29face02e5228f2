"""From verified weight files to a SwiftVR restorer that is ready, and to its identity."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from functools import partial

import torch

from seedvr2_ray.errors import CapacityError, DeploymentError, SettingsError
from seedvr2_ray.models.attention import require_backend
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.parallel import ALONE, SequenceParallel
from seedvr2_ray.models.swiftvr.reae import ReAE
from seedvr2_ray.models.swiftvr.stream import SwiftVR
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer, parameter_dtype
from seedvr2_ray.models.weights.catalogue import ModelEntry, Role
from seedvr2_ray.models.weights.checkpoint import build_from_checkpoint, read_embedding, require_dtype
from seedvr2_ray.models.weights.download import FoundFile
from seedvr2_ray.restoration.device import is_out_of_memory, release_memory
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.swiftvr.ranks import SwiftVRRank
from seedvr2_ray.restoration.swiftvr.restorer import SwiftVRRestorer
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import digest_of

_log = logging.getLogger(__name__)

ARITHMETIC_VERSION = 1
"""Raised when a change of code changes what SwiftVR makes of the same weights and settings."""

_WITHOUT_MEANING = {
    "sample_steps": "it takes one step",
    "cfg_scale": "it knows no guidance",
    "cfg_rescale": "it knows no guidance",
    "chunk_frames": "its chunks have the length it was trained with",
    "chunk_overlap": "its chunks do not overlap",
    "vae_tile": "its autoencoder takes frames whole, a few at a time",
    "reference": "that follows SeedVR2's published script",
}
"""Settings of SeedVR2 that would be passed over without a word, and why."""

_UNUSED_TENSORS = ("norm_added_q",)
"""In some checkpoints of this topology."""


def require_swiftvr_settings(settings: RestoreSettings) -> None:
    """Refuse what SwiftVR has no use for: a setting that is passed over would look as if it had been followed.

    Raises:
        SettingsError: names the setting and why.
    """
    defaults = {field.name: field.default for field in fields(RestoreSettings)}
    for name, reason in _WITHOUT_MEANING.items():
        if getattr(settings, name) != defaults[name]:
            raise SettingsError(
                f"swiftvr has no use for {name} ({reason}): leave it out (it stands at {defaults[name]}), "
                "or choose a SeedVR2 model"
            )
    if settings.padding == "reflect":
        raise SettingsError("swiftvr fills frames up in black, as it was trained: leave padding out, or say black")


def identify_swiftvr(entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
    """Say who this is: its weights' hashes, how chunks are cut, the type it computes in, the version of the arithmetic.

    Nothing that a machine may choose without changing the picture takes part.
    """
    config = entry.swiftvr
    facts = {
        "weights": {role: hashes[role] for role in sorted(hashes)},
        "dtype": str(dtype).removeprefix("torch."),
        "clip_frames": config.clip_frames,
        "overlap": config.overlap,
        "window": list(config.transformer.window),
        "arithmetic": ARITHMETIC_VERSION,
    }
    return RestorerIdentity(entry.name, digest_of(facts))


def load_swiftvr(
    entry: ModelEntry,
    files: Mapping[Role, FoundFile],
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: AttentionBackend = "sdpa",
    compile_transformer: bool = False,
    parallel: SequenceParallel = ALONE,
) -> SwiftVRRestorer:
    """Load SwiftVR.

    Args:
        files: from :func:`~seedvr2_ray.models.weights.download.require_model`.
        attention: kernel of the transformer.
        compile_transformer: see :meth:`SwiftVRRestorer.compile`; what it took is logged.
        parallel: the rank that takes its turns with the chunks; alone where there are no others.

    Raises:
        DeploymentError: the device lacks the type or the kernel, or a file is not what it should be.
        CapacityError: the weights do not fit into memory.
    """
    require_backend(attention, device, dtype)
    model = load_swiftvr_networks(entry, files, device=device, dtype=dtype)
    identity = identify_swiftvr(entry, {role: found.sha256 for role, found in files.items()}, dtype)
    restorer = (
        SwiftVRRestorer(model, identity, device=device, attention=attention)
        if parallel.size == 1
        else SwiftVRRank(model, identity, device=device, attention=attention, parallel=parallel)
    )
    if compile_transformer:
        _log.info("compiled the transformer of %s in %.1f s", entry.name, restorer.compile())
    return restorer


def load_swiftvr_networks(
    entry: ModelEntry, files: Mapping[Role, FoundFile], *, device: torch.device, dtype: torch.dtype
) -> SwiftVR:
    """Load and fold the networks; see :func:`load_swiftvr`."""
    require_dtype(device, dtype)
    config = entry.swiftvr
    try:
        transformer = build_from_checkpoint(
            lambda: SwiftVRTransformer(config.transformer),
            files["transformer"].path,
            device=device,
            dtype_of=partial(parameter_dtype, dtype),
            unused=_UNUSED_TENSORS,
        )
        prompt_KC = read_embedding(files["prompt"].path, "prompt_emb", config.transformer.text_dim)
        if len(prompt_KC) != config.transformer.prompt_tokens:
            raise DeploymentError(
                f"{files['prompt'].path} must hold {config.transformer.prompt_tokens} tokens of prompt and holds "
                f"{len(prompt_KC)}; pull the model again"
            )
        transformer.fold(prompt_KC)
        # What was folded away goes back before the autoencoder arrives.
        release_memory(device)
        reae = build_from_checkpoint(
            lambda: ReAE(config.reae), files["autoencoder"].path, device=device, dtype_of=lambda name: dtype
        )
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise CapacityError(
                f"the weights of {entry.name} do not fit into this machine's memory; "
                "choose a smaller model or stop what else is using it"
            ) from error
        raise
    return SwiftVR(config=config, transformer=transformer, reae=reae)
