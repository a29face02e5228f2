"""``restore``: one segment from the source's frames to a committed intermediate.

It commits atomically under the segment's address and does nothing when the commit is there, so that any number of
workers may try, in any order, as often as they like.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seedvr2_ray.errors import DeploymentError, NotFiniteError
from seedvr2_ray.frames import Frames, FrameSpan
from seedvr2_ray.media.output.encode import FrameConverter
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.media.reading.proof import SpanProof, proved_codes
from seedvr2_ray.restoration.planning.plan import Recipe, Segment
from seedvr2_ray.restoration.report.quality import QualitySampler
from seedvr2_ray.restoration.report.source_step import SourceStep
from seedvr2_ray.restoration.restorer import Restorer, SegmentTask, gang_size_of
from seedvr2_ray.restoration.work.pieces import SplitWriter
from seedvr2_ray.restoration.work.remaining import RESTORED
from seedvr2_ray.restoration.work.threads import ReadAhead, WriteBehind
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.records import Commit

_log = logging.getLogger(__name__)

_BATCH_BYTES = 24 << 20
_LONGEST_BATCH = 8


@dataclass(frozen=True, slots=True)
class Intermediate:
    """A restored segment that lies in a workspace and is not committed yet."""

    path: Path
    record: dict[str, Any]


def restore_segment(
    recipe: Recipe,
    segment: Segment,
    restorer: Restorer,
    store: CommitStore,
    *,
    source_path: str,
    workspace: Path,
    on_frames: Callable[[int], None] = lambda num_frames: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Decode, restore, and commit one segment as a lossless intermediate, unless it is committed.

    Returns:
        The commit's record: what was done, how long each stage took, quality figures, missing frames.

    Raises:
        NotFiniteError: the plain path fails as well.
    """
    committed = store.find(RESTORED, segment.address)
    if committed is not None:
        return committed
    made = make_intermediate(
        recipe,
        segment,
        restorer,
        source_path=source_path,
        workspace=workspace,
        on_frames=on_frames,
        check_cancelled=check_cancelled,
    )
    return commit_intermediate(segment, made, store).record


