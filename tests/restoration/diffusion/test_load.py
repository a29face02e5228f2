from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from safetensors.torch import save_file

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.seedvr2.config import SeedVR2Config
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.weights.catalogue import Component, ModelEntry, WeightFile
from seedvr2_ray.models.weights.download import WeightsSource, require_model
from seedvr2_ray.restoration.diffusion.load import identify_diffusion, load_diffusion
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.settings import RestoreSettings
from tests.models.tiny import DIT, VAE

CPU = torch.device("cpu")


def _file(name):
    return WeightFile(name=name, repository="owner/tiny", licence="MIT", num_gigabytes=0.0)


ENTRY = ModelEntry(
    name="tiny",
    summary="",
    licence="MIT",
    networks=SeedVR2Config(transformer=DIT, vae=VAE, anchor_rows=0),
    components=tuple(
        Component(role=role, files=(_file(name),))
        for role, name in (
            ("transformer", "dit.safetensors"),
            ("vae", "vae.pth"),
            ("positive", "pos.pt"),
            ("negative", "neg.safetensors"),
        )
    ),
)


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    transformer = SeedVR2Transformer(DIT).state_dict()
    # Half-precision files hold frequencies that are no use; they must not be read.
    frozen = {name: tensor * torch.nan if name.endswith("freqs") else tensor for name, tensor in transformer.items()}
    save_file(frozen, tmp_path / "dit.safetensors")
    torch.save(VideoVAE(VAE).state_dict(), tmp_path / "vae.pth")
    torch.save(torch.randn(3, 6), tmp_path / "pos.pt")
    save_file({"embedding": torch.randn(4, 6)}, tmp_path / "neg.safetensors")
    return WeightsSource(weights_dir=tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_loads_from_its_files_and_restores(source, dtype):
    files = require_model(ENTRY, source, may_download=False)
    restorer = load_diffusion(ENTRY, files, device=CPU, dtype=dtype)
    task = SegmentTask(
        first_frame=0,
        num_frames=2,
        geometry=Geometry(source_width=6, source_height=6, width=12, height=12),
        settings=RestoreSettings(),
        output_depth=8,
    )
    codes = torch.randint(0, 255, (2, 3, 6, 6), dtype=torch.uint8)
    (out,) = restorer.restore([Frames(codes, (0, 1), Fraction(1, 25))], task)
    assert out.data_TCHW.shape == (2, 3, 12, 12)
    assert restorer.identity == identify_diffusion(ENTRY, hashes_of(files), dtype)


def test_compiling_while_loading_is_logged_with_what_it_took(source, monkeypatch, caplog):
    monkeypatch.setattr(DiffusionRestorer, "compile", lambda self: 41.5)
    files = require_model(ENTRY, source, may_download=False)
    with caplog.at_level("INFO", logger="seedvr2_ray.restoration"):
        load_diffusion(ENTRY, files, device=CPU, dtype=torch.float32)
        assert caplog.messages == []
        load_diffusion(ENTRY, files, device=CPU, dtype=torch.float32, compile_transformer=True)
    assert caplog.messages == ["compiled the transformer of tiny in 41.5 s"]


def hashes_of(files):
    return {role: found.sha256 for role, found in files.items()}


def test_the_digest_follows_weights_type_and_padding_and_nothing_else(source):
    files = hashes_of(require_model(ENTRY, source, may_download=False))
    base = identify_diffusion(ENTRY, files, torch.float32)
    assert base == identify_diffusion(replace(ENTRY, summary="other words"), files, torch.float32)
    other_weights = {**files, "vae": "0" * 64}
    others = (
        identify_diffusion(ENTRY, files, torch.bfloat16),
        identify_diffusion(ENTRY, other_weights, torch.float32),
        identify_diffusion(replace(ENTRY, networks=replace(ENTRY.networks, anchor_rows=16)), files, torch.float32),
    )
    assert len({base.digest, *(other.digest for other in others)}) == 4


def test_the_checkpoint_of_another_model_is_one_clear_error(source):
    files = require_model(ENTRY, source, may_download=False)
    swapped = {**files, "transformer": files["vae"]}
    with pytest.raises(DeploymentError, match="checkpoint of another model"):
        load_diffusion(ENTRY, swapped, device=CPU, dtype=torch.float32)


def test_an_embedding_of_another_model_is_one_clear_error(source):
    torch.save(torch.zeros(3, 7), source.weights_dir / "pos.pt")
    files = require_model(ENTRY, source, may_download=False)
    with pytest.raises(DeploymentError, match="positive text embedding"):
        load_diffusion(ENTRY, files, device=CPU, dtype=torch.float32)


def test_a_missing_embedding_is_one_clear_error(source):
    (source.weights_dir / "neg.safetensors").unlink()
    with pytest.raises(DeploymentError, match=r"neg\.safetensors, which is not on this machine"):
        require_model(ENTRY, source, may_download=False)


def test_a_type_or_kernel_the_device_lacks_is_refused_before_anything_is_read(source):
    with pytest.raises(DeploymentError, match="float16"):
        load_diffusion(ENTRY, {}, device=CPU, dtype=torch.float16)
    with pytest.raises(DeploymentError, match="choose 'sdpa'"):
        load_diffusion(ENTRY, {}, device=CPU, dtype=torch.float32, attention="flash")
