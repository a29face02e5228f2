"""Whole streams are the published ones, and how a stream is cut changes nothing."""

import random
from dataclasses import replace

import pytest
import torch

from seedvr2_ray.frames import to_codes
from seedvr2_ray.models.swiftvr.execution import Execution
from seedvr2_ray.models.swiftvr.schedule import Intake, plan_schedule
from seedvr2_ray.models.swiftvr.stream import (
    EncoderState,
    decode_latents,
    encode_chunk,
    front_of,
    prepare_frames,
    restore_latents,
)
from tests.models.swiftvr.tiny import CASES, golden, load_model

OFFLINE, STREAM, PREPARED = golden("offline"), golden("stream"), golden("preprocess")


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


def _assert_close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def _unit(codes_THWC):
    return codes_THWC.permute(0, 3, 1, 2).float() / 255


def run_pushes(model, pushes, *, latents_at_once=None, execution=None):
    """Restore a stream of prepared frames; returns degraded and restored latents, and the frames."""
    intake, encoder, decoder = Intake(clip_frames=model.config.clip_frames), EncoderState(), None
    degraded, restored, frames = [], [], []
    num_frames = sum(len(push) for push in pushes)

    def run(chunks, encoder, decoder):
        for ready in chunks:
            front = front_of(ready.chunk, encoder, model.config)
            recent = encoder.recent_TCHW
            items = torch.stack(ready.items)
            latents, encoder = encode_chunk(model, torch.split(items, 4 * (latents_at_once or len(items))), encoder)
            degraded.append(latents)
            restored.append(restore_latents(model, latents, recent, front=front, execution=execution or Execution()))
            for piece in torch.split(restored[-1], latents_at_once or len(latents)):
                decoded, decoder = decode_latents(model, piece, decoder)
                frames.append(decoded.clamp(0, 1))
        return encoder, decoder

    for push in pushes:
        ready, intake = intake.take(list(push))
        encoder, decoder = run(ready, encoder, decoder)
    run(intake.finish(), encoder, decoder)
    return torch.cat(degraded), torch.cat(restored), torch.cat(frames)[:num_frames]


