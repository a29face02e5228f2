import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import padding
from seedvr2_ray.models.seedvr2.config import DiTConfig, SeedVR2Config
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.weights.catalogue import CATALOGUE, Component, ModelEntry, WeightFile

DEMO = Path(__file__).parents[2] / "examples" / "demo.mp4"
DIT = DiTConfig(
    width=8,
    num_layers=1,
    num_heads=1,
    head_dim=12,
    mlp="gelu",
    rope="video",
    num_dual_layers=0,
    has_output_modulation=False,
    modulates_last_text=True,
    text_dim=6,
    latent_channels=2,
)
VAE = VAEConfig(block_out_channels=(2, 2), norm_groups=1, num_temporal_stages=1, mid_attention=False, latent_channels=2)
NAMES = {"transformer": "dit", "vae": "vae", "positive": "pos", "negative": "neg"}
ENTRY = ModelEntry(
    name="tiny",
    summary="",
    licence="MIT",
    networks=SeedVR2Config(transformer=DIT, vae=VAE),
    components=tuple(
        Component(
            role=role,
            files=(WeightFile(name=f"{name}.safetensors", repository="owner/tiny", licence="MIT", num_gigabytes=0.0),),
        )
        for role, name in NAMES.items()
    ),
)


def test_a_change_at_the_border_is_told_from_one_inside_and_from_a_wrong_tone():
    whole = torch.full((2, 3, 40, 48), 0.5)
    border, inside = whole.clone(), whole.clone()
    border[..., -3:, :] += 0.1
    inside[..., 5:9, 5:9] += 0.1
    assert padding.compare(border, whole, whole)["interior_error"] == 0
    assert padding.compare(border, whole, whole)["border_error"] > 1
    assert padding.compare(inside, whole, whole)["border_error"] == 0
    shifted = padding.compare(whole + 2 / 255, whole, whole)
    assert shifted["tone_error"] == pytest.approx(2, abs=1e-2)
    assert shifted["border_error"] == shifted["interior_error"] == pytest.approx(2, abs=1e-2)
    assert shifted["psnr_to_truth"] == pytest.approx(42.1, abs=0.05)


@pytest.mark.slow
def test_every_rule_is_measured_on_a_checkpoint(tmp_path, monkeypatch):
    torch.manual_seed(0)
    for name, state in (("dit", SeedVR2Transformer(DIT).state_dict()), ("vae", VideoVAE(VAE).state_dict())):
        save_file(state, tmp_path / f"{name}.safetensors")
    for name in ("pos", "neg"):
        save_file({"embedding": torch.randn(3, 6)}, tmp_path / f"{name}.safetensors")
    monkeypatch.setitem(CATALOGUE, "tiny", ENTRY)
    words = ["--model", "tiny", "--clip", str(DEMO), "--frames", "2", "--max-side", "96"]
    folders = ["--weights-dir", str(tmp_path), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["padding", *words, *folders])
    padding.main()
    record = json.loads((tmp_path / "padding-tiny.json").read_text())
    assert record["size"] == "70x70"
    assert [(row["padding"], row["anchor_rows"]) for row in record["rows"]] == [
        ("reflect", 0),
        ("black", 0),
        ("reflect_black", 16),
        ("reflect_black", 32),
    ]
    reflect, black, *_ = record["rows"]
    assert black["border_error"] > reflect["border_error"] > reflect["interior_error"] > 0


def test_pictures_of_all_sizes_share_their_noise():
    small, large = (padding.draw_from_one_canvas(1, [0, 4], (side, side + 2, 3)) for side in (5, 9))
    assert small.shape == (2, 5, 7, 3)
    assert torch.equal(small, large[:, :5, :7])
