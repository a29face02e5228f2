"""The transformer gives the published numbers, whatever way it is carried out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models.swiftvr.config import SWIFTVR
from seedvr2_ray.models.swiftvr.execution import Execution
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer, parameter_dtype
from seedvr2_ray.models.swiftvr.windows import plan_grid
from tests.models.swiftvr.tiny import CASES, CONFIG, golden, load_prompt, load_transformer

GOLDEN = golden("transformer")
KEYS = json.loads((Path(__file__).parents[2] / "data" / "keys_swiftvr.json").read_text())


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Waiting for a second thread costs more than these small tensors do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def _assert_close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("case", list(CASES["transformer"]))
def test_velocities_are_the_published_ones(case):
    transformer = load_transformer(tuple(CASES["transformer"][case]["window"]))
    _assert_close(transformer(GOLDEN[f"{case}.latent"]), GOLDEN[f"{case}.velocity"])


def test_conditions_are_the_published_ones():
    embedder = load_transformer(folded=False).condition_embedder
    temb, tproj = embedder.embed_time(torch.tensor([1000.0]))
    _assert_close(temb, GOLDEN["caseA.temb"])
    _assert_close(tproj, GOLDEN["caseA.timestep_proj"])
    _assert_close(embedder.text_embedder(load_prompt()), GOLDEN["caseA.context"][0])


def test_every_stage_is_the_published_one():
    transformer = load_transformer((4, 4))
    plan = plan_grid(transformer.config, (3, 10, 7), torch.device("cpu"))
    tokens = transformer.to_tokens(GOLDEN["caseA.latent"])
    _assert_close(tokens, GOLDEN["caseA.tokens_in"])
    for layer, block in enumerate(transformer.blocks):
        given = tokens.clone()
        tables = plan.tables[layer % 2]
        tokens = block(tokens, tables, plan.rotations_LP2, Execution(band_tokens=64))
        _assert_close(tokens, GOLDEN[f"caseA.block{layer}.out"])
        if layer > 1:
            continue
        entered = block.enter_attention(given)
        _assert_close(entered, GOLDEN[f"caseA.block{layer}.attn1_in"])
        change = block.attn1(block.attn1.project(entered, plan.rotations_LP2), tables, attention="sdpa")
        _assert_close(change, GOLDEN[f"caseA.block{layer}.attn1_out"])
        between = given + block.modulation_6D[2] * change
        change = block.attn2(block.norm2(between), attention="sdpa")
        _assert_close(change, GOLDEN[f"caseA.block{layer}.attn2_out"])
        _assert_close(block.ffn(block.enter_ffn(between + change)), GOLDEN[f"caseA.block{layer}.ffn_out"])
    _assert_close(transformer.project_out(tokens), GOLDEN["caseA.proj_out"])


def test_bfloat16_stays_near_the_published_bfloat16():
    velocity = load_transformer((4, 4), dtype=torch.bfloat16)(GOLDEN["caseA.latent"])
    assert velocity.dtype == torch.bfloat16
    _assert_close(velocity.float(), GOLDEN["caseA.velocity_bf16_cpu"].float(), atol=6e-2)


@pytest.mark.parametrize("band_tokens", [1, 50, 10_000])
def test_bands_change_nothing(band_tokens):
    velocity = load_transformer((4, 4))(GOLDEN["caseA.latent"], Execution(band_tokens=band_tokens))
    _assert_close(velocity, GOLDEN["caseA.velocity"])


def test_folding_drops_every_weight_that_only_made_constants():
    released, folded = load_transformer(folded=False), load_transformer()
    dropped = released.state_dict().keys() - folded.state_dict().keys()
    assert folded.state_dict().keys() <= released.state_dict().keys()
    assert {name.partition(".")[0] for name in dropped} == {"condition_embedder", "blocks", "scale_shift_table"}
    assert {name.split(".", 2)[2] for name in dropped if name.startswith("blocks.")} == {
        "scale_shift_table",
        "attn2.to_k.weight",
        "attn2.to_k.bias",
        "attn2.to_v.weight",
        "attn2.to_v.bias",
        "attn2.norm_k.weight",
    }


def test_every_block_keeps_no_number_twice():
    block = load_transformer().blocks[0]
    addresses = [tensor.data_ptr() for tensor in [*block.parameters(), *block.buffers()]]
    assert len(addresses) == len(set(addresses))
    elements = sum(tensor.numel() for tensor in [*block.parameters(), *block.buffers()])
    width, ffn, prompt = 40, 96, 7
    linear = 6 * width * (width + 1) + ffn * (width + 1) + width * (ffn + 1)
    # What is left: six products of width x width, the MLP, norms, modulation, and the prompt's keys and values.
    assert elements == linear + (2 + 1) * width + 2 * width + 6 * width + 2 * prompt * width


def test_what_is_folded_away_is_loaded_in_full_precision():
    names = load_transformer(folded=False).state_dict()
    in_full = {name for name in names if parameter_dtype(torch.bfloat16, name) == torch.float32}
    assert {name.split(".")[0] for name in in_full} == {"condition_embedder", "blocks", "scale_shift_table"}
    assert {name.split(".")[2] for name in in_full if name.startswith("blocks.")} == {"scale_shift_table"}


def test_names_and_shapes_of_the_released_model_are_the_published_ones():
    with torch.device("meta"):
        transformer = SwiftVRTransformer(SWIFTVR.transformer)
    shapes = {name: list(tensor.shape) for name, tensor in transformer.state_dict().items()}
    assert shapes == KEYS["transformer"]
    assert len(shapes) == 825
    assert sum(tensor.numel() for tensor in transformer.state_dict().values()) == 4_999_787_712


def test_a_kernel_that_is_not_there_is_refused():
    with pytest.raises(DeploymentError, match="attention 'varlen' cannot be used"):
        load_transformer()(GOLDEN["caseA.latent"], Execution(attention="varlen"))


def test_latents_that_cannot_be_cut_into_patches_are_refused():
    with pytest.raises(ValueError, match="pad the picture first"):
        load_transformer()(torch.zeros(1, 8, 1, 5, 6))
    with pytest.raises(ValueError, match="must be B x 8 x T x H x W"):
        load_transformer()(torch.zeros(1, 7, 1, 4, 6))


def test_the_place_of_a_chunk_in_its_stream_does_not_matter():
    # The published numbers of this case were computed 1020 latents into a stream.
    assert CASES["transformer"]["caseC"]["t_off"] == 1020
    config = replace(CONFIG.transformer, window=(2, 3))
    assert plan_grid(config, (2, 5, 7), torch.device("cpu")).rotations_LP2[0, :, 0].eq(1.0).all()
