"""The released layout loads unchanged, and who restores is known before it does."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.media.probe import probe
from seedvr2_ray.models.weights.catalogue import CATALOGUE
from seedvr2_ray.models.weights.download import WeightsSource, list_models, pull_model, require_model
from seedvr2_ray.restoration.load import LoadOptions, identify, load_restorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.restoration.swiftvr.load import identify_swiftvr, load_swiftvr, load_swiftvr_networks
from seedvr2_ray.restoration.swiftvr.restorer import SwiftVRRestorer
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips
from tests.models.swiftvr.tiny import CHECKPOINT, golden, load_model, tiny_entry

CPU = torch.device("cpu")
SETTINGS = RestoreSettings(model="swiftvr", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The tiny checkpoint where an operator would put the released one."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    monkeypatch.setitem(CATALOGUE, "swiftvr", tiny_entry())
    return shutil.copytree(CHECKPOINT, tmp_path / "weights")


@pytest.fixture
def options(folder):
    return LoadOptions(weights=WeightsSource(weights_dir=folder), may_download=False)


def _files(folder):
    return require_model(CATALOGUE["swiftvr"], WeightsSource(weights_dir=folder), may_download=False)


@pytest.mark.slow
def test_the_released_layout_loads_unchanged(folder):
    loaded = load_swiftvr_networks(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32)
    latents = golden("transformer")["caseB.latent"]
    with torch.no_grad():
        assert torch.equal(loaded.transformer(latents), load_model().transformer(latents))


@pytest.mark.slow
def test_numbers_of_another_type_and_unused_tensors_are_no_obstacle(folder):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file({**state, "blocks.0.attn1.norm_added_q.weight": torch.zeros(40)}, path)
    prompt = load_file(folder / "prompt_embedding.safetensors")
    save_file({**prompt, "prompt_emb": prompt["prompt_emb"].half()}, folder / "prompt_embedding.safetensors")
    loaded = load_swiftvr_networks(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32)
    assert loaded.transformer.proj_out.weight.dtype == loaded.reae.dtype == torch.float32
    assert torch.equal(loaded.transformer.proj_out.weight, state["proj_out.weight"].float())


@pytest.mark.slow
def test_a_tensor_too_many_is_refused(folder):
    path = folder / "reae.safetensors"
    save_file({**load_file(path), "decoder.23.weight": torch.zeros(1)}, path)
    with pytest.raises(DeploymentError, match=r"another model: 1 tensors are unknown \(decoder.23.weight\)"):
        load_swiftvr_networks(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("shape", "reason"), [((1, 5, 24), "7 tokens of prompt and holds 5"), ((1, 7, 23), r"\[tokens, 24\]")]
)
def test_another_prompt_is_refused(folder, shape, reason):
    save_file({"prompt_emb": torch.zeros(shape)}, folder / "prompt_embedding.safetensors")
    with pytest.raises(DeploymentError, match=reason):
        load_swiftvr_networks(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32)


def test_a_device_without_the_type_is_refused(folder):
    with pytest.raises(DeploymentError, match="float16 overflows"):
        load_swiftvr(tiny_entry(), _files(folder), device=CPU, dtype=torch.float16)
    with pytest.raises(DeploymentError, match="attention 'flash' cannot be used"):
        load_swiftvr(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32, attention="flash")


@pytest.mark.slow
def test_compiling_while_loading_is_logged_with_what_it_took(folder, monkeypatch, caplog):
    monkeypatch.setattr(SwiftVRRestorer, "compile", lambda self: 41.5)
    with caplog.at_level("INFO", logger="seedvr2_ray.restoration"):
        load_swiftvr(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32)
        assert caplog.messages == []
        load_swiftvr(tiny_entry(), _files(folder), device=CPU, dtype=torch.float32, compile_transformer=True)
    assert caplog.messages == ["compiled the transformer of swiftvr in 41.5 s"]


@pytest.mark.slow
def test_who_restores_is_known_before_the_weights_are_loaded(options):
    identity = identify(SETTINGS, options)
    restorer = load_restorer(SETTINGS, options)
    assert isinstance(restorer, SwiftVRRestorer)
    assert restorer.identity == identity
    assert identity.name == "swiftvr"


def test_everything_that_changes_the_picture_changes_who_restores():
    entry = tiny_entry()
    hashes = {part.role: part.role for part in entry.components}
    others = [
        identify_swiftvr(entry, hashes, torch.bfloat16),
        identify_swiftvr(entry, {**hashes, "prompt": "other"}, torch.float32),
        identify_swiftvr(replace(entry, networks=replace(entry.networks, clip_frames=24)), hashes, torch.float32),
        identify_swiftvr(replace(entry, networks=replace(entry.networks, overlap=1)), hashes, torch.float32),
    ]
    digests = {identity.digest for identity in [identify_swiftvr(entry, hashes, torch.float32), *others]}
    assert len(digests) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_steps": 2},
        {"cfg_scale": 2.0},
        {"cfg_rescale": 0.5},
        {"chunk_frames": 25},
        {"chunk_overlap": 1},
        {"vae_tile": 512},
        {"reference": True, "resolution": "area:64x64"},
    ],
)
def test_a_setting_that_it_would_pass_over_is_refused(options, changes):
    with pytest.raises(SettingsError, match=f"swiftvr has no use for {next(iter(changes))} "):
        identify(replace(SETTINGS, **changes), options)


def test_frames_are_filled_up_in_black_only(options):
    identify(replace(SETTINGS, padding="black"), options)
    with pytest.raises(SettingsError, match="fills frames up in black"):
        identify(replace(SETTINGS, padding="reflect"), options)


def test_what_is_published_of_the_files_is_in_the_catalogue():
    files = {part.role: part.files[0] for part in CATALOGUE["swiftvr"].components}
    assert {role: (file.name, file.size_bytes, file.sha256[:8]) for role, file in files.items()} == {
        "transformer": ("transformer/diffusion_pytorch_model.safetensors", 19_999_235_584, "f7ade5b8"),
        "autoencoder": ("reae.safetensors", 163_797_568, "c915205d"),
        "prompt": ("prompt_embedding.safetensors", 4_202_976, "cc4cf7b9"),
    }
    assert {(file.repository, file.licence) for file in files.values()} == {("H-oliday/SwiftVR", "Apache-2.0")}


def test_pulling_from_a_mirror_makes_the_released_layout(folder, tmp_path):
    source = WeightsSource(weights_dir=tmp_path / "own", mirror_url=folder.as_uri())
    (before,) = (record for record in list_models(source) if record.name == "swiftvr")
    assert (before.state, len(before.missing)) == ("missing", 3)
    pull_model("swiftvr", source)
    (after,) = (record for record in list_models(source) if record.name == "swiftvr")
    assert (after.state, after.missing) == ("ready", ())
    assert (tmp_path / "own" / "transformer" / "diffusion_pytorch_model.safetensors").is_file()


def _restore(source, target, options, restorer=None, settings=SETTINGS):
    identity = identify(settings, options)
    return restore_video(
        str(source),
        str(target),
        settings,
        identity,
        lambda: restorer or load_restorer(settings, options),
        report=False,
    )


@pytest.mark.slow
def test_an_image_is_restored_as_a_file(options, tmp_path):
    clips.make_image(tmp_path / "in.png", codec="png", pixel_format="rgb24", size=(40, 32))
    _restore(tmp_path / "in.png", tmp_path / "out.png", options, settings=replace(SETTINGS, preset="auto"))
    video = probe(str(tmp_path / "out.png")).video
    assert (video.width, video.height) == (80, 64)


class _Stopping:
    """Remembers which segments it was asked for, and may stop like a killed process would."""

    def __init__(self, restorer, stop_in=None):
        self.restorer, self.stop_in, self.segments = restorer, stop_in, []

    @property
    def identity(self):
        return self.restorer.identity

    def restore(self, frames, task):
        self.segments.append(task.first_frame)
        for batch in self.restorer.restore(frames, task):
            if len(self.segments) == self.stop_in:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_stopped_and_gives_the_same_bytes(options, tmp_path):
    clips.make_clip(tmp_path / "in.mp4", num_frames=30, size=(48, 32), audio_tracks=1)
    loaded = load_restorer(SETTINGS, options)
    undisturbed = _restore(tmp_path / "in.mp4", tmp_path / "undisturbed.mp4", options, loaded)
    firsts = [segment.span.start for segment in undisturbed.plan.segments]
    assert len(firsts) > 2
    assert probe(str(tmp_path / "undisturbed.mp4")).video.num_frames == 30
    stopped, resumed = _Stopping(loaded, stop_in=2), _Stopping(loaded)
    with pytest.raises(KeyboardInterrupt):
        _restore(tmp_path / "in.mp4", tmp_path / "out.mp4", options, stopped)
    _restore(tmp_path / "in.mp4", tmp_path / "out.mp4", options, resumed)
    assert resumed.segments == firsts[1:]
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "undisturbed.mp4").read_bytes()
