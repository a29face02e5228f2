"""Restore video at scale with generative models."""

from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.frames import ColourTags, Frames, FrameSpan
from seedvr2_ray.settings import RestoreSettings

__all__ = ["ColourTags", "FrameSpan", "Frames", "RestoreSettings", "SeedVR2Error", "__version__"]

__version__ = "0.1.0"
