"""Attention inside windows behind one signature per kind: with the whole text in every window, or without.

With text, every window attends to its own video tokens and to all text tokens of its sample, both ways and
without a mask. Text keys and values come in once and are shared by the windows; the text's own
result is summed over them.

Shapes: L packed tokens, W windows, G tokens of a window, K keys of a window, N heads, E head width.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models.backends import BACKENDS, AttentionBackend


class Heads(NamedTuple):
    """Queries, keys and values of one modality, normalised and rotated."""

    q_LNE: Tensor
    k_LNE: Tensor
    v_LNE: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowBatch:
    """Windows of one sample and one shape: consecutive, equally long runs of video tokens."""

    num_windows: int
    window_tokens: int
    text_start: int
    """First token of the sample in the packed text."""
    text_length: int

    @property
    def video_tokens(self) -> int:
        """Video tokens of all windows together."""
        return self.num_windows * self.window_tokens

    @property
    def joint_length(self) -> int:
        """Tokens one window attends to."""
        return self.window_tokens + self.text_length


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowBand:
    """Batches that are attended to together, with what variable-length kernels need to know."""

    batches: tuple[WindowBatch, ...]
    video_ends_W: Tensor
    """Cumulative video tokens per window from 0 on, int32 on the device."""
    joint_ends_W: Tensor
    """The same with the text counted in every window."""

    @property
    def max_video(self) -> int:
        """Video tokens of the longest window."""
        return max((batch.window_tokens for batch in self.batches), default=0)

    @property
    def max_joint(self) -> int:
        """Video and text tokens of the longest window."""
        return max((batch.joint_length for batch in self.batches), default=0)


def attend_windows(
    video: Heads, text: Heads, band: WindowBand, *, backend: AttentionBackend, text_queries: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend inside every window of a band.

    Args:
        video: tokens window by window, in the order of ``band.batches``.
        text: packed text of all samples.
        text_queries: whether the text asks too; its keys and values always take part.

    Returns:
        The video's result [L, N, E] in the order it came, and the text's summed over the band's
        windows, float32 [L, N, E], or nothing when it did not ask.
    """
    attend = _attend_dense if backend == "sdpa" else _attend_packed
    out_LNE = torch.empty_like(video.v_LNE, memory_format=torch.contiguous_format)
    text_sum_LNE = torch.zeros_like(text.v_LNE, dtype=torch.float32) if text_queries else None
    if not band.batches:  # a device that was left without windows; kernels refuse to do nothing
        return out_LNE, text_sum_LNE
    start = 0
    for batch, result_WLNE in zip(band.batches, attend(video, text, band, backend, text_queries), strict=True):
        _windows(out_LNE, start, batch).copy_(result_WLNE[:, : batch.window_tokens])
        start += batch.video_tokens
        if text_sum_LNE is not None:
            # Not index_add: its atomics would make the sum depend on the order of threads.
            part_LNE = result_WLNE[:, batch.window_tokens :].sum(dim=0, dtype=torch.float32)
            text_sum_LNE.narrow(0, batch.text_start, batch.text_length).add_(part_LNE)
    return out_LNE, text_sum_LNE


def attend_batch(q_WGNE: Tensor, k_WKNE: Tensor, v_WKNE: Tensor, *, backend: AttentionBackend) -> Tensor:
    """Attend inside every window of a batch whose windows all have one shape and no text of their own.

    Args:
        q_WGNE: queries, G of each window.
        k_WKNE, v_WKNE: as many windows, each with any one number of keys and values.

    Returns:
        The results [W, G, N, E], contiguous or not.
    """
    if backend == "sdpa":
        return _dense_kernel(q_WGNE, k_WKNE, v_WKNE)
    windows, queries, keys = len(q_WGNE), q_WGNE.shape[1], k_WKNE.shape[1]
    q_ends_W, k_ends_W = (
        torch.arange(windows + 1, device=q_WGNE.device, dtype=torch.int32) * length for length in (queries, keys)
    )
    packed = (heads.flatten(0, 1) for heads in (q_WGNE, k_WKNE, v_WKNE))
    out_LNE = _packed_kernel(backend)(*packed, q_ends_W, k_ends_W, queries, keys)
    return out_LNE.view(q_WGNE.shape)


def require_backend(backend: AttentionBackend, device: torch.device, dtype: torch.dtype) -> None:
    """Check that a kernel exists for a device and dtype.

    Raises:
        DeploymentError: it is not installed, or needs another device or dtype.
    """
    if backend == "sdpa":
        return
    reason = missing_reason(backend)
    if reason is None and device.type != "cuda":
        reason = f"it needs a CUDA device and the model is on {device.type}"
    if reason is None and dtype not in (torch.bfloat16, torch.float16):
        reason = f"it needs bfloat16 or float16 and the model computes in {dtype}"
    if reason is not None:
        raise DeploymentError(f"attention {backend!r} cannot be used: {reason}; choose 'sdpa', which runs everywhere")


def available_backends() -> tuple[AttentionBackend, ...]:
    """Return the attention kernels that this installation could run on its own machine."""
    return tuple(backend for backend in BACKENDS if backend == "sdpa" or missing_reason(backend) is None)


