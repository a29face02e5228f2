"""``restore``: one name for files and for frames in memory."""

from collections.abc import Callable
from typing import overload

from seedvr2_ray.api.files import FileName, RestoredFile, restore_file
from seedvr2_ray.api.pictures import restore_frames
from seedvr2_ray.api.progress import ProgressBar
from seedvr2_ray.errors import InputError
from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.load import LoadOptions
from seedvr2_ray.restoration.run import Progress
from seedvr2_ray.settings import RestoreSettings


@overload
def restore(
    source: FileName,
    target: FileName,
    settings: RestoreSettings | None = None,
    *,
    overwrite: bool = False,
    report: bool = True,
    work_folder: FileName | None = None,
    keep_work: bool = False,
    options: LoadOptions | None = None,
    progress: Progress | bool = False,
    check_cancelled: Callable[[], None] = ...,
    excerpt: str = "",
) -> RestoredFile: ...


@overload
def restore(
    source: Frames,
    target: None = None,
    settings: RestoreSettings | None = None,
    *,
    first_frame: int = 0,
    options: LoadOptions | None = None,
    progress: Progress | bool = False,
) -> Frames: ...


def restore(
    source: FileName | Frames,
    target: FileName | None = None,
    settings: RestoreSettings | None = None,
    *,
    overwrite: bool = False,
    report: bool = True,
    work_folder: FileName | None = None,
    keep_work: bool = False,
    first_frame: int = 0,
    options: LoadOptions | None = None,
    progress: Progress | bool = False,
    check_cancelled: Callable[[], None] = lambda: None,
    excerpt: str = "",
) -> RestoredFile | Frames:
    """Restore a file, or frames in memory.

    A file goes the way of ``seedvr2-ray restore``: safe to stop and to call again, with sound, subtitles, chapters and
    metadata copied, and with a report and the provenance beside the target. Frames are one segment, wholly in memory,
    and come back as frames, with their timestamps.

    Args:
        source: a path, or a URL that fsspec opens; or `Frames`, T x 3|4 x H x W of uint8 or uint16.
        target: where the master of a file goes; its suffix chooses the container. None with frames.
        settings: what a caller may choose; by default 1080p by the best model that this machine can run.
        overwrite: replace the target if it exists.
        report: write ``TARGET.html``, figures and before/after pictures.
        work_folder: for the committed work; by default a hidden folder beside the target.
        keep_work: leave it in place after success.
        first_frame: number of the first of the frames in the video that they come from: noise depends on it.
        options: how this machine loads models: weights, attention, compilation.
        progress: True shows a bar; an object with the methods of ``Progress`` is told what happens.
        check_cancelled: called every few seconds; raises to stop.
        excerpt: restore only a stretch of a file, such as ``"10-13.5"`` (seconds), ``"1:02-"`` or ``"frames 250-324"``,
            as in the settings, which it takes precedence over. The whole then repeats nothing of it.

    Returns:
        For a file, where the results lie and what was done. For frames, as many of them, T x 3|4 x H' x W', of the
        same type and depth.

    Raises:
        InputError: the source, the settings or the target are refused; nothing was written.
        CapacityError: it does not fit into this machine's memory.
        DeploymentError: the weights cannot be had, or this machine cannot run the model.
    """
    if isinstance(source, Frames):
        if target is not None:
            raise InputError("frames in memory come back as frames; name a file as the source to write one")
        if excerpt or (settings is not None and settings.excerpt):
            raise InputError(
                "frames in memory are restored all; take fewer of them, as read_frames does, for an excerpt"
            )
        if progress is not True:
            return restore_frames(source, settings, first_frame=first_frame, options=options, progress=progress or None)
        with ProgressBar() as bar:
            return restore_frames(source, settings, first_frame=first_frame, options=options, progress=bar)
    if target is None:
        raise InputError(f"say where the restored version of {source} goes: restore(source, target)")
    return restore_file(
        source,
        target,
        settings,
        overwrite=overwrite,
        report=report,
        work_folder=work_folder,
        keep_work=keep_work,
        options=options,
        progress=progress,
        check_cancelled=check_cancelled,
        excerpt=excerpt,
    )
