"""Restore video at scale with generative models.

The public names. Each is loaded when it is first used, so that importing the package costs nothing and a client of a
service never waits for torch::

    import seedvr2_ray as sv

    sv.probe("holiday.mov")
    sv.restore("holiday.mov", "holiday-1080p.mp4", sv.RestoreSettings(model="nano"))
    sv.Client("http://127.0.0.1:8000").restore("holiday.mov", "holiday-1080p.mp4")
"""

import importlib
from typing import TYPE_CHECKING, Any

from seedvr2_ray.errors import (
    CapacityError,
    DamagedMediaError,
    DeploymentError,
    InputError,
    MediaError,
    RetryableError,
    SeedVR2Error,
    SettingsError,
    StorageError,
    TargetError,
)
from seedvr2_ray.frames import ColourTags, Frames, FrameSpan
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    from seedvr2_ray.api.archive import ArchiveRun, restore_archive
    from seedvr2_ray.api.files import PlannedFile, Probe, RestoredFile, plan, probe
    from seedvr2_ray.api.pictures import Comparison, compare, contact_sheet, read_frames
    from seedvr2_ray.api.progress import ProgressBar
    from seedvr2_ray.api.report import Report, open_report
    from seedvr2_ray.api.restore import restore
    from seedvr2_ray.api.variants import Variant, Variants, compare_variants
    from seedvr2_ray.client.asynchronous import AsyncClient
    from seedvr2_ray.client.blocking import Client
    from seedvr2_ray.client.connection import Retries
    from seedvr2_ray.client.errors import ServiceRefusal
    from seedvr2_ray.client.values import Job, JobEstimate, Upload
    from seedvr2_ray.restoration.load import LoadOptions
    from seedvr2_ray.restoration.run import Progress

__all__ = [
    "ArchiveRun",
    "AsyncClient",
    "CapacityError",
    "Client",
    "ColourTags",
    "Comparison",
    "DamagedMediaError",
    "DeploymentError",
    "FrameSpan",
    "Frames",
    "InputError",
    "Job",
    "JobEstimate",
    "LoadOptions",
    "MediaError",
    "PlannedFile",
    "Probe",
    "Progress",
    "ProgressBar",
    "Report",
    "RestoreSettings",
    "RestoredFile",
    "Retries",
    "RetryableError",
    "SeedVR2Error",
    "ServiceRefusal",
    "SettingsError",
    "StorageError",
    "TargetError",
    "Upload",
    "Variant",
    "Variants",
    "__version__",
    "compare",
    "compare_variants",
    "contact_sheet",
    "open_report",
    "plan",
    "probe",
    "read_frames",
    "restore",
    "restore_archive",
]

__version__ = "0.1.0"

_PLACES = {
    "api.archive": ("ArchiveRun", "restore_archive"),
    "api.files": ("PlannedFile", "Probe", "RestoredFile", "plan", "probe"),
    "api.pictures": ("Comparison", "compare", "contact_sheet", "read_frames"),
    "api.progress": ("ProgressBar",),
    "api.report": ("Report", "open_report"),
    "api.restore": ("restore",),
    "api.variants": ("Variant", "Variants", "compare_variants"),
    "client.asynchronous": ("AsyncClient",),
    "client.blocking": ("Client",),
    "client.connection": ("Retries",),
    "client.errors": ("ServiceRefusal",),
    "client.values": ("Job", "JobEstimate", "Upload"),
    "restoration.load": ("LoadOptions",),
    "restoration.run": ("Progress",),
}
"""Where the names come from that are loaded when they are first used."""


if not TYPE_CHECKING:  # A type checker that saw this would believe every misspelt name.

    def __getattr__(name: str) -> Any:
        for module, names in _PLACES.items():
            if name in names:
                found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
