"""``restore --gpus`` on one machine: the same pictures as one process, and bad input refused before anything starts."""

import json
import os

import pytest
import torch

from seedvr2_ray.cli.main import main
from seedvr2_ray.restoration.load import LoadOptions, load_restorer
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import SegmentTask, close_restorer
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip
from tests.restoration.gang.row_shards import folders
from tests.restoration.gang.test_restorer import batches, pictures


def restored(options, num_frames=7):
    settings = RestoreSettings(model="nano", chunk_frames=5, chunk_overlap=1)
    geometry = Geometry(source_width=32, source_height=24, width=80, height=56)
    task = SegmentTask(first_frame=3, num_frames=num_frames, geometry=geometry, settings=settings, output_depth=8)
    restorer = load_restorer(settings, options)
    try:
        return restorer.identity, pictures(restorer.restore(batches((3, num_frames - 3)), task))
    finally:
        close_restorer(restorer)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["windows", "ulysses"])
def test_several_processes_make_the_pictures_of_one_under_the_same_identity(strategy):
    identity, (alone, pts) = restored(LoadOptions())
    shared_identity, (shared, shared_pts) = restored(LoadOptions(gpus=2, device="cpu", sp_strategy=strategy))
    assert (shared_identity, shared_pts) == (identity, pts)
    # Sums are added in another order; a value in the middle between two codes may be rounded the other way.
    assert (shared.to(torch.int16) - alone.to(torch.int16)).abs().max() <= 1
    assert folders(os.getpid()) == set()


@pytest.mark.slow
def test_the_command_line_restores_with_several_processes(tmp_path, capsys):
    make_clip(tmp_path / "in.mp4", num_frames=5, size=(48, 32))
    source, target = str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")
    words = ["restore", source, target, "--model", "nano", "--resolution", "x2", "--json", "--no-report"]
    assert main([*words, "--gpus", "2", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["frames_restored_now"] == 5
    provenance = json.loads((tmp_path / "out.mp4.json").read_text())
    assert {segment["restored"]["gang_size"] for segment in provenance["segments"]} == {2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "3", "--device", "cpu", "--sp-strategy", "ulysses"], "heads"),
        (["--gpus", "20", "--device", "cpu", "--padding", "black"], "rows of latents"),
        (["--gpus", "2", "--device", "cpu", "--model", "lanczos"], "lanczos runs on one device"),
    ],
)
def test_a_gang_that_cannot_be_is_refused_before_the_source_is_looked_through(
    tmp_path, capsys, monkeypatch, options, words
):
    monkeypatch.setattr("seedvr2_ray.restoration.run.look_through", None)
    make_clip(tmp_path / "in.mp4", num_frames=3, size=(48, 32))
    source, target = str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")
    assert main(["restore", source, target, "--model", "nano", "--resolution", "48x32", *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has several GPUs")
def test_gpus_that_are_not_there_are_not_replaced_by_the_cpu(tmp_path, capsys):
    make_clip(tmp_path / "in.mp4", num_frames=3, size=(48, 32))
    source, target = str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")
    assert main(["restore", source, target, "--model", "nano", "--gpus", "2"]) == 2
    assert "2 GPUs were asked for" in " ".join(capsys.readouterr().err.split())
