import itertools
from dataclasses import replace
from functools import partial

import pytest

from seedvr2_ray.errors import InputError
from seedvr2_ray.media.info import Notice
from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.restoration.planning import plan
from seedvr2_ray.restoration.planning.plan import ALIGNMENT, cut_segments
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source
from tests.restoration import plans

VIDEOS = [
    pytest.param(shots, num_frames, longest, overlap, id=f"{len(shots)}shots-{num_frames}f-{longest}-{overlap}")
    for shots, num_frames in [
        ((0,), 1),
        ((0,), 7),
        ((0,), 251),
        ((0,), 1000),
        ((0, 1, 10, 11, 300), 900),
        ((0, 480), 481),
    ]
    for longest in (4, 12, 48, 240)
    for overlap in (0, 1, 8, 16)
]


@pytest.mark.parametrize(("shots", "num_frames", "longest", "overlap"), VIDEOS)
def test_without_their_overlaps_segments_cover_every_frame_once(shots, num_frames, longest, overlap):
    cuts = cut_segments(shots, num_frames, longest=longest, overlap=overlap)
    owned = list(itertools.chain.from_iterable(range(cut.start + cut.overlap, cut.stop) for cut in cuts))
    assert owned == list(range(num_frames))


@pytest.mark.parametrize(("shots", "num_frames", "longest", "overlap"), VIDEOS)
def test_no_segment_reaches_across_a_cut_and_every_shot_starts_one(shots, num_frames, longest, overlap):
    cuts = cut_segments(shots, num_frames, longest=longest, overlap=overlap)
    ends = dict(zip(shots, [*shots[1:], num_frames], strict=True))
    starts = {cut.start for cut in cuts if cut.overlap == 0}
    assert starts >= set(shots)
    for cut in cuts:
        first = shots[cut.shot]
        assert first <= cut.start < cut.stop <= ends[first]


@pytest.mark.parametrize(("shots", "num_frames", "longest", "overlap"), VIDEOS)
def test_inside_a_shot_segments_start_whole_latents_apart_and_share_the_asked_overlap(
    shots, num_frames, longest, overlap
):
    cuts = cut_segments(shots, num_frames, longest=longest, overlap=overlap)
    for before, after in itertools.pairwise(cuts):
        if before.shot == after.shot:
            assert (after.start - shots[after.shot]) % ALIGNMENT == 0
            assert before.stop - after.start == after.overlap == overlap


@pytest.mark.parametrize(("shots", "num_frames", "longest", "overlap"), VIDEOS)
def test_a_frame_is_shared_by_two_segments_at_most(shots, num_frames, longest, overlap):
    cuts = cut_segments(shots, num_frames, longest=longest, overlap=overlap)
    for frame in range(num_frames):
        assert sum(cut.start <= frame < cut.stop for cut in cuts) <= 2


def test_a_long_shot_is_cut_into_about_equal_segments():
    cuts = cut_segments((0,), 24 * 61, longest=240, overlap=8)
    lengths = [cut.stop - cut.start for cut in cuts]
    assert max(lengths) - min(lengths) <= 2 * ALIGNMENT
    assert max(lengths) <= 240 + 2 * ALIGNMENT


@pytest.mark.parametrize(("field_order", "subject"), [("interlaced", "interlacing"), ("telecined", "telecine")])
def test_fields_are_refused_unless_the_way_out_that_the_refusal_names_is_taken(field_order, subject):
    refusal = Notice("refused", subject, "pass --deinterlace bwdif")
    media = replace(a_source(field_order=field_order), preflight=(refusal,))
    plan_with = partial(plans.a_plan, restorer=LANCZOS, media=media)
    with pytest.raises(InputError, match=subject):
        plan_with(RestoreSettings(resolution="x2"))
    notices = plan_with(RestoreSettings(resolution="x2", deinterlace="bwdif")).notices
    assert ("converted", subject) in {(notice.outcome, notice.subject) for notice in notices}


def test_intermediates_of_other_conversions_have_other_addresses_and_those_of_the_same_do_not(monkeypatch):
    def addresses():
        planned = plans.a_plan(RestoreSettings(resolution="x2"), LANCZOS)
        return {address for segment in planned.segments for address in (segment.address, segment.part_address)}

    before = addresses()
    assert addresses() == before
    monkeypatch.setattr(plan, "conversions_fingerprint", lambda: "of another libav")
    assert not addresses() & before
