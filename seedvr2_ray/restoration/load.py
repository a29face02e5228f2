"""From the name of a model to who it is, and to a restorer that is ready.

torch and the families are imported where they are used: whoever passes on :class:`LoadOptions` or a
:class:`RestorerSource`, as a service's ingress does, loads no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from seedvr2_ray.models.backends import AttentionBackend, SpStrategy
from seedvr2_ray.models.weights.catalogue import Component, ModelEntry, default_model, find_entry
from seedvr2_ray.models.weights.download import (
    WeightsSource,
    find_component,
    obtain_component,
    require_model,
    verify_file,
)
from seedvr2_ray.restoration.allocator import tune_allocator
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    import torch

    from seedvr2_ray.models.parallel import SequenceParallel

DeviceChoice = Literal["auto", "cpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """How this machine loads models: facts about a deployment, not about a request."""

    weights: WeightsSource = field(default_factory=WeightsSource)
    attention: AttentionBackend = "sdpa"
    """Kernel of the transformers; changes speed and rounding, not the picture beyond that."""
    compile: bool = False
    """Fuse the transformers' small operations with ``torch.compile`` while loading, which takes a minute or more."""
    may_download: bool = True
    """Whether missing weights are fetched."""
    device: DeviceChoice = "auto"
    """``cpu`` leaves GPUs alone."""
    gpus: int | None = None
    """Devices of this machine that restore each segment together: a gang of so many processes. None leaves it to the
    plan of what is restored; without one it is a single device."""
    sp_strategy: SpStrategy = "auto"
    """How a gang shares the transformer's work."""

    @property
    def num_gpus(self) -> int:
        """Devices that restore a segment together, as far as that is settled."""
        return self.gpus or 1


def find_model(settings: RestoreSettings, device: DeviceChoice = "auto") -> ModelEntry:
    """Return the model that settings mean on this machine; resolves ``auto``.

    Raises:
        SettingsError: there is no such model.
    """
    if settings.model != "auto":
        return find_entry(settings.model)
    return find_entry(default_model(cuda_available=local_device(device).type == "cuda"))


def identify(settings: RestoreSettings, options: LoadOptions) -> RestorerIdentity:
    """Say who will restore, without loading or downloading anything.

    Weights that are not on this machine count as the published ones: that is what a download is held to.

    Raises:
        SettingsError: there is no such model, or it has no use for a setting.
        DeploymentError: its weights are damaged.
    """
    from seedvr2_ray.restoration.device import default_dtype
    from seedvr2_ray.restoration.families import family_of

    entry = find_model(settings, options.device)
    family = family_of(entry)
    family.require_settings(settings)
    hashes = {part.role: _known_hash(part, options) for part in entry.components}
    return family.identify(entry, hashes, default_dtype(local_device(options.device)))


def load_restorer(settings: RestoreSettings, options: LoadOptions) -> Restorer:
    """Load the model that settings name onto this machine's device: CUDA if there is one, else the CPU.

    With more than one of ``options.gpus``, as many processes are started that hold it together; close what is returned.

    Raises:
        SettingsError: there is no such model.
        DeploymentError: its weights cannot be had or are damaged, or the device cannot run it.
        CapacityError: its weights do not fit into the device's memory.
    """
    from seedvr2_ray.models.parallel import ALONE

    entry = find_model(settings, options.device)
    if options.num_gpus == 1:
        return _load(entry, options, ALONE)

    from seedvr2_ray.restoration.gang.local import start_local_gang
    from seedvr2_ray.restoration.gang.rules import require_gang

    require_gang(entry, options.num_gpus, options.sp_strategy)
    source = CatalogueRestorers(replace(options, gpus=1))
    named = replace(settings, model=entry.name)
    return start_local_gang(source, named, options.num_gpus, options.device, options.sp_strategy)


def _load(entry: ModelEntry, options: LoadOptions, parallel: SequenceParallel) -> Restorer:
    from seedvr2_ray.restoration.device import default_dtype
    from seedvr2_ray.restoration.families import Loading, family_of

    device = local_device(options.device)
    tune_allocator(reuse_buffers=bool(entry.components) and device.type == "cpu")
    files = require_model(entry, options.weights, may_download=options.may_download)
    how = Loading(
        device=device,
        dtype=default_dtype(device),
        attention=options.attention,
        compile_transformer=options.compile,
        parallel=parallel,
        sp_strategy=options.sp_strategy,
    )
    return family_of(entry).load(entry, files, how)


class RestorerSource(Protocol):
    """Where workers get their restorers. Pickled to them."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Say who will restore, on a machine like those that will."""

    def load(self, settings: RestoreSettings) -> Restorer:
        """Load that restorer onto this machine's device."""


@dataclass(frozen=True, slots=True)
class CatalogueRestorers:
    """The models of the catalogue."""

    options: LoadOptions = field(default_factory=LoadOptions)

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Bring the weights here, verify them, and say whose they are."""
        return identify(settings, self.options)

    def load(self, settings: RestoreSettings) -> Restorer:
        """Load a model: CUDA if there is one, else the CPU."""
        return load_restorer(settings, self.options)

    def load_rank(self, settings: RestoreSettings, parallel: SequenceParallel, strategy: SpStrategy) -> Restorer:
        """Load one rank's part of a model; see :class:`~seedvr2_ray.restoration.gang.messages.RankSource`."""
        from seedvr2_ray.restoration.gang.rules import require_gang

        entry = find_model(settings, self.options.device)
        require_gang(entry, parallel.size, strategy)
        return _load(entry, replace(self.options, sp_strategy=strategy), parallel)


def local_device(device: DeviceChoice = "auto") -> torch.device:
    """Return where models run on this machine: CUDA if there is one and may be used, else the CPU."""
    import torch

    # Never inferred from a scheduler's count of GPUs: clusters are tested with simulated ones.
    return torch.device("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")


def _known_hash(part: Component, options: LoadOptions) -> str:
    found = find_component(part, options.weights)
    if found is not None:
        return verify_file(*found, options.weights)
    published = part.files[0].sha256
    if published is not None:
        return published
    # Nobody publishes what this file must hash to, so only the file itself can tell.
    return obtain_component(part, options.weights).sha256
