"""SwiftVR behind the restorer's seam: what goes in comes out, larger, in order, and nothing leaks between segments."""

from dataclasses import replace
from fractions import Fraction
from itertools import groupby

import pytest
import torch

from seedvr2_ray.errors import CapacityError, NotFiniteError
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.swiftvr.config import TIME_STRIDE
from seedvr2_ray.restoration.diffusion import finish as diffusion_finish
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import MemoryCosts
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.swiftvr import restorer as swiftvr
from seedvr2_ray.restoration.swiftvr.restorer import SwiftVRRestorer
from seedvr2_ray.settings import RestoreSettings
from tests.models.swiftvr.tiny import CASES, golden, load_model

CPU = torch.device("cpu")
TIME_BASE = Fraction(1, 25)
COSTS = MemoryCosts.for_device("cpu")


@pytest.fixture(scope="module")
def model():
    with torch.no_grad():
        return load_model()


def _restorer(model, **changes):
    return SwiftVRRestorer(model, RestorerIdentity("tiny", "0"), device=CPU, **changes)


def _task(num_frames, size=(32, 32), source=(16, 16), *, depth=8, first=0, plain=False, check=lambda: None, **settings):
    return SegmentTask(
        first_frame=first,
        num_frames=num_frames,
        geometry=Geometry(source_width=source[1], source_height=source[0], width=size[1], height=size[0]),
        settings=RestoreSettings(**settings),
        output_depth=depth,
        plain_path=plain,
        check_cancelled=check,
    )


def _clip(num_frames, size=(16, 16), *, channels=3, dtype=torch.uint8, batches=4):
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(0, torch.iinfo(dtype).max, (num_frames, channels, *size), generator=generator).to(dtype)
    for numbers in (
        [n for _, n in group] for _, group in groupby(enumerate(range(num_frames)), lambda p: p[0] // batches)
    ):
        yield Frames(codes[numbers[0] : numbers[-1] + 1], tuple(7 * n for n in numbers), TIME_BASE)


def _joined(frames):
    batches = list(frames)
    pts = [pts for batch in batches for pts in batch.pts]
    return torch.cat([batch.data_TCHW for batch in batches]), pts


@pytest.mark.slow
def test_a_published_file_is_restored_as_published(model):
    published = golden("offline")
    for name in ("short", "single", "overlap1"):
        case = CASES["offline"][name]
        codes_TCHW = published[f"{name}.frames_u8"][: case["frames_written"]].permute(0, 3, 1, 2)
        num_frames, _, height, width = codes_TCHW.shape
        scale = case["upscale"]
        task = _task(num_frames, (height * scale, width * scale), (height, width), colour_match="none")
        restorer = _restorer(load_model(window=(2, 2), overlap=case["dit_overlap"]))
        clip = Frames(codes_TCHW, tuple(range(num_frames)), TIME_BASE)
        restored, _ = _joined(restorer.restore([clip], task))
        # The published code cuts where ours rounds.
        difference = restored[::5].permute(0, 2, 3, 1).int() - published[f"{name}.out_u8"].int()
        assert int(difference.abs().max()) <= 1, name


@pytest.mark.parametrize("num_frames", [1, 2, 5, 12, 13, 19])
def test_the_same_frames_come_out_in_order_at_the_asked_size(model, num_frames):
    restored, pts = _joined(_restorer(model).restore(_clip(num_frames), _task(num_frames, (40, 36))))
    assert restored.shape == (num_frames, 3, 40, 36)
    assert restored.dtype == torch.uint8
    assert pts == [7 * n for n in range(num_frames)]


@pytest.mark.slow
def test_as_many_frames_come_out_as_went_in_for_every_length(model):
    restorer = _restorer(model)
    for num_frames in range(1, 61):
        _, pts = _joined(restorer.restore(_clip(num_frames), _task(num_frames, colour_match="none")))
        assert pts == [7 * n for n in range(num_frames)]


def test_how_frames_come_in_batches_changes_nothing(model):
    restorer = _restorer(model)
    whole, _ = _joined(restorer.restore(_clip(15, batches=15), _task(15)))
    for batches in (1, 2, 7):
        assert torch.equal(_joined(restorer.restore(_clip(15, batches=batches), _task(15)))[0], whole)


def test_a_source_that_ends_in_mid_chunk_ends_with_every_frame_that_came(model):
    # The task promised 30; what was read must not be lost, and whoever promised notices.
    _, pts = _joined(_restorer(model).restore(_clip(14), _task(30)))
    assert pts == [7 * n for n in range(14)]


@pytest.mark.parametrize("num_frames", [1, 14, 20])
def test_a_stream_whose_end_nobody_knows_gives_the_frames_of_a_segment(model, num_frames):
    restorer = _restorer(model)
    whole, _ = _joined(restorer.restore(_clip(num_frames), _task(num_frames)))
    streamed, pts = _joined(restorer.restore(_clip(num_frames), _task(None)))
    assert torch.equal(streamed, whole)
    assert pts == [7 * n for n in range(num_frames)]


def test_frames_of_a_stream_leave_before_it_ends(model):
    pulled = []

    def endless():
        for frames in _clip(1000, batches=1):
            pulled.extend(frames.pts)
            yield frames

    chunk = model.config.clip_frames
    left = next(_restorer(model).restore(endless(), _task(None)))
    assert left.pts[0] == 0
    assert len(pulled) <= chunk + TIME_STRIDE


def test_two_segments_at_once_through_one_restorer_do_not_meet(model):
    restorer = _restorer(model)
    alone, _ = _joined(restorer.restore(_clip(20), _task(20)))
    one, other = restorer.restore(_clip(20), _task(20)), restorer.restore(_clip(20, channels=4), _task(20))
    pieces = [batch for pair in zip(one, other, strict=False) for batch in pair[:1]]
    pieces += list(one)
    assert torch.equal(_joined(pieces)[0], alone)


@pytest.mark.parametrize(("dtype", "depth"), [(torch.uint8, 8), (torch.uint16, 16), (torch.uint8, 16)])
def test_depth_is_what_was_asked_for_whatever_came_in(model, dtype, depth):
    restored, _ = _joined(_restorer(model).restore(_clip(3, dtype=dtype), _task(3, depth=depth)))
    assert restored.dtype == (torch.uint8 if depth == 8 else torch.uint16)


def test_alpha_stays_beside_the_picture(model):
    restored, _ = _joined(_restorer(model).restore(_clip(6, channels=4), _task(6)))
    assert restored.shape[1] == 4
    opaque = [
        Frames(f.data_TCHW.clone().index_fill_(1, torch.tensor(3), 255), f.pts, TIME_BASE) for f in _clip(6, channels=4)
    ]
    assert (_joined(_restorer(model).restore(opaque, _task(6)))[0][:, 3] == 255).all()


def test_colours_come_back_to_the_sources_unless_told_not_to(model):
    grey = [Frames(torch.full((5, 3, 16, 16), 128, dtype=torch.uint8), tuple(range(5)), TIME_BASE)]
    plain, matched = (
        _joined(_restorer(model).restore(grey, _task(5, colour_match=method)))[0].float().mean()
        for method in ("none", "wavelet")
    )
    assert abs(matched - 128) < abs(plain - 128)
    assert abs(matched - 128) < 4


@pytest.mark.slow
def test_less_memory_means_smaller_steps_and_the_same_picture(model):
    restorer, task = _restorer(model), _task(20)
    whole, _ = _joined(restorer.restore(_clip(20), task))
    frugal = _restorer(model, costs=replace(COSTS, frame_tensors=1e6))
    available = 3 * 4 * 32 * 32 * 4 * 1e6
    for latents_at_once in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                swiftvr, "free_bytes", lambda device, n=latents_at_once: int(available * (n + 0.5) / 0.9 + 2e8)
            )
            assert frugal.plan(task).memory.latents_at_once == latents_at_once
            pieces, _ = _joined(frugal.restore(_clip(20), task))
        assert int((pieces.int() - whole.int()).abs().max()) <= 1


