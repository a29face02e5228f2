"""From a checkpoint file to a network on its device: checked by name and shape first, then streamed.

The network is built on the meta device and gets its tensors one at a time, so that neither the file's numbers nor
the network's ever exist twice.
"""

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seedvr2_ray.errors import DeploymentError

Module = TypeVar("Module", bound=nn.Module)

_READABLE = {torch.float32, torch.float16, torch.bfloat16}
_MOST_NAMES = 3
_GGUF_MAGIC = b"GGUF"

# The rotary frequencies are stored with every layer. They follow from the config, and half-precision files hold them
# wrongly by angles of up to 1.4 rad, so they are computed, never read. Guarded by test_stored_frequencies_are_ignored.
_COMPUTED_SUFFIX = ".rope.freqs"

# Attention parameters of the VAE under the names that diffusers once gave them.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: its shape is known, its numbers are read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def build_from_checkpoint(
    build: Callable[[], Module],
    path: Path,
    *,
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype],
    computed: Callable[[], Tensor] | None = None,
    unused: tuple[str, ...] = (),
) -> Module:
    """Build a network with the numbers of a checkpoint, ready for inference.

    Args:
        build: makes the network; called on the meta device.
        path: ``.safetensors``, or ``.pth`` as torch saves it.
        device: where the network will live.
        dtype_of: from a parameter's name to the type it is kept in.
        computed: makes the rotary frequencies, for a network that has them.
        unused: names, in part, of tensors that some files hold and the network has no use for.

    Raises:
        DeploymentError: the file cannot be read, or is not of this network.
    """
    with torch.device("meta"):
        module = build()
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith(_COMPUTED_SUFFIX)}
    stored = {
        name: entry
        for name, entry in read_checkpoint(path).items()
        if name in wanted or not any(part in name for part in unused)
    }
    _require_match(wanted, stored, path)
    # The file must not be needed afterwards, so even a tensor that needs no conversion is copied out of it.
    state = {name: _place(stored[name], name, path, device, dtype_of(name)) for name in wanted}
    if computed is not None:
        state |= {name: computed().to(device) for name in shapes if name.endswith(_COMPUTED_SUFFIX)}
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def read_checkpoint(path: Path) -> dict[str, StoredTensor]:
    """Return what a checkpoint holds, under current names and without computed entries; numbers stay in the file."""
    _require_not_gguf(path)
    entries = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    return {_current_name(name): entry for name, entry in entries.items() if not name.endswith(_COMPUTED_SUFFIX)}


def read_embedding(path: Path, role: str, text_dim: int) -> Tensor:
    """Return the embedding of a fixed prompt, float32 [tokens, text_dim] on the CPU.

    Args:
        path: a tensor as torch saves it, or safetensors with one tensor or one that is named as ``role``. A batch
            of one is taken out of its batch.
        role: ``positive``, ``negative``, or what else a file calls it.
        text_dim: width that the transformer expects.

    Raises:
        DeploymentError: the file cannot be read or holds something else.
    """
    if path.suffix == ".safetensors":
        entries = _read_safetensors(path)
        entry = entries.get(role) or (next(iter(entries.values())) if len(entries) == 1 else None)
        embedding: object = entry.read() if entry else None
    else:
        embedding = _load_pickle(path)
    if isinstance(embedding, Tensor) and embedding.ndim == 3 and len(embedding) == 1:
        embedding = embedding[0]
    if not isinstance(embedding, Tensor) or embedding.ndim != 2 or embedding.shape[1] != text_dim:
        shape = list(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
        raise DeploymentError(
            f"{path} must hold the {role} text embedding, [tokens, {text_dim}], and holds {shape}; pull the model again"
        )
    return embedding.to(torch.float32, copy=True)


def require_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless a device computes in a type.

    Raises:
        DeploymentError: it does not; names one that it does.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype not in _READABLE:
        raise DeploymentError(f"models run in bfloat16, float16 or float32, not in {name}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeploymentError("no CUDA device is available; choose the CPU, or install a driver and a CUDA build")
        if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            gpu = torch.cuda.get_device_name(device)
            raise DeploymentError(f"{gpu} has no bfloat16 arithmetic; choose float16")
    elif dtype == torch.float16:
        raise DeploymentError("float16 overflows and is slow on a CPU; choose float32 or bfloat16")


def _require_not_gguf(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC:
            raise DeploymentError(
                f"{path} is a GGUF file, whose quantised numbers are not read here; "
                "use the float16 or the original float32 checkpoint"
            )


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        return {
            name: StoredTensor(tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name))
            for name in file.keys()  # noqa: SIM118 - the file is not a mapping
        }
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_pickled(path: Path) -> dict[str, StoredTensor]:
    state = _load_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise DeploymentError(f"{path} is no checkpoint: expected names with tensors, found a {type(state).__name__}")
    return {name: StoredTensor(tuple(tensor.shape), partial(Tensor.detach, tensor)) for name, tensor in state.items()}


def _load_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() and zipfile.is_zipfile(path):
            raise DeploymentError(
                f"{path} holds more than numbers and is not opened: unpickling it could run code; pull the model again"
            ) from error
        raise _unreadable(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DeploymentError:
    if not path.exists():
        return DeploymentError(f"{path} does not exist; pull the model first")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return DeploymentError(f"{path} is truncated or no checkpoint ({reason}); verify or pull the model again")


def _current_name(name: str) -> str:
    if ".attentions." in name:
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
    return name


def _require_match(wanted: dict[str, tuple[int, ...]], stored: dict[str, StoredTensor], path: Path) -> None:
    missing = [name for name in wanted if name not in stored]
    unknown = [name for name in stored if name not in wanted]
    misshapen = [
        f"{name} is {list(stored[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    parts = [("missing", missing), ("unknown", unknown), ("of another shape", misshapen)]
    faults = [f"{len(names)} tensors are {what} ({_some(names)})" for what, names in parts if names]
    if faults:
        raise DeploymentError(f"{path} is the checkpoint of another model: {'; '.join(faults)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")


def _place(stored: StoredTensor, name: str, path: Path, device: torch.device, dtype: torch.dtype) -> Tensor:
    try:
        tensor = stored.read()
    except (SafetensorError, RuntimeError, OSError) as error:
        raise _unreadable(path, error) from error
    if tensor.dtype not in _READABLE:
        raise DeploymentError(
            f"{path} stores {name} as {str(tensor.dtype).removeprefix('torch.')}; "
            "use the float16 or the original float32 checkpoint"
        )
    if device.type == "cpu":
        return tensor.to(dtype, copy=True)
    # Moved before it is converted: a GPU converts 33 GB in a moment, a CPU core in half a minute.
    return tensor.to(device).to(dtype)
