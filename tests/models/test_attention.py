"""Windowed attention: every kernel computes the softmax written out by hand."""

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models import attention
from seedvr2_ray.models.attention import (
    Heads,
    WindowBand,
    WindowBatch,
    attend_batch,
    attend_windows,
    available_backends,
    missing_reason,
    require_backend,
)
from seedvr2_ray.models.backends import AttentionBackend

BATCHES = (
    WindowBatch(num_windows=3, window_tokens=4, text_start=0, text_length=2),
    WindowBatch(num_windows=1, window_tokens=6, text_start=0, text_length=2),
    WindowBatch(num_windows=2, window_tokens=5, text_start=2, text_length=3),
)


def _band(device: str = "cpu") -> WindowBand:
    windows = [batch for batch in BATCHES for _ in range(batch.num_windows)]
    video = torch.tensor([0, *(w.window_tokens for w in windows)]).cumsum(0)
    joint = torch.tensor([0, *(w.joint_length for w in windows)]).cumsum(0)
    return WindowBand(
        batches=BATCHES,
        video_ends_W=video.to(device=device, dtype=torch.int32),
        joint_ends_W=joint.to(device=device, dtype=torch.int32),
    )


def _heads(num_tokens: int, width: int = 16) -> Heads:
    return Heads(*torch.randn(3, num_tokens, 2, width, generator=torch.Generator().manual_seed(num_tokens)))