def missing_reason(backend: AttentionBackend) -> str | None:
    """Say why a kernel cannot run on this machine; ``None`` when it can."""
    if backend == "sdpa":
        return None
    if backend == "varlen" and _find_varlen() is None:
        return f"torch {torch.__version__} has no variable-length kernel (torch 2.10 or later has one)"
    if backend == "flash" and _flash_module() is None:
        return "flash-attn is not installed"
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    return None


def _attend_dense(
    video: Heads, text: Heads, band: WindowBand, backend: AttentionBackend, text_queries: bool
) -> Iterator[Tensor]:
    """Run windows of one shape as one dense batch: plain kernels, no masks, no padding."""
    start = 0
    for batch in band.batches:
        q, k, v = (
            torch.cat((windows_WGNE, _text(text_LNE, batch)), dim=1) if with_text else windows_WGNE
            for windows_WGNE, text_LNE, with_text in zip(
                (_windows(heads_LNE, start, batch) for heads_LNE in video),
                text,
                (text_queries, True, True),
                strict=True,
            )
        )
        start += batch.video_tokens
        yield _dense_kernel(q, k, v)


def _dense_kernel(q_WGNE: Tensor, k_WKNE: Tensor, v_WKNE: Tensor) -> Tensor:
    q, k, v = (heads.transpose(1, 2) for heads in (q_WGNE, k_WKNE, v_WKNE))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _attend_packed(
    video: Heads, text: Heads, band: WindowBand, backend: AttentionBackend, text_queries: bool
) -> Iterator[Tensor]:
    """Run all windows of a band as one sequence with marked ends."""
    k_LNE, v_LNE = _interleave(video.k_LNE, text.k_LNE, band), _interleave(video.v_LNE, text.v_LNE, band)
    if text_queries:
        q_LNE, q_ends_W, max_q = _interleave(video.q_LNE, text.q_LNE, band), band.joint_ends_W, band.max_joint
    else:
        q_LNE, q_ends_W, max_q = video.q_LNE, band.video_ends_W, band.max_video
    out_LNE = _packed_kernel(backend)(q_LNE, k_LNE, v_LNE, q_ends_W, band.joint_ends_W, max_q, band.max_joint)
    start = 0
    for batch in band.batches:
        length = batch.joint_length if text_queries else batch.window_tokens
        num_tokens = batch.num_windows * length
        yield out_LNE.narrow(0, start, num_tokens).view(batch.num_windows, length, *out_LNE.shape[1:])
        start += num_tokens


def _interleave(video_LNE: Tensor, text_LNE: Tensor, band: WindowBand) -> Tensor:
    """Write window after window, each followed by its sample's text."""
    num_tokens = sum(batch.num_windows * batch.joint_length for batch in band.batches)
    joint_LNE = video_LNE.new_empty(num_tokens, *video_LNE.shape[1:])
    video_start = joint_start = 0
    for batch in band.batches:
        length = batch.num_windows * batch.joint_length
        windows_WLNE = joint_LNE.narrow(0, joint_start, length).view(
            batch.num_windows, batch.joint_length, *joint_LNE.shape[1:]
        )
        windows_WLNE[:, : batch.window_tokens].copy_(_windows(video_LNE, video_start, batch))
        windows_WLNE[:, batch.window_tokens :].copy_(_text(text_LNE, batch))
        video_start += batch.video_tokens
        joint_start += length
    return joint_LNE


def _windows(video_LNE: Tensor, start: int, batch: WindowBatch) -> Tensor:
    """View a batch's tokens as [W, G, N, E]."""
    rows_LNE = video_LNE.narrow(0, start, batch.video_tokens)
    return rows_LNE.view(batch.num_windows, batch.window_tokens, *rows_LNE.shape[1:])


def _text(text_LNE: Tensor, batch: WindowBatch) -> Tensor:
    """View the sample's text as if every window had a copy, [W, L, N, E]."""
    return text_LNE.narrow(0, batch.text_start, batch.text_length).expand(batch.num_windows, -1, -1, -1)


def _packed_kernel(backend: AttentionBackend) -> Callable[..., Tensor]:
    if backend == "varlen":
        varlen = _find_varlen()
        assert varlen is not None, "require_backend comes first"
        return varlen
    module = _flash_module()
    assert module is not None, "require_backend comes first"

    def flash(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, max_q: int, max_k: int) -> Tensor:
        out = module.flash_attn_varlen_func(
            q, k, v, cu_seqlens_q=q_ends, cu_seqlens_k=k_ends, max_seqlen_q=max_q, max_seqlen_k=max_k
        )
        result: Tensor = out[0] if isinstance(out, tuple) else out  # some releases of 3 return the logsumexp too
        return result

    return flash


@lru_cache(maxsize=1)
def _find_varlen() -> Callable[..., Tensor] | None:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    kernel: Callable[..., Tensor] = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    return kernel


@lru_cache(maxsize=1)
def _flash_module() -> Any | None:
    """Import flash-attn 3 or 2, whichever is installed; it is optional and slow to import."""
    for name in ("flash_attn_interface", "flash_attn"):
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    return None
