"""How many GPUs of this machine restore something together: settled by its plan, before a model is loaded."""

from dataclasses import replace

from seedvr2_ray.models.weights.catalogue import ModelEntry
from seedvr2_ray.restoration.families import family_of
from seedvr2_ray.restoration.gang.rules import choose_devices, require_gang
from seedvr2_ray.restoration.load import LoadOptions, find_model, load_restorer, local_device
from seedvr2_ray.restoration.planning.device_memory import look_at_device
from seedvr2_ray.restoration.planning.forecast import longest_task
from seedvr2_ray.restoration.planning.memory import MemoryCosts
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.restorer import Restorer, SegmentTask
from seedvr2_ray.settings import RestoreSettings


class ModelToLoad:
    """A model, and on how many GPUs of this machine it will be: asked for, or what the plan needs."""

    def __init__(self, settings: RestoreSettings, options: LoadOptions) -> None:
        """Refuse a number of GPUs that this machine or the model cannot be; nothing is started.

        Raises:
            SettingsError: the model cannot be shared by so many, or there are fewer GPUs.
            DeploymentError: ranks cannot talk to each other with this installation.
        """
        self._settings = settings
        self._options = options
        _require_possible(find_model(settings, options.device), options)

    @property
    def num_gpus(self) -> int:
        """That restore a segment together."""
        return self._options.num_gpus

    def accept(self, plan: Plan) -> None:
        """Choose for a plan's longest segment.

        Raises:
            DeviceMemoryError: no gang of this machine has room for it; names the size that would.
            SettingsError: it cannot be shared by as many as were asked for.
        """
        self._options = settle_gang(self._settings, self._options, longest_task(plan))

    def load(self) -> Restorer:
        """Load it; close what is returned."""
        return load_restorer(self._settings, self._options)


def settle_gang(settings: RestoreSettings, options: LoadOptions, task: SegmentTask) -> LoadOptions:
    """Return options that say how many GPUs restore a segment together: those asked for, else the fewest that can.

    Where there is one device and no more were asked for, nothing is foreseen: its restorer plans with what is free
    then.

    Raises:
        DeviceMemoryError: nothing fits; names the size that would.
        SettingsError: this segment cannot be shared by as many as were asked for.
    """
    entry, device = find_model(settings, options.device), look_at_device(local_device(options.device))
    _require_possible(entry, options)
    if device.num_devices == 1 and options.num_gpus == 1:
        return replace(options, gpus=1)
    device, costs = device.shared_by(options.num_gpus), MemoryCosts.for_device(device.name)
    foreseen = family_of(entry).foresee_memory(entry, task, costs, device, gang_size=options.gpus)
    settled = replace(options, gpus=1 if foreseen is None else foreseen.gang_size)
    _require_possible(entry, settled)
    return settled


def _require_possible(entry: ModelEntry, options: LoadOptions) -> None:
    if options.num_gpus == 1:
        return
    require_gang(entry, options.num_gpus, options.sp_strategy)
    choose_devices(options.num_gpus, "cpu" if options.device == "cpu" else "cuda")
