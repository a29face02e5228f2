"""Laws of versions of one video: excerpts meet the whole at their times, and variants are what they are called."""

import re

import pytest

import seedvr2_ray as sv
from tests.media import clips

LOSSLESS = sv.RestoreSettings(
    model="lanczos", resolution="x1", codec="ffv1", container="mkv", segment_seconds=0.5, segment_overlap=4
)


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A source, its master, and an excerpt of that: frames 9 to 20."""
    folder = tmp_path_factory.mktemp("versions")
    clips.make_clip(folder / "film.mkv", num_frames=30, cuts=(16,), size=(64, 48))
    sv.restore(folder / "film.mkv", folder / "part.mkv", LOSSLESS, excerpt="frames 9-20", report=False)
    sv.restore(folder / "film.mkv", folder / "whole.mkv", LOSSLESS, report=False)
    return folder


@pytest.mark.slow
def test_an_excerpt_and_the_whole_are_compared_where_they_show_the_same_moment(versions):
    compared = sv.compare(versions / "part.mkv", versions / "whole.mkv", [0, 7, 11])
    assert [each.psnr for each in compared.frames] == [100.0] * 3
    other_way = sv.compare(versions / "whole.mkv", versions / "part.mkv", [9, 20])
    assert [each.psnr for each in other_way.frames] == [100.0] * 2
    (middle,) = sv.compare(versions / "film.mkv", versions / "part.mkv").frames
    assert middle.number == 15
    assert middle.psnr > 30


@pytest.mark.slow
def test_a_frame_that_is_not_in_the_excerpt_is_refused(versions):
    with pytest.raises(sv.InputError, match="frame 21 of the first is not in the second"):
        sv.compare(versions / "whole.mkv", versions / "part.mkv", [21])


@pytest.mark.slow
def test_a_comparison_is_saved_as_one_page_with_a_slider_per_frame(versions, tmp_path):
    sv.compare(versions / "film.mkv", versions / "whole.mkv", [3, 20]).save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('type="range"') == 2
    assert "film.mkv and whole.mkv" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.slow
def test_every_variant_is_the_same_excerpt_and_says_what_the_whole_would_take(versions, tmp_path):
    settings = {
        "small": sv.RestoreSettings(model="lanczos", resolution="x1", segment_seconds=0.5, segment_overlap=4),
        "<b>large": sv.RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4),
    }
    found = sv.compare_variants(
        versions / "film.mkv", settings, excerpt="frames 9-20", folder=tmp_path, price_per_gpu_hour=3600.0
    )
    small, large = found
    assert (small.size, large.size) == ((64, 48), (128, 96))
    assert found.excerpt.startswith("frames 9 to 20 of 30")
    for variant in found:
        assert len(sv.read_frames(variant.target)) == 12
        # 38 frames, overlaps included, make the whole; fewer made the excerpt.
        assert variant.seconds_for_whole > variant.seconds > 0
        assert variant.cost_for_whole == pytest.approx(variant.seconds_for_whole)
        assert variant.compared.frames[0].number == 15
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('type="range"') == 2
    assert "<b>large" not in page + found._repr_html_()
    assert "the whole would cost" in page


@pytest.mark.slow
def test_variants_leave_nothing_where_no_folder_is_named_and_begin_in_the_middle(versions):
    before = sorted(versions.iterdir())
    found = sv.compare_variants(versions / "film.mkv", {"one": LOSSLESS})
    assert found.excerpt.startswith("frames 0 to 29 of 30")
    assert [variant.target for variant in found] == [""]
    assert sorted(versions.iterdir()) == before


def test_no_variants_are_no_comparison(versions):
    with pytest.raises(sv.InputError, match="there is nothing to compare"):
        sv.compare_variants(versions / "film.mkv", {})
