import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.swiftvr import TINY, build_random
from benchmarks.swiftvr_plain import plain_decode, plain_encode, plain_velocity, random_reae, random_transformer
from seedvr2_ray.models.swiftvr.reae import ReAE
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer, parameter_dtype
from tests.benchmarks.test_benchmark_models import ABSENT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_streams_are_measured_with_torch_alone(tmp_path):
    program = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None
sys.argv = ["swiftvr", "--size", "tiny", "--frames", "21", "--resolutions", "64x48", "--results", {str(tmp_path)!r}]
from benchmarks import swiftvr
swiftvr.main()
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    (path,) = tmp_path.glob("swiftvr-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert "failed" not in row, row
    assert (row["frames"], row["padded"], row["chunk_frames"]) == (21, [64, 64], 8)
    assert set(row["stages"]) == {"encode", "transform", "decode", "finish"}
    assert row["seconds"] >= sum(stage["seconds"] for stage in row["stages"].values()) * 0.99
    assert 0 < row["chunk_latency_seconds"]["median"] <= row["chunk_latency_seconds"]["longest"]
    assert row["stages"]["decode"]["tflop"] > row["stages"]["encode"]["tflop"]


@torch.no_grad()
def test_the_plain_writing_and_ours_give_the_same_numbers():
    state, prompt = random_transformer(TINY.transformer), torch.randn(7, 24)
    transformer = SwiftVRTransformer(TINY.transformer)
    transformer.load_state_dict(state)
    transformer.fold(prompt)
    latents = torch.randn(8, 3, 12, 22)
    expected = plain_velocity(state, TINY.transformer, latents, prompt)
    torch.testing.assert_close(transformer(latents[None])[0], expected, atol=1e-4, rtol=1e-4)

    weights = random_reae(TINY.reae)
    reae = ReAE(TINY.reae)
    reae.load_state_dict(weights)
    frames, latents = torch.rand(8, 3, 32, 48), torch.randn(2, 8, 2, 3)
    torch.testing.assert_close(reae.encode(frames, None)[0], plain_encode(weights, frames), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reae.decode(latents, None)[0], plain_decode(weights, latents), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_random_networks_are_folded_and_in_the_types_of_loaded_ones():
    model = build_random(TINY, torch.device("cpu"), torch.bfloat16)
    assert model.transformer.condition_embedder is None
    for name, parameter in model.transformer.named_parameters():
        assert parameter.dtype == parameter_dtype(torch.bfloat16, name) == torch.bfloat16
    assert model.reae.dtype == torch.bfloat16
