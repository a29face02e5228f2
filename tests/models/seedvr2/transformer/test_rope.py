"""Rotary embedding: the published angles, and rotations that are rotations."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B, DiTConfig
from seedvr2_ray.models.seedvr2.transformer.rope import (
    rope_frequencies,
    rotate,
    rotation_table,
    text_angles,
    video_angles,
)

RELEASED = {"3b": SEEDVR2_3B, "7b": SEEDVR2_7B}
HEAD_DIMS = {"full": 128, "tiny": 32}


def _packed_angles(config: DiTConfig, vectors: dict[str, Tensor], text_lengths: list[int]) -> Tensor:
    shapes = [(t, y, x) for t, y, x in vectors["shapes"].tolist()]
    return torch.cat([video_angles(config, shape, length) for shape, length in zip(shapes, text_lengths, strict=True)])


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_angles_are_the_published_ones(golden: Callable[[str], dict[str, Tensor]], variant: str, size: str) -> None:
    vectors = golden(f"rope.{variant}.{size}")
    config = replace(RELEASED[variant], head_dim=HEAD_DIMS[size])
    torch.testing.assert_close(rope_frequencies(config), vectors["freqs"], atol=0, rtol=1e-6)
    lengths = golden(f"rope.{variant}.full")["txt_len"].flatten().tolist() if variant == "3b" else [1] * 4
    pairs = _packed_angles(config, vectors, lengths)
    num_rotated = vectors["vid_angles"].shape[1] // 2
    expected = vectors["vid_angles"][:, ::2]
    torch.testing.assert_close(pairs[:, :num_rotated], expected, atol=2e-6, rtol=2e-7)
    assert not pairs[:, num_rotated:].any()


def test_video_rotations_are_the_published_ones(golden: Callable[[str], dict[str, Tensor]], variant: str) -> None:
    vectors = golden(f"rope.{variant}.full")
    lengths = vectors["txt_len"].flatten().tolist() if variant == "3b" else [1] * 4
    angles = _packed_angles(RELEASED[variant], vectors, lengths)
    torch.testing.assert_close(rotate(vectors["q"], rotation_table(angles)), vectors["out_q"], atol=2e-6, rtol=1e-5)


def test_text_rotations_are_the_published_ones(golden: Callable[[str], dict[str, Tensor]]) -> None:
    vectors = golden("rope.3b.full")
    angles = torch.cat([text_angles(SEEDVR2_3B, length) for length in vectors["txt_len"].flatten().tolist()])
    torch.testing.assert_close(angles[:, :63], vectors["txt_angles"][:, ::2], atol=2e-6, rtol=2e-7)
    turned = rotate(vectors["txt_q"], rotation_table(angles))
    torch.testing.assert_close(turned, vectors["out_txt_q"], atol=2e-6, rtol=1e-5)


def test_the_compiled_form_turns_like_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = torch.randn(24, 3, 128)
    table = rotation_table(video_angles(SEEDVR2_7B, (2, 3, 4), 5))
    eager = rotate(heads, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(heads, table), eager, atol=1e-6, rtol=1e-6)


def test_rotation_keeps_lengths_and_passes_trailing_channels(variant: str) -> None:
    heads = torch.randn(30, 2, 128)
    turned = rotate(heads, rotation_table(video_angles(RELEASED[variant], (2, 3, 5), 7)))
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    first = {"3b": 126, "7b": 60}[variant]
    assert torch.equal(turned[..., first:], heads[..., first:])
    assert not torch.equal(turned[..., first - 2 : first], heads[..., first - 2 : first])


def test_attention_scores_of_3b_depend_on_distances_only() -> None:
    heads = torch.randn(1, 1, 128).expand(60, 1, 128)
    near = rotate(heads, rotation_table(video_angles(SEEDVR2_3B, (3, 4, 5), 0)))
    far = rotate(heads, rotation_table(video_angles(SEEDVR2_3B, (3, 4, 5), 58)))
    scores = [torch.einsum("ine,jne->ij", x.double(), x.double()) for x in (near, far)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-3, rtol=1e-4)
