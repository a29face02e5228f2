from fractions import Fraction

import pytest
import torch

import seedvr2_ray as sv

SETTINGS = sv.RestoreSettings(model="lanczos", resolution="x2")


def noise(num_frames=3, size=(32, 48), dtype=torch.uint8):
    codes = torch.randint(0, 255, (num_frames, 3, *size), generator=torch.Generator().manual_seed(1))
    return sv.Frames(codes.to(dtype), tuple(range(10, 10 + num_frames)), Fraction(1, 25))


def test_frames_come_back_larger_with_their_times_and_type():
    frames = noise()
    larger = sv.restore(frames, settings=SETTINGS)
    assert (tuple(larger.data_TCHW.shape), larger.data_TCHW.dtype) == ((3, 3, 64, 96), torch.uint8)
    assert (larger.pts, larger.time_base) == (frames.pts, frames.time_base)
    assert sv.restore(noise(dtype=torch.uint16), settings=SETTINGS).data_TCHW.dtype == torch.uint16


@pytest.mark.slow
def test_frames_in_memory_and_the_same_frames_in_a_file_get_the_same_picture(clip, tmp_path):
    settings = sv.RestoreSettings(model="lanczos", resolution="x2", codec="ffv1", detect_shots=False)
    sv.restore(clip, tmp_path / "out.mkv", settings, report=False)
    from_file = sv.read_frames(tmp_path / "out.mkv", 2, 12).data_TCHW.int()
    in_memory = sv.restore(sv.read_frames(clip, 2, 12), settings=settings).data_TCHW.int()
    # The master stores colour at half the width and height, so only broad areas are compared.
    assert (from_file - in_memory).abs().float().mean() < 3


def test_frames_are_read_where_they_were_asked_for(clip):
    everything, some = sv.read_frames(clip), sv.read_frames(clip, 5, 9)
    assert len(everything) == 24
    assert some.pts == everything.pts[5:9]
    assert torch.equal(some.data_TCHW, everything.data_TCHW[5:9])
    with pytest.raises(sv.InputError, match="has frames 0 to 23; 20 to 29 are not in it"):
        sv.read_frames(clip, 20, 30)


def test_a_comparison_has_a_slider_and_figures_for_every_frame(clip):
    before = sv.read_frames(clip, 0, 4)
    compared = sv.compare(before, sv.restore(before, settings=SETTINGS), frames=[0, 3])
    assert [each.number for each in compared.frames] == [0, 3]
    assert all(each.psnr > 30 for each in compared.frames)
    assert compared._repr_html_().count("type='range'") == 2
    assert len(repr(compared)) < 400
    assert sv.contact_sheet(before, before).startswith(b"\x89PNG")
    with pytest.raises(sv.InputError, match="there are frames 0 to 3, and no frame 4"):
        sv.contact_sheet(before, before, 4)


def test_what_is_no_version_of_the_same_video_is_refused(clip):
    with pytest.raises(sv.InputError, match="the first has 24 frames and the second 3"):
        sv.compare(clip, noise())
    with pytest.raises(sv.InputError, match="no frame 24"):
        sv.compare(clip, clip, frames=[24])


def test_a_source_and_a_target_belong_together(clip):
    with pytest.raises(sv.InputError, match="say where"):
        sv.restore(clip)
    with pytest.raises(sv.InputError, match="come back as frames"):
        sv.restore(noise(), "out.mp4")
    with pytest.raises(sv.SettingsError, match="from a file to a file"):
        sv.restore(noise(), settings=sv.RestoreSettings(reference=True, model="lanczos"))
