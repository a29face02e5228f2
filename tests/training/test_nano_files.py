"""The files of nano that ship: verified, strict, reproducible, and better than bicubic."""

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.models.weights.download import WeightsSource, require_model
from seedvr2_ray.restoration.diffusion.load import load_networks
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.settings import RestoreSettings
from training.clips import Motion, render, to_planes
from training.clips_unseen import CONDITIONS
from training.degradation import degrade, enlarge, to_bytes
from training.export import SHIPPED_FOLDER, TEXT, TRANSFORMER, VAE, export
from training.photographs import load_photograph
from training.restorers import load_nano, restore

MOST_BYTES = 8_000_000


def test_shipped_files_are_verified_by_hash_and_load_strictly() -> None:
    entry = find_entry("nano")
    files = require_model(entry, WeightsSource(), may_download=False)
    model = load_networks(entry, files, device=torch.device("cpu"), dtype=torch.float32)
    assert model.positive_LC.shape == model.negative_LC.shape
    assert sum(file.path.stat().st_size for file in files.values()) < MOST_BYTES


def test_exporting_the_shipped_weights_gives_the_shipped_bytes(tmp_path: Path) -> None:
    average = {"text_LC": load_file(SHIPPED_FOLDER / TEXT)["text"].float()}
    for name, prefix in ((TRANSFORMER, "transformer."), (VAE, "vae.")):
        average |= {prefix + key: tensor.float() for key, tensor in load_file(SHIPPED_FOLDER / name).items()}
    for name, sha256 in export(average, tmp_path).items():
        assert sha256 == hashlib.sha256((SHIPPED_FOLDER / name).read_bytes()).hexdigest()


def test_weights_beyond_half_precision_are_not_exported(tmp_path: Path) -> None:
    average = {"transformer.a": torch.tensor([1e6]), "vae.a": torch.zeros(1), "text_LC": torch.zeros(1, 1)}
    with pytest.raises(ValueError, match="beyond half precision"):
        export(average, tmp_path)


def test_the_picture_is_the_recorded_one_up_to_the_rounding_of_weights() -> None:
    """Recorded when nano's VAE had the full shape of the released ones, most of it zeros that were not computed."""
    recorded = load_file(Path(__file__).parents[1] / "data" / "golden" / "nano_pictures.safetensors")
    task = SegmentTask(
        first_frame=0,
        num_frames=6,
        geometry=Geometry(source_width=28, source_height=20, width=56, height=40),
        settings=RestoreSettings(chunk_frames=9, chunk_overlap=1, padding="reflect"),
        output_depth=16,
    )
    source = Frames(recorded["source"], tuple(range(6)), Fraction(1, 25))
    restored = torch.cat([frames.data_TCHW.int() for frames in load_nano(SHIPPED_FOLDER).restore([source], task)])
    # A twentieth of an 8-bit code: products of weights were rounded to half precision once.
    assert (restored - recorded["restored"]).abs().max() <= 13


@pytest.mark.slow
def test_an_unseen_clip_is_restored_better_than_bicubic() -> None:
    motion = Motion(centre_yx=(150, 190), velocity_yx=(0, 0), zoom=0.8, zoom_rate=1.0, angle=0.0, turn_rate=0.01)
    clean = render(to_planes(load_photograph("coins.png")), motion, height=64, width=96, num_frames=3).clamp(0, 1)
    small = degrade(clean, CONDITIONS["x2 moderate: noise 4, JPEG 60"])
    restored = restore(load_nano(SHIPPED_FOLDER), small, 64, 96)
    errors = [
        (frames.float() - to_bytes(clean).float()).square().mean()
        for frames in (restored, to_bytes(enlarge(small.float() / 255, 64, 96)))
    ]
    assert errors[0] < errors[1]
