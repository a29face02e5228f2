import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seedvr2_ray.frames import to_codes, to_unit_range
from seedvr2_ray.restoration.diffusion.padding import pad_in_time
from seedvr2_ray.restoration.diffusion.preprocess import (
    from_model_range,
    preprocess_reference,
    to_model_range,
)
from seedvr2_ray.restoration.planning.reference_size import plan_reference_size
from seedvr2_ray.restoration.resize import resize_frames

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
CASES = json.loads((GOLDEN / "preprocess_geometry.json").read_text())


@pytest.mark.parametrize("case", CASES["geometry"], ids=lambda case: f"{case['in_hw']}-{case['res_h_w']}")
def test_the_reference_size_is_the_published_scripts(case):
    size = plan_reference_size(*case["in_hw"], *case["res_h_w"])
    assert [size.resized_height, size.resized_width] == case["resized_hw"]
    assert [size.height, size.width] == case["final_hw"]
    assert [size.top, size.left] == case["crop_top_left"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES["sizes"])
def test_reference_preprocessing_gives_the_published_numbers(name):
    golden = load_file(GOLDEN / "preprocess.safetensors")
    clip = to_unit_range(golden["clip_uint8"])
    size = plan_reference_size(*clip.shape[-2:], *(int(n) for n in name.split("x")))
    out_TCHW = preprocess_reference(clip, size)
    torch.testing.assert_close(out_TCHW.transpose(0, 1), golden[f"{name}.out"], atol=1e-5, rtol=0)
    if (unclamped := golden.get(f"{name}.resized_unclamped")) is not None:
        resized = resize_frames(clip, size.resized_height, size.resized_width)
        torch.testing.assert_close(resized, unclamped, atol=1e-5, rtol=0)


def test_postprocessing_gives_the_published_codes():
    golden = load_file(GOLDEN / "postprocess.safetensors")
    assert torch.equal(to_codes(from_model_range(golden["x"]), torch.uint8), golden["uint8_from_fp32"])


def test_clips_are_filled_up_to_the_published_lengths():
    table = json.loads((GOLDEN / "cut_videos.json").read_text())
    for length, padded in table["table"]["1"]:
        assert len(list(pad_in_time(range(length), length, 4, "repeat"))) == padded
    assert list(pad_in_time(range(6), 6, 4, "repeat")) == table["example_t6_sp1_frame_ids"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_codes_survive_the_way_to_the_model_and_back(dtype):
    codes = torch.arange(256 if dtype == torch.uint8 else 65536).reshape(1, 1, 16, -1).to(torch.int32).to(dtype)
    back = to_codes(from_model_range(to_model_range(to_unit_range(codes))), dtype)
    assert torch.equal(back, codes)


def test_frames_of_the_right_size_are_not_resampled():
    frames = torch.rand(1, 3, 5, 7)
    assert resize_frames(frames, 5, 7) is frames