def make_intermediate(
    recipe: Recipe,
    segment: Segment,
    restorer: Restorer,
    *,
    source_path: str,
    workspace: Path,
    on_frames: Callable[[int], None] = lambda num_frames: None,
    check_cancelled: Callable[[], None] = lambda: None,
    device: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Intermediate:
    """Decode, restore and encode one segment; no store is asked for anything.

    Memory is bounded by a few batches of frames and by what the restorer itself keeps. A segment that a model turns
    into NaN or infinity is tried once more without any way of computing faster, and then refused.

    Args:
        source_path: where the source's bytes lie on this machine.
        workspace: a folder for the file being written.
        on_frames: told how many more frames are restored, for progress.
        check_cancelled: raises to stop; called at least once per batch.
        device: entered when the first frames are decoded and left when the last ones are restored: meanwhile others
            may decode and encode, and not restore.

    Raises:
        NotFiniteError: the plain path fails as well.
    """
    if restorer.identity != recipe.restorer:
        raise DeploymentError(
            f"the segment was planned for {recipe.restorer.name} ({recipe.restorer.digest[:12]}) and this "
            f"worker holds {restorer.identity.name} ({restorer.identity.digest[:12]}); plan again, or "
            "start workers of the same version"
        )
    attempt = partial(
        _restore_and_encode,
        recipe,
        segment,
        restorer,
        source_path=source_path,
        workspace=workspace,
        check_cancelled=check_cancelled,
        device=device,
    )
    progress = _FurthestFrame(on_frames)
    try:
        return attempt(on_frames=progress.begin(), plain_path=False)
    except NotFiniteError as error:
        _log.warning("segment %d once more on the plain path: %s", segment.index, error)
    return attempt(on_frames=progress.begin(), plain_path=True)


def commit_intermediate(segment: Segment, made: Intermediate, store: CommitStore) -> Commit:
    """Commit an intermediate and delete the local file; of several commits of one segment the first counts."""
    commit, _ = store.settle(RESTORED, segment.address, made.record, made.path)
    made.path.unlink(missing_ok=True)
    return commit


class _FurthestFrame:
    """Tells of frames that no try before had reached, so that a second try is not counted twice."""

    def __init__(self, on_frames: Callable[[int], None]) -> None:
        self._on_frames = on_frames
        self._furthest = self._now = 0

    def begin(self) -> Callable[[int], None]:
        """Return what a new try, which begins at the first frame, tells of its frames."""
        self._now = 0
        return self._tell

    def _tell(self, num_frames: int) -> None:
        self._now += num_frames
        if self._now > self._furthest:
            self._on_frames(self._now - self._furthest)
            self._furthest = self._now


def _restore_and_encode(
    recipe: Recipe,
    segment: Segment,
    restorer: Restorer,
    *,
    source_path: str,
    workspace: Path,
    on_frames: Callable[[int], None],
    check_cancelled: Callable[[], None],
    device: Callable[[], AbstractContextManager[object]],
    plain_path: bool,
) -> Intermediate:
    missing: list[int] = []
    sampler, source_step = QualitySampler(segment.span), SourceStep(segment)
    task = SegmentTask(
        first_frame=segment.span.start,
        num_frames=segment.num_frames,
        geometry=recipe.geometry,
        settings=recipe.settings,
        output_depth=recipe.master.working_depth,
        plain_path=plain_path,
        check_cancelled=check_cancelled,
    )
    decoded = _decoded(recipe, segment, source_path, missing.append)
    converter = FrameConverter(recipe.master)
    num_restored = 0
    with SplitWriter(workspace / f"{segment.address}.mkv", recipe.master, segment) as writer:

        def encode(frames: Frames) -> None:
            for frame in converter.convert(frames):
                writer.write(frame)

        with (
            ReadAhead(source_step.watch(sampler.watch_source(decoded))) as source_frames,
            WriteBehind(encode) as encoder,
        ):
            with device():
                began = time.perf_counter()
                for frames in restorer.restore(iter(source_frames), task):
                    check_cancelled()
                    sampler.watch_restored(frames)
                    encoder.put(frames)
                    num_restored += len(frames)
                    on_frames(len(frames))
                seconds = time.perf_counter() - began
        # A short intermediate must not be committed: every later run would trust it and fail.
        assert num_restored == segment.num_frames, f"{recipe.restorer.name} made {num_restored} of {segment.num_frames}"
    record = {
        "segment": segment.index,
        "frames": [segment.span.start, segment.span.stop],
        "restorer": recipe.restorer.name,
        # Of whoever restored this segment; another run may have made others with another number of GPUs.
        "gang_size": gang_size_of(restorer),
        "seconds": round(seconds, 3),
        "idle_seconds": round(source_frames.waiting_seconds, 3),
        "missing_frames": sorted(set(missing)),
        # Every other frame had the check value of the pass that decoded the source from its beginning.
        "source_proved": segment.proof is not None,
        "concealed_frames": [] if segment.proof is None else _concealed(segment.proof, segment.span),
        "plain_path": plain_path,
        "quality": sampler.measure(),
        "source_step": source_step.measure(),
        "pieces": writer.pieces,
    }
    return Intermediate(writer.path, record)


def _decoded(recipe: Recipe, segment: Segment, source_path: str, on_missing: Callable[[int], None]) -> Iterator[Frames]:
    geometry, proof = recipe.geometry, segment.proof
    decoded = decode_span(
        source_path,
        recipe.video,
        segment.span,
        batch_frames=_batch_frames(geometry.source_width * geometry.source_height),
        deinterlace=recipe.settings.deinterlace,
        salvage=recipe.settings.salvage,
        on_missing=on_missing,
        proof=proof if proof is not None and not proof.of_codes else None,
    )
    return proved_codes(decoded, proof, segment.span.start) if proof is not None and proof.of_codes else decoded


def _concealed(proof: SpanProof, span: FrameSpan) -> list[int]:
    """Frames of damage that the decoder painted over; what it makes of them differs from run to run."""
    return [number for start, stop in proof.concealed for number in range(max(start, span.start), min(stop, span.stop))]


def _batch_frames(pixels: int) -> int:
    return max(1, min(_LONGEST_BATCH, _BATCH_BYTES // (pixels * 3)))
