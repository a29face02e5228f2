"""A segment that a model turns into NaN is tried once more without fast ways, and never committed as it is."""

import pytest

from seedvr2_ray.errors import NotFiniteError
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import open_work, prepare
from seedvr2_ray.restoration.work.remaining import RESTORED
from seedvr2_ray.restoration.work.segment import restore_segment
from tests.media import clips
from tests.restoration.test_run import SETTINGS


class FailingRestorer(LanczosRestorer):
    """Finds a NaN after some batches, on the fast path or on both."""

    def __init__(self, *, also_plain):
        super().__init__()
        self.also_plain = also_plain
        self.paths = []

    def restore(self, frames, task):
        self.paths.append(task.plain_path)
        for number, batch in enumerate(super().restore(frames, task)):
            if number == 3 and (self.also_plain or not task.plain_path):
                raise NotFiniteError("the stage 'decode' made numbers of frames 3 to 3 that are NaN")
            yield batch


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, num_frames=12, bframes=0)
    return str(path)


def _restore(clip, restorer, folder, on_frames=lambda num_frames: None):
    target = str(folder / "out.mp4")
    with open_work(target, None, keep=False) as (store, workspace):
        prepared = prepare(clip, target, SETTINGS, restorer.identity, store=store, workspace=workspace)
        segment = prepared.plan.segments[0]
        try:
            record = restore_segment(
                prepared.plan.recipe,
                segment,
                restorer,
                store,
                source_path=clip,
                workspace=workspace,
                on_frames=on_frames,
            )
        except NotFiniteError:
            assert store.find(RESTORED, segment.address) is None
            raise
        payload = store.fetch_payload(RESTORED, segment.address, workspace)
        return segment.num_frames, record, payload.read_bytes()


@pytest.mark.slow
def test_the_plain_path_is_tried_once_and_recorded(clip, tmp_path):
    restorer, told = FailingRestorer(also_plain=False), []
    num_frames, record, payload = _restore(clip, restorer, tmp_path, told.append)
    assert restorer.paths == [False, True]
    assert record["plain_path"] is True
    assert sum(told) == num_frames
    assert all(count > 0 for count in told)
    _, undisturbed, expected = _restore(clip, LanczosRestorer(), tmp_path)
    assert undisturbed["plain_path"] is False
    assert payload == expected


def test_a_segment_that_fails_on_the_plain_path_too_is_refused_and_not_committed(clip, tmp_path):
    restorer = FailingRestorer(also_plain=True)
    with pytest.raises(NotFiniteError, match="NaN"):
        _restore(clip, restorer, tmp_path)
    assert restorer.paths == [False, True]
