"""The autoencoder gives the published numbers, and any cut of a stream gives those of the whole."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seedvr2_ray.models.swiftvr.config import SWIFTVR
from seedvr2_ray.models.swiftvr.reae import Grow, GrowInTime, MemoryBlock, ReAE, run_layers
from tests.models.swiftvr.tiny import CASES, golden, load_reae

GOLDEN = golden("reae")
KEYS = json.loads((Path(__file__).parents[2] / "data" / "keys_swiftvr.json").read_text())
VIDEO = GOLDEN["video"][0]
LEADING = 3


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Waiting for a second thread costs more than these small tensors do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reae():
    return load_reae()


def _assert_close(actual, expected, name=""):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0, msg=lambda text: f"{name}: {text}")


def _repeat_last(frames, times):
    return torch.cat([frames, frames[-1:].expand(times, -1, -1, -1)])


@pytest.mark.slow
def test_chunks_of_a_stream_are_the_published_ones(reae):
    encoded = decoded = None
    chunks = {"first": VIDEO[:12], "middle": VIDEO[12:20], "last": _repeat_last(VIDEO[20:], 3)}
    for name, frames in chunks.items():
        latents, encoded = reae.encode(frames, encoded)
        _assert_close(latents, GOLDEN[f"{name}.latent"][0], name)
        pictures, decoded = reae.decode(latents, decoded)
        pictures = pictures.clamp(0, 1)
        _assert_close(pictures[LEADING:] if name == "first" else pictures, GOLDEN[f"{name}.rgb"][0], name)
        if name == "middle":
            _assert_remembers(reae.encoder, encoded, "encoder")
            _assert_remembers(reae.decoder, decoded, "decoder")


def _assert_remembers(layers, memories, part):
    places = [place for place, layer in enumerate(layers) if isinstance(layer, MemoryBlock)]
    assert len(places) == len(memories) == 9
    for place, memory in zip(places, memories, strict=True):
        _assert_close(memory, GOLDEN[f"state_after_middle.{part}.mem_{place}"][0], f"{part} {place}")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_layer_is_the_published_one(reae, part):
    first, middle = VIDEO[:12], VIDEO[12:20]
    if part == "encoder":
        layers, given = reae.encoder, [F.pixel_unshuffle(frames, 2) for frames in (first, middle)]
    else:
        layers, given = reae.decoder, [GOLDEN["first.latent"][0], GOLDEN["middle.latent"][0]]
    _, memories = run_layers(layers, given[0], None)
    x, used = given[1], 0
    published = {int(name.rpartition(".")[2]) for name in GOLDEN if name.startswith(f"middle.layer.{part}.")}
    for place, layer in enumerate(layers):
        if isinstance(layer, MemoryBlock):
            x, used = layer(x, memories[used]), used + 1
        else:
            x = layer(x)
        # Where the published network enlarges, ours does so one layer later: the mix of channels comes first.
        if place in published and not isinstance(layer, nn.Identity):
            _assert_close(x, GOLDEN[f"middle.layer.{part}.{place}"], f"{part} {place}")
    assert len(published) >= 11


def test_decoding_is_the_published_one_before_it_is_clamped(reae):
    squares, _ = run_layers(reae.decoder, GOLDEN["decode_raw.latent"][0], None)
    _assert_close(squares, GOLDEN["decode_raw.out_ntchw_12ch"][0])


def test_frames_in_groups_as_they_come_give_the_published_latents(reae):
    waiting, memories, start = VIDEO[:0], None, 0
    for step, size in enumerate(CASES["reae_generic_steps"]):
        waiting = torch.cat([waiting, VIDEO[start : start + size]])
        start += size
        usable = len(waiting) // 4 * 4
        expected = GOLDEN[f"generic.step{step}.latent"]
        assert bool(usable) == bool(expected.numel())
        if usable:
            latents, memories = reae.encode(waiting[:usable], memories)
            waiting = waiting[usable:]
            _assert_close(latents, expected[0])
    latents, _ = reae.encode(_repeat_last(waiting, 4 - len(waiting)), memories)
    _assert_close(latents, GOLDEN["generic.flush.latent"][0])


@pytest.mark.parametrize("cuts", [(4, 16), (8, 12), (4, 4, 4, 4, 4), (16, 4)])
def test_a_stream_in_pieces_gives_what_the_whole_gives(reae, cuts):
    frames = VIDEO[:20]
    whole, _ = reae.encode(frames, None)
    memories, pieces = None, []
    for piece in frames.split(list(cuts)):
        latents, memories = reae.encode(piece, memories)
        pieces.append(latents)
    _assert_close(torch.cat(pieces), whole)

    pictures, _ = reae.decode(whole, None)
    memories, pieces = None, []
    for piece in whole.split([cut // 4 for cut in cuts]):
        decoded, memories = reae.decode(piece, memories)
        pieces.append(decoded)
    _assert_close(torch.cat(pieces), pictures)


def test_what_a_stream_remembers_keeps_nothing_else_alive(reae):
    _, memories = reae.encode(VIDEO[:12], None)
    assert all(memory.untyped_storage().nbytes() == memory.numel() * 4 for memory in memories)


def test_two_streams_through_one_network_do_not_meet(reae):
    other = VIDEO.flip(0)
    alone, _ = reae.encode(VIDEO[8:16], reae.encode(VIDEO[:8], None)[1])
    _, mine = reae.encode(VIDEO[:8], None)
    _, others = reae.encode(other[:8], None)
    reae.encode(other[8:16], others)
    assert torch.equal(reae.encode(VIDEO[8:16], mine)[0], alone)


def test_mixing_channels_before_enlarging_is_exact():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 5, 4)
    grow, in_time = Grow(6), GrowInTime(6)
    _assert_close(grow(x), grow.proj(F.interpolate(x, scale_factor=2.0, mode="nearest")))
    enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
    # As it is defined: each frame twice, and three taps in time with nothing around the pair.
    pairs = torch.stack([enlarged, enlarged], dim=2)
    taps = F.conv3d(pairs, in_time.conv3d.weight, padding=(1, 0, 0))
    _assert_close(in_time(x), taps.transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize("num_frames", [0, 1, 3, 5])
def test_frames_that_fill_no_group_are_refused(reae, num_frames):
    with pytest.raises(ValueError, match="groups of 4"):
        reae.encode(VIDEO[:num_frames], None)


def test_names_and_shapes_of_the_released_model_are_the_published_ones():
    with torch.device("meta"):
        reae = ReAE(SWIFTVR.reae)
    shapes = {name: list(tensor.shape) for name, tensor in reae.state_dict().items()}
    assert shapes == KEYS["reae"]
    assert sum(tensor.numel() for tensor in reae.state_dict().values()) == 40_946_364