def _by_hand(video: Heads, text: Heads) -> tuple[Tensor, Tensor]:
    out_LNE, text_LNE = torch.zeros_like(video.v_LNE), torch.zeros_like(text.v_LNE)
    start = 0
    for batch in BATCHES:
        own_text = slice(batch.text_start, batch.text_start + batch.text_length)
        for _ in range(batch.num_windows):
            rows = slice(start, start + batch.window_tokens)
            q, k, v = (torch.cat((a[rows], b[own_text])) for a, b in zip(video, text, strict=True))
            weights = (torch.einsum("qne,kne->nqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
            result = torch.einsum("nqk,kne->qne", weights, v)
            out_LNE[rows] = result[: batch.window_tokens]
            text_LNE[own_text] += result[batch.window_tokens :]
            start += batch.window_tokens
    return out_LNE, text_LNE


@pytest.fixture
def packed_kernel_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable-length kernel written out, since the real ones need CUDA."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, max_q: int, max_k: int) -> Tensor:
        assert int(q_ends.diff().max()) == max_q
        assert int(k_ends.diff().max()) == max_k
        pieces = []
        for index in range(len(q_ends) - 1):
            own = slice(q_ends[index], q_ends[index + 1])
            seen = slice(k_ends[index], k_ends[index + 1])
            weights = torch.einsum("qne,kne->nqk", q[own], k[seen]) / q.shape[-1] ** 0.5
            pieces.append(torch.einsum("nqk,kne->qne", weights.softmax(-1), v[seen]))
        return torch.cat(pieces)

    monkeypatch.setattr(attention, "_packed_kernel", lambda backend: kernel)


@pytest.mark.usefixtures("packed_kernel_on_cpu")
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_every_packing_computes_the_written_out_softmax(backend: AttentionBackend) -> None:
    video, text = _heads(28), _heads(5)
    expected_video, expected_text = _by_hand(video, text)
    out, text_sum = attend_windows(video, text, _band(), backend=backend, text_queries=True)
    torch.testing.assert_close(out, expected_video, atol=1e-5, rtol=1e-5)
    assert text_sum is not None
    torch.testing.assert_close(text_sum, expected_text, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("packed_kernel_on_cpu")
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_text_that_does_not_ask_is_still_seen(backend: AttentionBackend) -> None:
    video, text = _heads(28), _heads(5)
    out, text_sum = attend_windows(video, text, _band(), backend=backend, text_queries=False)
    assert text_sum is None
    torch.testing.assert_close(out, _by_hand(video, text)[0], atol=1e-5, rtol=1e-5)


def _batch(keys: int, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(3, length, 2, width, generator=generator) for length in (7, keys, keys))
    return q, k, v


def _batch_by_hand(q_WGNE: Tensor, k_WKNE: Tensor, v_WKNE: Tensor) -> Tensor:
    weights = torch.einsum("wqne,wkne->wnqk", q_WGNE, k_WKNE) / q_WGNE.shape[-1] ** 0.5
    return torch.einsum("wnqk,wkne->wqne", weights.softmax(-1), v_WKNE)


@pytest.mark.usefixtures("packed_kernel_on_cpu")
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
@pytest.mark.parametrize("keys", [7, 4])
def test_windows_without_text_compute_the_written_out_softmax(backend: AttentionBackend, keys: int) -> None:
    heads = _batch(keys)
    torch.testing.assert_close(attend_batch(*heads, backend=backend), _batch_by_hand(*heads), atol=1e-5, rtol=1e-5)
    q, k, v = heads
    shared = (q, k[:1].expand(3, -1, -1, -1), v[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(attend_batch(*shared, backend=backend), _batch_by_hand(*shared), atol=1e-5, rtol=1e-5)


def test_the_dense_form_differentiates_like_the_written_out_one() -> None:
    grads = []
    for attend in (lambda v, t: attend_windows(v, t, _band(), backend="sdpa", text_queries=True), _by_hand):
        video, text = (Heads(*(x.clone().requires_grad_() for x in heads)) for heads in (_heads(28), _heads(5)))
        out, text_sum = attend(video, text)
        assert text_sum is not None
        grads.append(torch.autograd.grad(out.square().sum() + text_sum.sin().sum(), (*video, *text)))
    for ours, by_hand in zip(*grads, strict=True):
        torch.testing.assert_close(ours, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["varlen", "flash"])
def test_a_kernel_that_cannot_run_says_why_and_names_the_one_that_can(backend: AttentionBackend) -> None:
    with pytest.raises(DeploymentError, match=f"{backend}.*choose 'sdpa'"):
        require_backend(backend, torch.device("cpu"), torch.bfloat16)


def test_a_packed_kernel_refuses_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "missing_reason", lambda backend: None)
    with pytest.raises(DeploymentError, match="bfloat16 or float16.*float32"):
        require_backend("varlen", torch.device("cuda"), torch.float32)


def test_available_backends_are_those_without_a_reason() -> None:
    assert [b for b in attention.BACKENDS if missing_reason(b) is None] == list(available_backends())
    assert available_backends()[0] == "sdpa"


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["sdpa", "varlen", "flash"])
@pytest.mark.parametrize("text_queries", [False, True])
def test_kernels_agree_on_a_gpu(backend: AttentionBackend, text_queries: bool) -> None:
    if (reason := missing_reason(backend)) is not None:
        pytest.skip(reason)
    video, text = (Heads(*(x.to("cuda", torch.bfloat16) for x in _heads(n, 128))) for n in (28, 5))
    expected_video, expected_text = _by_hand(*(Heads(*(x.float() for x in heads)) for heads in (video, text)))
    out, text_sum = attend_windows(video, text, _band("cuda"), backend=backend, text_queries=text_queries)
    torch.testing.assert_close(out.float(), expected_video, atol=2e-2, rtol=2e-2)
    if text_sum is not None:
        torch.testing.assert_close(text_sum, expected_text, atol=5e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["sdpa", "varlen", "flash"])
@pytest.mark.parametrize("keys", [7, 4])
def test_kernels_agree_on_windows_without_text_on_a_gpu(backend: AttentionBackend, keys: int) -> None:
    if (reason := missing_reason(backend)) is not None:
        pytest.skip(reason)
    heads = tuple(x.to("cuda", torch.bfloat16) for x in _batch(keys, 128))
    out = attend_batch(*heads, backend=backend)
    torch.testing.assert_close(out.float(), _batch_by_hand(*(x.float() for x in heads)), atol=2e-2, rtol=2e-2)
