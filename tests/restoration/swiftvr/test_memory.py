"""What SwiftVR needs is known before it is allocated, and grows with what is asked for."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.virtual_device import counting, virtual_device
from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.swiftvr.config import SWIFTVR
from seedvr2_ray.models.swiftvr.reae import ReAE, run_layers
from seedvr2_ray.models.swiftvr.stream import SwiftVR
from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer
from seedvr2_ray.models.swiftvr.windows import plan_grid
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import MemoryCosts
from seedvr2_ray.restoration.swiftvr.memory import (
    _past_numbers,
    describe_swiftvr,
    foresee_swiftvr,
    padded_size,
    plan_swiftvr_memory,
    predict_swiftvr,
)
from tests.models.swiftvr.tiny import CONFIG, load_model

NO_SCRATCH = replace(MemoryCosts.for_device("NVIDIA H100"), workspace_bytes=0)
GPU = MemoryCosts.for_device("NVIDIA H100")
GIB = 2**30


@pytest.fixture(scope="module")
def released():
    return foresee_swiftvr(SWIFTVR, torch.bfloat16)


@pytest.mark.slow
def test_what_is_foreseen_of_unloaded_networks_is_what_loaded_ones_take():
    assert foresee_swiftvr(CONFIG, torch.float32) == describe_swiftvr(load_model())


@pytest.mark.slow
def test_the_released_networks_take_less_than_their_file_because_constants_are_folded(released):
    # 5.04 thousand million numbers of two bytes, less the keys' and values' weights and the embedders.
    assert 8.5e9 < released.weight_bytes < 9.1e9


def test_what_a_stream_remembers_is_counted_exactly():
    reae = ReAE(CONFIG.reae).requires_grad_(False)
    _, encoder = reae.encode(torch.zeros(4, 3, 32, 64), None)
    _, decoder = run_layers(reae.decoder, torch.zeros(1, 8, 2, 4), None)
    assert sum(memory.numel() for memory in (*encoder, *decoder)) == _past_numbers(CONFIG) * 32 * 64


def test_sides_are_padded_to_whole_tokens():
    assert padded_size(Geometry(source_width=1, source_height=1, width=1920, height=1080), SWIFTVR) == (1088, 1920)


def test_more_memory_means_more_latents_at_once(released):
    chosen = [plan_swiftvr_memory(released, GPU, 1440, 2560, gib * GIB).latents_at_once for gib in (20, 24, 30, 80)]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1] == SWIFTVR.clip_latents + 1


def test_a_plan_never_needs_more_than_there_is(released):
    for gib in range(16, 80, 4):
        plan = plan_swiftvr_memory(released, GPU, 1088, 1920, gib * GIB)
        assert plan.stages.peak <= plan.available_bytes * (1 - GPU.reserve_share)


def test_1440p_fits_into_what_the_authors_report(released):
    assert plan_swiftvr_memory(released, GPU, 1440, 2560, 38 * GIB).stages.peak < 38 * GIB


def test_larger_pictures_and_more_at_once_need_more(released):
    sizes = [(736, 1280), (1088, 1920), (1440, 2560), (2176, 3840)]
    peaks = [predict_swiftvr(released, GPU, height, width, 2) for height, width in sizes]
    for small, large in pairwise(peaks):
        assert small.encode < large.encode and small.transform < large.transform and small.decode < large.decode
    assert predict_swiftvr(released, GPU, 1440, 2560, 1).decode < predict_swiftvr(released, GPU, 1440, 2560, 7).decode


def test_what_does_not_fit_says_how_much_is_missing_and_the_way_out(released):
    with pytest.raises(
        CapacityError, match=r"3840x2176 with SwiftVR needs 1\d\.\d GiB and 7\.\d GiB can be used; choose"
    ):
        plan_swiftvr_memory(released, replace(GPU, workspace_bytes=0), 2176, 3840, 8 * GIB)


def _virtual(network, dtype):
    """Put a network's shapes onto the device without data."""
    for name, parameter in list(network.named_parameters()):
        owner = network.get_submodule(name.rpartition(".")[0]) if "." in name else network
        weights = torch.empty(parameter.shape, device=virtual_device(), dtype=dtype)
        owner._parameters[name.rpartition(".")[2]] = torch.nn.Parameter(weights, requires_grad=False)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("latents_at_once", [1, 6])
def test_what_is_planned_covers_what_a_device_without_data_counts(latents_at_once):
    # Fewer layers than released, which changes the weights and not what a layer needs beside them.
    config = replace(SWIFTVR, transformer=replace(SWIFTVR.transformer, num_layers=2))
    height, width = 736, 1280
    plan_grid.cache_clear()
    with torch.inference_mode(), counting() as tally:
        with torch.device("meta"):
            transformer, reae = SwiftVRTransformer(config.transformer), ReAE(config.reae)
        device, bfloat16 = virtual_device(), torch.bfloat16
        _virtual(transformer, bfloat16), _virtual(reae, bfloat16)
        transformer.fold(torch.empty(512, 4096, device=device))
        facts = describe_swiftvr(SwiftVR(config=config, transformer=transformer, reae=reae))
        assert facts.weight_bytes == tally.live_bytes
        encoder = decoder = None
        for _ in range(2):
            with tally.watch("encode"):
                frames = torch.empty(4 * latents_at_once, 3, height, width, device=device, dtype=bfloat16)
                latents, encoder = reae.encode(frames, encoder)
                del frames
            with tally.watch("transform"):
                transformer(torch.empty(1, 48, 7, height // 16, width // 16, device=device, dtype=bfloat16))
            with tally.watch("decode"):
                _, decoder = reae.decode(latents, decoder)
                del _
    plan_grid.cache_clear()
    planned = predict_swiftvr(facts, NO_SCRATCH, height, width, latents_at_once)
    for stage in ("encode", "transform", "decode"):
        counted = tally.stages[stage].peak_bytes
        assert counted <= getattr(planned, stage) <= 1.5 * counted, stage