def test_what_does_not_fit_is_refused_before_a_frame_is_read(model, monkeypatch):
    monkeypatch.setattr(swiftvr, "free_bytes", lambda device: 10**6)
    with pytest.raises(
        CapacityError, match=r"32x32 with SwiftVR needs .* GiB can be used; choose a smaller resolution"
    ):
        next(_restorer(model).restore(iter([]), _task(3)))


def test_memory_that_runs_out_after_all_is_a_capacity_error(model, monkeypatch):
    def run_out(*args, **options):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(swiftvr, "restore_latents", run_out)
    with pytest.raises(CapacityError, match="memory ran out at 32x32 although"):
        list(_restorer(model).restore(_clip(3), _task(3)))


def test_cancelling_stops_between_steps(model):
    steps = []

    def check():
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(_restorer(model).restore(_clip(60), _task(60, check=check)))
    assert len(steps) == 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("stage", ["encode", "transform", "decode", "colour match"])
def test_a_bad_value_of_any_stage_is_refused_by_the_stages_name(model, monkeypatch, stage, bad):
    owner, name = {
        "encode": (model.reae, "encode"),
        "transform": (swiftvr, "restore_latents"),
        "decode": (model.reae, "decode"),
        "colour match": (diffusion_finish, "match_colour"),
    }[stage]
    real = getattr(owner, name)

    def spoiled(*args, **options):
        made = real(*args, **options)
        values = (made[0] if isinstance(made, tuple) else made).clone()
        values.view(-1)[-1] = bad
        return (values, *made[1:]) if isinstance(made, tuple) else values

    monkeypatch.setattr(owner, name, spoiled)
    with pytest.raises(NotFiniteError, match=rf"stage '{stage}' made numbers of frames 100 to 105 .*another model"):
        list(_restorer(model).restore(_clip(6), _task(6, first=100)))


def test_the_plain_path_leaves_other_kernels_out(model, monkeypatch):
    seen = []
    real = swiftvr.restore_latents

    def watched(*args, execution, **options):
        seen.append(execution.attention)
        return real(*args, execution=replace(execution, attention="sdpa"), **options)

    monkeypatch.setattr(swiftvr, "restore_latents", watched)
    restorer = _restorer(model, attention="varlen")
    for plain in (False, True):
        list(restorer.restore(_clip(2), _task(2, plain=plain)))
    assert seen == ["varlen", "sdpa"]


def test_every_step_of_every_stage_can_be_measured(model):
    class Watch:
        def __init__(self):
            self.stages = []

        def __call__(self, stage):
            self.stages.append(stage)
            return torch.no_grad()

    watch = Watch()
    list(_restorer(model, watch=watch).restore(_clip(9), _task(9)))
    assert watch.stages == ["encode", "transform", "decode", "finish"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_restorer_gives_the_plain_picture_and_says_what_compiling_took():
    model = load_model()
    plain, _ = _joined(_restorer(model).restore(_clip(13), _task(13)))
    restorer = _restorer(model)
    assert restorer.compile() > 0
    compiled, _ = _joined(restorer.restore(_clip(13), _task(13)))
    assert int((compiled.int() - plain.int()).abs().max()) <= 1
    # On the plain path nothing that was compiled takes part.
    again, _ = _joined(restorer.restore(_clip(13), _task(13, plain=True)))
    assert torch.equal(again, plain)
