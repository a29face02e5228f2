"""Excerpts, comparisons and variants as the command line offers them."""

import json

import pytest

from seedvr2_ray.cli.main import main
from tests.media import clips

pytestmark = pytest.mark.slow

FAST = ("--model", "lanczos", "--resolution", "x1", "--preset", "ultrafast", "--segment-seconds", "0.5")


@pytest.fixture
def run(capfd, monkeypatch, tmp_path_factory):
    """Run a command in this process; return its exit code and what it printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

    def call(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def clip(tmp_path):
    clips.make_clip(tmp_path / "film.mp4", num_frames=30, size=(64, 48))
    return tmp_path / "film.mp4"


def test_an_excerpt_is_planned_restored_and_not_repeated_by_the_whole(clip, run, tmp_path):
    out = tmp_path / "part.mp4"
    code, text, _ = run("plan", clip, out, *FAST, "--from", "0.5", "--to", "1", "--json")
    assert (code, json.loads(text)["excerpt"]["first_frame"], json.loads(text)["frames"]) == (0, 12, 12)
    code, text, _ = run("restore", clip, out, *FAST, "--no-report", "--frames", "12-23", "--json")
    assert (code, json.loads(text)["excerpt"]["last_frame"]) == (0, 23)
    code, text, _ = run("plan", clip, tmp_path / "whole.mp4", *FAST, "--json")
    assert json.loads(text)["frames_restored_earlier"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "soon"), "the time 'soon' is not understood"),
        (("--from", "1", "--frames", "3"), "bounded by times or by frames"),
        (("--from", "1", "--to", "1"), "holds nothing"),
        (("--to", "9"), "the video ends at 1.250 s"),
        (("--frames", "5-30"), "the video has frames 0 to 29"),
    ],
)
def test_bounds_that_mean_nothing_are_one_line(clip, run, tmp_path, options, said):
    code, out, err = run("restore", clip, tmp_path / "part.mp4", *FAST, *options)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert said in err


def test_variants_and_comparisons_are_pages(clip, run, tmp_path):
    page = tmp_path / "variants.html"
    code, text, err = run(
        "variants", clip, "resolution=x1", "resolution=x2,seed=7", *FAST, "--from", "0.5", "--out", page, "--json"
    )
    assert (code, err) == (0, "")
    assert [each["size"] for each in json.loads(text)["variants"]] == ["64x48", "128x96"]
    assert page.exists()
    code, _, err = run("compare", clip, tmp_path / "variants-2.mp4", "--out", tmp_path / "compare.html")
    assert (code, err) == (0, "")
    assert (tmp_path / "compare.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("variants", "film.mp4", "nano"), "the variant 'nano' is not understood"),
        (("variants", "film.mp4", "sede=7"), "did you mean seed?"),
        (("variants", "film.mp4", "seed=x"), "seed must be int"),
        (("compare", "film.mp4", "film.mp4", "--frames", "x"), "the frames 'x' are not understood"),
    ],
)
def test_what_is_no_variant_is_one_line(clip, run, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
