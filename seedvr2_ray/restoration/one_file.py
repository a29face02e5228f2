"""Planning and restoring one file with the models of this machine: what the command line and Python both are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seedvr2_ray.media.probe import ProbeLimits
from seedvr2_ray.restoration.gang.choice import ModelToLoad
from seedvr2_ray.restoration.load import LoadOptions, identify
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.run import Finished, Progress, excerpt_work, prepare, require_target, restore_video
from seedvr2_ray.restoration.work.work_folder import open_work_to_look
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.location import require_source


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What restoring a file would be, in the light of what is done of it."""

    plan: Plan
    frames_to_restore: int
    """Overlaps included; what an earlier run committed is not among them."""

    def summary(self) -> dict[str, Any]:
        """Return the plan in a few plain values."""
        return {**self.plan.summary(), "frames_restored_earlier": self.plan.restored_frames - self.frames_to_restore}


def plan_one_file(
    source: str,
    target: str,
    settings: RestoreSettings,
    options: LoadOptions,
    *,
    work_folder: str | None = None,
    overwrite: bool = False,
    limits: ProbeLimits | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Outlook:
    """Say what :func:`restore_one_file` would do; finds the shots and spends nothing else.

    Raises:
        InputError: the source, the settings or the target are refused.
    """
    require_source(source)
    require_target(source, target, overwrite=overwrite)
    excerpt_of, earlier = excerpt_work(source, target, work_folder, settings)
    with open_work_to_look(target, work_folder, excerpt_of=excerpt_of) as (store, workspace):
        prepared = prepare(
            source,
            target,
            settings,
            identify(settings, options),
            store=store,
            workspace=workspace,
            limits=limits,
            max_pixels=max_pixels,
            overwrite=overwrite,
            earlier=earlier,
        )
        return Outlook(plan=prepared.plan, frames_to_restore=prepared.frames_to_restore)


def restore_one_file(
    source: str,
    target: str,
    settings: RestoreSettings,
    options: LoadOptions,
    *,
    work_folder: str | None = None,
    keep_work: bool = False,
    overwrite: bool = False,
    limits: ProbeLimits | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    report: bool = True,
    progress: Progress | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> tuple[Finished, int]:
    """Restore a file; what costs nothing to refuse is refused before a checkpoint is looked at.

    Returns what came of it, and how many GPUs of this machine restored it together.
    See :func:`~seedvr2_ray.restoration.run.restore_video` for the arguments.

    Raises:
        InputError: the source, the settings or the target are refused; nothing was written.
        DeploymentError: the weights cannot be had, or this machine cannot run the model.
    """
    require_source(source)
    require_target(source, target, overwrite=overwrite)
    model = ModelToLoad(settings, options)
    finished = restore_video(
        source,
        target,
        settings,
        identify(settings, options),
        model.load,
        work_folder=work_folder,
        keep_work=keep_work,
        overwrite=overwrite,
        limits=limits,
        max_pixels=max_pixels,
        report=report,
        progress=progress,
        check_cancelled=check_cancelled,
        accept=model.accept,
    )
    return finished, model.num_gpus
