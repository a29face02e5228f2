"""Positions and the timestep become the published numbers."""

import torch

from seedvr2_ray.models.seedvr2.transformer.rope import rotate, rotation_table
from seedvr2_ray.models.swiftvr.conditioning import time_sinusoid
from seedvr2_ray.models.swiftvr.rope import axis_angles, split_head, token_angles
from tests.models.swiftvr.tiny import golden

GOLDEN = golden("rope")


def _assert_close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual.float(), expected, atol=atol, rtol=0)


def test_a_head_is_split_between_time_height_and_width():
    assert split_head(128) == (44, 42, 42)
    assert split_head(20) == (8, 6, 6)


def test_angles_of_positions_are_the_published_ones():
    angles = torch.cat([axis_angles(GOLDEN["hd128.positions"], size) for size in split_head(128)], dim=1)
    _assert_close(angles.cos().repeat_interleave(2, dim=1), GOLDEN["hd128.cos_rows"])
    _assert_close(angles.sin().repeat_interleave(2, dim=1), GOLDEN["hd128.sin_rows"])


def test_positions_beyond_the_published_table_follow_the_formula():
    # The published code extrapolates there and is itself off by 2.5e-5.
    angles = torch.cat([axis_angles(GOLDEN["hd128.ext_positions"], size) for size in split_head(128)], dim=1)
    _assert_close(angles.cos().repeat_interleave(2, dim=1), GOLDEN["hd128.ext_cos_rows_fp32"], atol=1e-4)
    _assert_close(angles.sin().repeat_interleave(2, dim=1), GOLDEN["hd128.ext_sin_rows_fp32"], atol=1e-4)


def test_angles_of_a_grid_are_the_published_ones():
    for head_dim in (128, 20):
        angles = token_angles((2, 3, 4), head_dim, first_frame=5).repeat_interleave(2, dim=1)[None, :, None]
        _assert_close(angles.cos(), GOLDEN[f"hd{head_dim}.grid_T2_H3_W4_toff5.cos"])
        _assert_close(angles.sin(), GOLDEN[f"hd{head_dim}.grid_T2_H3_W4_toff5.sin"])


def test_heads_are_turned_as_published():
    rotations = rotation_table(token_angles((2, 3, 4), 128, first_frame=5)).float()
    _assert_close(rotate(GOLDEN["hd128.rot_in"], rotations), GOLDEN["hd128.rot_out"])


def test_the_timestep_becomes_cosines_then_sines():
    wave, expected = time_sinusoid(GOLDEN["sinusoid256.t"], 256), GOLDEN["sinusoid256.emb"]
    # The last bit of a frequency is the processor's exp(), and at t = 1000 it moves an angle by 3e-5.
    _assert_close(wave, expected, atol=4e-5)
    assert ((wave - expected).abs() > 1e-5).float().mean() < 0.01
