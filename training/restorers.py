"""Exported weights as the restorer that users run, for judging them before they are shipped."""

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.seedvr2.config import SeedVR2Config
from seedvr2_ray.models.seedvr2.nano_config import NANO_DIT, NANO_VAE
from seedvr2_ray.models.weights.catalogue import ModelEntry, Role, WeightFile
from seedvr2_ray.models.weights.download import FoundFile
from seedvr2_ray.restoration.allocator import tune_allocator
from seedvr2_ray.restoration.diffusion.load import load_diffusion
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import Restorer, SegmentTask
from seedvr2_ray.settings import RestoreSettings
from training.export import TEXT, TRANSFORMER, VAE


def load_nano(folder: Path) -> Restorer:
    """Load exported files as the catalogue's loader does, on the CPU."""
    networks = SeedVR2Config(transformer=NANO_DIT, vae=NANO_VAE, anchor_rows=0)
    entry = ModelEntry(name="nano", summary="", licence="", networks=networks)
    names: dict[Role, str] = {"transformer": TRANSFORMER, "vae": VAE, "positive": TEXT, "negative": TEXT}
    files = {
        role: FoundFile(
            role, WeightFile(name=name, repository=None, licence="", num_gigabytes=0.0), folder / name, name
        )
        for role, name in names.items()
    }
    tune_allocator(reuse_buffers=True)
    return load_diffusion(entry, files, device=torch.device("cpu"), dtype=torch.float32)


def restore(restorer: Restorer, small_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Send uint8 frames through a restorer with default settings."""
    num_frames, _, source_height, source_width = small_TCHW.shape
    task = SegmentTask(
        first_frame=0,
        num_frames=num_frames,
        geometry=Geometry(source_width=source_width, source_height=source_height, width=width, height=height),
        settings=RestoreSettings(),
        output_depth=8,
    )
    frames = Frames(small_TCHW, tuple(range(num_frames)), Fraction(1, 25))
    return torch.cat([batch.data_TCHW for batch in restorer.restore([frames], task)])