def _offline_case(name):
    case = CASES["offline"][name]
    model = load_model(window=tuple(case["window"]), clip_frames=case["clip_len"], overlap=case["dit_overlap"])
    codes = OFFLINE[f"{name}.frames_u8"]
    # As the published file API takes a file: sides cut to multiples of 8, and the frames that fill no latent dropped.
    _, height, width, _ = codes.shape
    codes = codes[: case["frames_written"], : height // 8 * 8, : width // 8 * 8]
    width, height = case.get("resolution") or [side * case["upscale"] for side in (codes.shape[2], codes.shape[1])]
    return model, prepare_frames(_unit(codes), height, width, model.config.multiple), (height, width)


@pytest.mark.parametrize("name", list(CASES["offline"]))
def test_restored_files_are_the_published_ones(name):
    model, frames, (height, width) = _offline_case(name)
    degraded, restored, pictures = run_pushes(model, [frames])
    _assert_close(degraded, OFFLINE[f"{name}.lq_latents"][0])
    _assert_close(restored, OFFLINE[f"{name}.hq_latents"][0])
    if name == "main":
        _assert_close(pictures[::5], OFFLINE["main.rgb_padded_f32"][0])
    # The published code cuts where ours rounds, so ours is at most a level higher and never lower.
    codes = to_codes(pictures[::5, :, :height, :width], torch.uint8).permute(0, 2, 3, 1)
    published = OFFLINE[f"{name}.out_u8"]
    difference = codes.int() - published.int()
    assert int(difference.abs().max()) <= 1
    assert (difference < 0).float().mean() < 1e-4


@pytest.mark.parametrize("name", list(CASES["stream"]))
def test_steps_of_a_session_are_the_published_ones(name):
    # The published session makes a chunk of every call, and fills the last one up to four frames.
    case = CASES["stream"][name]
    model = load_model(window=tuple(case["window"]))
    (height, width), scale = case["hw"], case["upscale"]
    frames = prepare_frames(_unit(STREAM[f"{name}.frames_u8"]), height * scale, width * scale, 32)
    encoder, decoder, start, waiting = EncoderState(), None, 0, frames[:0]
    steps = [*((f"step{i}", size) for i, size in enumerate(case["steps"])), ("flush", 0)]
    for step, size in steps:
        waiting, start = torch.cat([waiting, frames[start : start + size]]), start + size
        if step == "flush" and len(waiting):
            waiting = torch.cat([waiting, waiting[-1:].expand(-len(waiting) % 4, -1, -1, -1)])
        usable = len(waiting) // 4 * 4
        expected = STREAM.get(f"{name}.{step}.rgb")
        assert bool(usable) == (expected is not None)
        if expected is None:
            continue
        recent = encoder.recent_TCHW
        front = 0 if recent is None else case["dit_overlap"]
        latents, encoder = encode_chunk(model, [waiting[:usable]], encoder)
        waiting = waiting[usable:]
        pictures, decoder = decode_latents(model, restore_latents(model, latents, recent, front=front), decoder)
        _assert_close(pictures[..., : height * scale, : width * scale].clamp(0, 1), expected[0])


def test_prepared_frames_are_the_published_ones():
    frames = _unit(PREPARED["frames_u8"])[:, :, :24, :32]
    for name, height, width in (("up3", 72, 96), ("to80x100", 80, 100), ("down", 20, 28)):
        prepared = prepare_frames(frames, height, width, 32)
        _assert_close(prepared, PREPARED[f"{name}.out"][0], atol=1e-5)


def test_rounding_is_at_most_one_level_above_the_published_quantiser():
    difference = to_codes(PREPARED["quant.in"], torch.uint8).int() - PREPARED["quant.u8"].int()
    assert set(difference.tolist()) <= {0, 1}


def _video(num_frames, side=32):
    return torch.rand(num_frames, 3, side, side, generator=torch.Generator().manual_seed(num_frames))


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("num_frames", [1, 9, 12, 21, 26])
def test_a_stream_equals_the_same_frames_known_beforehand(num_frames, overlap):
    # Beforehand means: all frames encoded at once, chunks taken from the plan, all latents decoded at once.
    model, frames = load_model(overlap=overlap), _video(num_frames)
    chunks = plan_schedule(num_frames, model.config.clip_frames)
    num_latents = sum(chunk.num_latents for chunk in chunks)
    filled = torch.cat([frames, frames[-1:].expand(4 * num_latents - num_frames, -1, -1, -1)])
    degraded, _ = encode_chunk(model, [filled], EncoderState())
    restored, start = [], 0
    for chunk in chunks:
        stop = start + chunk.num_latents
        front = chunk.front_latents if chunk.kind == "last" else min(start, overlap)
        recent = degraded[:start] if start else None
        restored.append(restore_latents(model, degraded[start:stop], recent, front=front))
        start = stop
    pictures, _ = decode_latents(model, torch.cat(restored), None)
    streamed = run_pushes(model, [frames[i : i + 1] for i in range(num_frames)])[2]
    _assert_close(streamed, pictures[:num_frames].clamp(0, 1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [5, 12, 23])
def test_any_split_into_pushes_gives_the_same_frames(num_frames):
    model, frames, rng = load_model(), _video(num_frames), random.Random(1)
    whole = run_pushes(model, [frames])[2]
    for _ in range(4):
        cuts = sorted(rng.randint(0, num_frames) for _ in range(rng.randint(1, 6)))
        pushes = [frames[a:b] for a, b in zip([0, *cuts], [*cuts, num_frames], strict=True)]
        assert torch.equal(run_pushes(model, pushes)[2], whole)


def test_how_many_latents_go_at_once_changes_nothing():
    model, frames = load_model(), _video(23)
    whole = run_pushes(model, [frames])[2]
    for latents_at_once in (1, 2):
        execution = Execution(band_tokens=3)
        pieces = run_pushes(model, [frames], latents_at_once=latents_at_once, execution=execution)[2]
        _assert_close(pieces, whole, atol=1e-5)


@pytest.mark.slow
def test_as_many_frames_come_out_as_went_in_for_every_length():
    model = load_model()
    frames = _video(60)
    for num_frames in range(1, 61):
        assert len(run_pushes(model, [frames[:num_frames]])[2]) == num_frames


def test_latents_before_the_chunk_that_are_not_known_are_asked_for_in_vain():
    model = load_model()
    latents = torch.zeros(2, 8, 2, 2)
    with pytest.raises(ValueError, match="3 latents are wanted in front of the chunk and 2 are known"):
        restore_latents(model, latents, latents, front=3)


def test_the_length_of_a_chunk_is_the_models():
    model = load_model(clip_frames=4)
    assert replace(model.config, clip_frames=24).clip_latents == 6
    _, state = encode_chunk(model, [_video(8)], EncoderState())
    assert len(state.recent_TCHW) == 1
