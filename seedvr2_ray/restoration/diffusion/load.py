"""From verified weight files to a restorer that is ready, and to its identity."""

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import partial

import torch

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.attention import require_backend
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.transformer.rope import rope_frequencies
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEOptions, fastest_options
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.weights.catalogue import ModelEntry, Role
from seedvr2_ray.models.weights.checkpoint import build_from_checkpoint, read_embedding, require_dtype
from seedvr2_ray.models.weights.download import FoundFile
from seedvr2_ray.restoration.device import free_bytes, is_out_of_memory
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.diffusion.stages import DiffusionModel
from seedvr2_ray.restoration.restorer import RestorerIdentity

_log = logging.getLogger(__name__)

ARITHMETIC_VERSION = 1
"""Raised when a change of code changes what a diffusion model makes of the same weights and settings."""


def identify_diffusion(entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
    """Say who a model is: its weights' hashes, the type it computes in, and the version of the arithmetic.

    Nothing that a machine may choose without changing the picture takes part.

    Args:
        hashes: SHA-256 of every weight file.
    """
    facts = {
        "weights": {role: hashes[role] for role in sorted(hashes)},
        "dtype": str(dtype).removeprefix("torch."),
        "anchor_rows": entry.seedvr2.anchor_rows,
        "arithmetic": ARITHMETIC_VERSION,
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return RestorerIdentity(entry.name, hashlib.sha256(text.encode()).hexdigest())


def load_diffusion(
    entry: ModelEntry,
    files: Mapping[Role, FoundFile],
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: AttentionBackend = "sdpa",
    vae_options: VAEOptions | None = None,
    compile_transformer: bool = False,
) -> DiffusionRestorer:
    """Load a diffusion model.

    Args:
        files: from :func:`~seedvr2_ray.models.weights.download.require_model`.
        attention: kernel of the transformer.
        compile_transformer: see :meth:`DiffusionRestorer.compile`; what it took is logged.
        vae_options: exact ways to run the VAE; None takes the fastest of the device.

    Raises:
        DeploymentError: the device lacks the type or the kernel, or a file is not what it should be.
        CapacityError: the weights do not fit into memory.
    """
    require_backend(attention, device, dtype)
    vae_options = vae_options or fastest_options(device.type)
    model = load_networks(entry, files, device=device, dtype=dtype, vae_options=vae_options)
    identity = identify_diffusion(entry, {role: found.sha256 for role, found in files.items()}, dtype)
    restorer = DiffusionRestorer(model, identity, device=device, attention=attention)
    if compile_transformer:
        _log.info("compiled the transformer of %s in %.1f s", entry.name, restorer.compile())
    return restorer


def load_networks(
    entry: ModelEntry,
    files: Mapping[Role, FoundFile],
    *,
    device: torch.device,
    dtype: torch.dtype,
    vae_options: VAEOptions = PLAIN,
) -> DiffusionModel:
    """Load the networks and embeddings of a diffusion model; see :func:`load_diffusion`."""
    require_dtype(device, dtype)
    build_dtype, config = partial(parameter_dtype, dtype), entry.seedvr2
    try:
        at = _loading_device(files, device)
        return DiffusionModel(
            transformer=build_from_checkpoint(
                lambda: SeedVR2Transformer(config.transformer),
                files["transformer"].path,
                device=at,
                dtype_of=build_dtype,
                computed=lambda: rope_frequencies(config.transformer),
            ),
            vae=build_from_checkpoint(
                lambda: VideoVAE(config.vae, vae_options), files["vae"].path, device=at, dtype_of=build_dtype
            ),
            positive_LC=read_embedding(files["positive"].path, "positive", config.transformer.text_dim).to(device),
            negative_LC=read_embedding(files["negative"].path, "negative", config.transformer.text_dim).to(device),
            anchor_rows=config.anchor_rows,
        )
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise CapacityError(
                f"the weights of {entry.name} do not fit into this machine's memory; "
                "choose a smaller model or stop what else is using it"
            ) from error
        raise


def _loading_device(files: Mapping[Role, FoundFile], device: torch.device) -> torch.device:
    """Where weights go first: host memory when the device cannot hold both networks at once.

    The plan of each segment then decides which of them is on the device when.
    """
    num_bytes = sum(files[role].path.stat().st_size for role in ("transformer", "vae"))
    # Most files hold 2 bytes per number; those with 4 are converted on the way, so this errs to the safe side.
    return torch.device("cpu") if num_bytes > free_bytes(device) else device
