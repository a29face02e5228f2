"""The order of steps against the stages' own way of pulling from one another."""

import pytest

from seedvr2_ray.restoration.planning.schedule import Lengths, Step, distinct_steps


def _lengths(num_latents, slice_latents=2, chunk_latents=6, overlap=2, **options):
    return Lengths(
        num_latents=num_latents,
        slice_latents=slice_latents,
        chunk_latents=chunk_latents,
        chunk_overlap=min(overlap, chunk_latents - 1, num_latents - 1),
        **{"encode_first": False, "decode_last": False, **options},
    )


def _of(steps, stage):
    return [step for step in steps if step.stage == stage]


@pytest.mark.parametrize("num_latents", range(1, 30))
@pytest.mark.parametrize("slice_latents", [1, 2, 4])
def test_slices_hold_every_latent_once(num_latents, slice_latents):
    slices = list(_lengths(num_latents, slice_latents).slices())
    assert sum(slices) == num_latents
    assert all(length <= slice_latents for length in slices[1:])
    assert slices[0] <= 1 + slice_latents


def test_a_segment_of_one_slice_remembers_nothing():
    steps = distinct_steps(_lengths(3))
    assert not any(step.encoder_remembers or step.decoder_remembers for step in steps)
    assert {step.stage for step in steps} == {"encode", "transform", "decode"}


def test_both_memories_exist_at_once_only_while_there_is_more_to_encode():
    steps = distinct_steps(_lengths(40))
    assert any(step.encoder_remembers and step.decoder_remembers for step in _of(steps, "transform"))
    assert any(step.decoder_remembers for step in _of(steps, "encode"))
    short = distinct_steps(_lengths(6))
    assert not any(step.encoder_remembers for step in _of(short, "transform") + _of(short, "decode"))


def test_encoding_first_leaves_nothing_of_the_encoder_and_decoding_last_nothing_of_the_decoder_to_others():
    steps = distinct_steps(_lengths(40, encode_first=True, decode_last=True))
    assert not any(step.encoder_remembers for step in _of(steps, "transform") + _of(steps, "decode"))
    assert not any(step.decoder_remembers for step in _of(steps, "transform") + _of(steps, "encode"))


def test_only_the_last_decoded_slice_need_not_be_remembered():
    last = [step for step in distinct_steps(_lengths(40)) if step.is_last]
    assert [step.stage for step in last] == ["decode"]
    assert Step(
        stage="decode",
        num_latents=last[0].num_latents,
        starts_clip=False,
        encoder_remembers=False,
        decoder_remembers=True,
        is_last=True,
    ) in distinct_steps(_lengths(40))
