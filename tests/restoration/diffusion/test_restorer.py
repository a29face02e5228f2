from dataclasses import replace
from fractions import Fraction
from itertools import groupby

import pytest
import torch

from seedvr2_ray.errors import CapacityError, DeploymentError, DeviceMemoryError, SettingsError
from seedvr2_ray.frames import Frames, to_unit_range
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.vae.config import FAST, FAST_ON_CPU, VAEConfig
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.restoration.colour.colour_match import wavelet_original
from seedvr2_ray.restoration.diffusion import restorer as diffusion
from seedvr2_ray.restoration.diffusion import stages as diffusion_stages
from seedvr2_ray.restoration.diffusion.placement import Placement
from seedvr2_ray.restoration.diffusion.preprocess import preprocess_reference
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.diffusion.stages import DiffusionModel, EncodeStage
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryCosts
from seedvr2_ray.restoration.planning.reference_size import plan_reference_size, reference_geometry
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.work.failures import is_transient
from seedvr2_ray.settings import RestoreSettings

CPU = torch.device("cpu")
DIT = DiTConfig(
    width=16,
    num_layers=2,
    num_heads=2,
    head_dim=12,
    mlp="gelu",
    rope="video",
    num_dual_layers=1,
    has_output_modulation=False,
    modulates_last_text=True,
    text_dim=8,
)
VAE = VAEConfig(block_out_channels=(4, 4, 4), norm_groups=2, encoder_layers_per_block=1)
NANO_LIKE = VAEConfig(block_out_channels=(4, 4), norm_groups=2, num_temporal_stages=1, mid_attention=False)


def _model(vae_config=VAE):
    torch.manual_seed(7)
    return DiffusionModel(
        transformer=SeedVR2Transformer(DIT).requires_grad_(False).eval(),
        vae=VideoVAE(vae_config).requires_grad_(False).eval(),
        positive_LC=torch.randn(3, 8),
        negative_LC=torch.randn(4, 8),
        anchor_rows=16,
    )


MODEL = _model()


def _restorer(model=MODEL, **changes):
    return DiffusionRestorer(model, RestorerIdentity("tiny", "0"), device=CPU, **changes)


def _task(num_frames, size=(16, 16), source=(8, 8), *, depth=8, first=0, **settings):
    height, width = size
    return SegmentTask(
        first_frame=first,
        num_frames=num_frames,
        geometry=Geometry(source_width=source[1], source_height=source[0], width=width, height=height),
        settings=RestoreSettings(**{"chunk_frames": 9, "chunk_overlap": 1, "padding": "reflect", **settings}),
        output_depth=depth,
    )


def _clip(num_frames, size=(8, 8), *, channels=3, dtype=torch.uint8, batches=4):
    generator = torch.Generator().manual_seed(1)
    peak = 255 if dtype == torch.uint8 else 65535
    codes = torch.randint(0, peak + 1, (num_frames, channels, *size), generator=generator, dtype=torch.int32).to(dtype)
    for start in range(0, num_frames, batches):
        part = codes[start : start + batches]
        yield Frames(part, tuple(range(start, start + len(part))), Fraction(1, 25))


def _restore(restorer, task, clip=None):
    size = (task.geometry.source_height, task.geometry.source_width)
    batches = list(restorer.restore(clip if clip is not None else _clip(task.num_frames, size), task))
    assert [pts for batch in batches for pts in batch.pts] == list(range(task.num_frames))
    return torch.cat([batch.data_TCHW for batch in batches])


@pytest.mark.parametrize("num_frames", [1, 5, 7, 13])
def test_a_segment_comes_back_with_as_many_frames_at_the_outputs_size(num_frames):
    out = _restore(_restorer(), _task(num_frames, (40, 24), (20, 12), padding="reflect_black"))
    assert out.shape == (num_frames, 3, 40, 24)
    assert out.dtype == torch.uint8
    assert out.unique().numel() > 16


def test_a_stream_whose_end_nobody_knows_is_refused_before_its_first_frame_with_the_way_out():
    frames = _clip(5)
    with pytest.raises(SettingsError, match="cut the stream into segments"):
        next(_restorer().restore(frames, _task(None)))
    assert next(frames).pts[0] == 0


@pytest.mark.parametrize(
    ("num_frames", "channels", "dtype", "depth"), [(1, 4, torch.uint8, 16), (6, 4, torch.uint16, 8)]
)
def test_alpha_and_sixteen_bits_go_in_and_out(num_frames, channels, dtype, depth):
    task = _task(num_frames, depth=depth)
    out = _restore(_restorer(), task, _clip(num_frames, channels=channels, dtype=dtype))
    assert out.shape == (num_frames, channels, 16, 16)
    assert out.dtype == (torch.uint8 if depth == 8 else torch.uint16)


def test_an_opaque_clip_stays_opaque():
    (frames,) = _clip(2, channels=4)
    frames.data_TCHW[:, 3] = 255
    assert (_restore(_restorer(), _task(2), [frames])[:, 3] == 255).all()


def test_grey_stays_grey_where_colours_are_taken_from_the_source():
    codes = torch.arange(8, dtype=torch.uint8).mul(32).expand(1, 3, 8, 8).contiguous()
    out = _restore(_restorer(), _task(1, colour_match="lab"), [Frames(codes, (0,), Fraction(1, 25))])
    spread = out.float().mean((0, 2, 3))
    assert spread.max() - spread.min() < 3


def test_odd_sizes_and_shrinking_work():
    assert _restore(_restorer(), _task(2, (13, 19), (20, 17))).shape == (2, 3, 13, 19)


def test_two_runs_give_the_same_bytes():
    assert torch.equal(_restore(_restorer(), _task(7)), _restore(_restorer(), _task(7)))


def test_the_seed_and_the_place_in_the_file_decide_the_noise():
    base = _restore(_restorer(), _task(5))
    assert not torch.equal(base, _restore(_restorer(), _task(5, seed=1)))
    assert not torch.equal(base, _restore(_restorer(), _task(5, first=4)))


def test_batches_of_source_frames_of_any_length_give_the_same_picture():
    task = _task(13)
    whole = _restore(_restorer(), task, _clip(13, batches=13))
    assert torch.equal(whole, _restore(_restorer(), task, _clip(13, batches=1)))


@pytest.mark.parametrize(
    ("knobs", "options"),
    [(LADDER[2], FAST_ON_CPU), (LADDER[4], FAST_ON_CPU), (replace(LADDER[6], conv_elements=1500), FAST)],
)
def test_exact_knobs_do_not_change_the_picture(knobs, options, monkeypatch):
    task = _task(13, depth=16, chunk_frames=5)
    expected = to_unit_range(_restore(_restorer(), task))
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (knobs,))
    actual = to_unit_range(_restore(_restorer(vae_options=options), task))
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("options", [FAST, FAST_ON_CPU])
@pytest.mark.parametrize("vae_config", [VAE, NANO_LIKE])
def test_fast_ways_of_the_vae_do_not_change_the_picture(vae_config, options):
    model, task = _model(vae_config), _task(7, depth=16)
    expected = to_unit_range(_restore(_restorer(model), task))
    actual = to_unit_range(_restore(_restorer(model, vae_options=options), task))
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_restorer_gives_the_plain_picture_and_says_what_compiling_took():
    tasks = [_task(7, depth=16), _task(1, (32, 48), depth=16, sample_steps=2)]
    expected = [to_unit_range(_restore(_restorer(), task)) for task in tasks]
    restorer = _restorer(_model())
    assert restorer.compile() > 0
    for task, plain in zip(tasks, expected, strict=True):
        torch.testing.assert_close(to_unit_range(_restore(restorer, task)), plain, atol=2e-4, rtol=0)


def test_a_machine_that_cannot_compile_says_so_before_any_frame(monkeypatch):
    def broken(function, **_):
        def run(*_, **__):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nlong trace")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        DeploymentError, match=r"does not work on this machine \(InvalidCxxCompiler: No working.*found\)"
    ):
        _restorer(_model()).compile()


def test_one_step_uses_the_folded_timestep_and_several_steps_the_network(monkeypatch):
    model = _model()
    restorer, asked = _restorer(model), []
    embed = model.transformer.embed_timestep
    monkeypatch.setattr(model.transformer, "embed_timestep", lambda time: asked.append(time) or embed(time))
    _restore(restorer, _task(1))
    assert asked == []
    _restore(restorer, _task(1, sample_steps=4))
    assert asked == [750.0, 500.0, 250.0]


def test_under_offload_each_network_comes_once_and_the_vae_again_to_decode(monkeypatch):
    restorer, brought = _restorer(), []
    monkeypatch.setattr(Placement, "bring", lambda self, name, *, alone: brought.append((name, alone)))
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (replace(LADDER[-1], offload=False),))
    _restore(restorer, _task(13, chunk_frames=5, chunk_overlap=0))
    assert not any(alone for _, alone in brought)
    brought.clear()
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (LADDER[-1],))
    plan = diffusion.plan_memory
    monkeypatch.setattr(
        diffusion, "plan_memory", lambda *args, **options: plan(*args, **{**options, "may_offload": True})
    )
    _restore(restorer, _task(13, chunk_frames=5, chunk_overlap=0))
    assert all(alone for _, alone in brought)
    assert [name for name, _ in groupby(name for name, _ in brought)] == ["vae", "transformer", "vae"]


def test_noise_does_not_depend_on_chunks_or_segments():
    drawn = {}

    def draw(seed, numbers, size):
        noise = diffusion.draw_noise(seed, numbers, size)
        for number, latent in zip(numbers, noise, strict=True):
            assert torch.equal(drawn.setdefault(number, latent), latent)
        return noise

    restorer = _restorer(draw=draw)
    for task in (_task(9, first=8), _task(9), _task(13, chunk_frames=5), _task(9, chunk_frames=5)):
        _restore(restorer, task)
    assert sorted(drawn) == list(range(0, 17, 4))


def test_chunks_joined_are_the_whole_where_the_transformer_treats_latents_by_themselves(monkeypatch):
    def by_itself(transformer, noise_THWC, condition_THWC, *_, **__):
        return 0.9 * condition_THWC + 0.1 * noise_THWC

    monkeypatch.setattr(diffusion_stages, "sample", by_itself)
    one = _restore(_restorer(), _task(21, depth=16, chunk_frames=21, chunk_overlap=0))
    for chunk_frames, overlap in ((9, 1), (13, 3)):
        many = _restore(_restorer(), _task(21, depth=16, chunk_frames=chunk_frames, chunk_overlap=overlap))
        torch.testing.assert_close(to_unit_range(many), to_unit_range(one), atol=2e-4, rtol=0)


def test_a_vae_of_other_strides_fits_the_same_path():
    out = _restore(_restorer(_model(NANO_LIKE)), _task(6, (20, 18), (10, 9)))
    assert out.shape == (6, 3, 20, 18)


def test_frames_leave_before_all_have_come_in():
    taken = []

    def watched():
        for frames in _clip(41, batches=1):
            taken.append(frames.pts[0])
            yield frames

    first = next(iter(_restorer().restore(watched(), _task(41, chunk_frames=5, chunk_overlap=0))))
    assert first.pts[0] == 0
    assert len(taken) < 41


def test_cancelling_stops_within_a_step():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    task = replace(_task(13), check_cancelled=check)
    with pytest.raises(KeyboardInterrupt):
        list(_restorer().restore(_clip(13), task))
    assert len(calls) == 3


def test_guidance_and_several_steps_are_followed():
    base = _restore(_restorer(), _task(1))
    assert not torch.equal(base, _restore(_restorer(), _task(1, sample_steps=2)))
    assert not torch.equal(base, _restore(_restorer(), _task(1, cfg_scale=3.0, cfg_rescale=0.5)))


def _failing_sample(monkeypatch, times):
    real = diffusion_stages.sample
    calls = []

    def sample(*args, **options):
        calls.append(options["execution"])
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **options)

    monkeypatch.setattr(diffusion_stages, "sample", sample)
    return calls


@pytest.mark.slow
def test_running_out_of_memory_is_planned_anew_once_and_gives_the_same_picture(monkeypatch):
    task = _task(9, depth=16)
    expected = to_unit_range(_restore(_restorer(), task))
    _failing_sample(monkeypatch, 1)
    torch.testing.assert_close(to_unit_range(_restore(_restorer(), task)), expected, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_running_out_of_memory_in_every_way_is_refused_once_with_what_was_tried(monkeypatch):
    calls = _failing_sample(monkeypatch, 99)
    restorer = _restorer()
    with pytest.raises(DeviceMemoryError, match=r"16x16 .*but memory ran out in the stage 'transform'"):
        list(restorer.restore(_clip(9), _task(9)))
    assert 1 < len(calls) <= len(LADDER)
    assert not is_transient(DeviceMemoryError(""))
    calls.clear()
    with pytest.raises(DeviceMemoryError):
        list(restorer.restore(_clip(9), _task(9)))
    assert calls == []


@pytest.mark.slow
def test_a_finished_stage_is_not_done_again_and_the_next_segment_begins_where_this_one_ended(monkeypatch):
    encoded, real = [], EncodeStage._encode_slice
    monkeypatch.setattr(EncodeStage, "_encode_slice", lambda self, batch: encoded.append(1) or real(self, batch))
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", LADDER[4:7])
    calls, restorer = _failing_sample(monkeypatch, 1), _restorer()
    expected = to_unit_range(_restore(_restorer(), _task(9, depth=16)))
    encoded.clear()
    calls.clear()
    _failing_sample(monkeypatch, 1)
    task = _task(9, depth=16)
    torch.testing.assert_close(to_unit_range(_restore(restorer, task)), expected, atol=2e-4, rtol=0)
    once = len(encoded)
    assert once == 2
    knobs = restorer.plan(task).memory.knobs
    assert LADDER.index(knobs) > 4


def test_running_out_of_memory_later_is_a_capacity_error_because_frames_are_out_already(monkeypatch):
    stream = iter(_restorer().restore(_clip(33), _task(33, chunk_frames=5, chunk_overlap=0)))
    next(stream)
    _failing_sample(monkeypatch, 99)
    with pytest.raises(CapacityError):
        list(stream)


def test_what_cannot_fit_is_refused_before_any_frame_is_decoded():
    costs = replace(MemoryCosts.for_device("cpu"), workspace_bytes=2**60)

    def untouched():
        pytest.fail("a frame was asked for")
        yield

    with pytest.raises(CapacityError, match=r"GiB.*smaller resolution"):
        next(iter(_restorer(costs=costs).restore(untouched(), _task(5))))


@pytest.mark.gpu
@pytest.mark.parametrize("knobs", [LADDER[0], LADDER[-1]])
def test_a_gpu_in_bfloat16_gives_nearly_the_picture_of_a_cpu_in_float32(knobs, monkeypatch):
    expected = to_unit_range(_restore(_restorer(), _task(9, (64, 64), (32, 32))))
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (knobs,))
    gpu = torch.device("cuda")
    model = _model()
    for network in (model.transformer, model.vae):
        for name, parameter in network.named_parameters():
            parameter.data = parameter.data.to(gpu, parameter_dtype(torch.bfloat16, name))
        network.to(gpu)
    model = replace(model, positive_LC=model.positive_LC.to(gpu), negative_LC=model.negative_LC.to(gpu))
    restorer = DiffusionRestorer(model, RestorerIdentity("tiny", "0"), device=gpu, vae_options=FAST)
    actual = to_unit_range(_restore(restorer, _task(9, (64, 64), (32, 32))))
    assert (actual - expected).square().mean().sqrt() < 0.02


class TestReference:
    """The published script's order of operations."""

    def _task(self, num_frames, resolution="area:80x48", source=(37, 54), **settings):
        geometry = reference_geometry(source[1], source[0], resolution)
        task = _task(num_frames, reference=True, resolution=resolution, **settings)
        return replace(task, geometry=geometry)

    @pytest.mark.slow
    def test_the_whole_segment_is_one_chunk_at_the_scripts_size(self):
        task = self._task(14)
        plan = _restorer().plan(task)
        assert [(chunk.start, chunk.stop) for chunk in plan.chunks] == [(0, 5)]
        assert (plan.padding.padded_height, plan.padding.padded_width) == (task.geometry.height, task.geometry.width)
        assert _restore(_restorer(), task).shape == (14, 3, task.geometry.height, task.geometry.width)

    def test_given_noise_is_used_as_it_is(self):
        noise = torch.randn(2, 12, 16, 16)
        seen = []

        def draw(seed, numbers, size):
            seen.append(size)
            return noise

        out = _restore(_restorer(draw=draw), self._task(3))
        assert seen
        assert not torch.equal(out, _restore(_restorer(), self._task(3)))

    def test_the_picture_is_that_of_the_scripts_steps_written_out(self):
        task = self._task(6, colour_match="wavelet")
        (clip,) = _clip(6, (37, 54), batches=6)
        out = _restore(_restorer(), task, [clip])

        style = preprocess_reference(to_unit_range(clip.data_TCHW), plan_reference_size(37, 54, 48, 80))
        padded = torch.cat([style, style[-1:].expand(3, -1, -1, -1)])
        latents = MODEL.vae.encode(padded.transpose(0, 1)[None]).mode * VAE.scaling_factor
        condition = latents[0].permute(1, 2, 3, 0)
        noise = diffusion.draw_noise(666, [0, 4, 8], tuple(condition.shape[1:]))
        x0 = diffusion_stages.sample(MODEL.transformer, noise, condition, MODEL.positive_LC)
        decoded = MODEL.vae.decode(x0.permute(3, 0, 1, 2)[None] / VAE.scaling_factor)[0].transpose(0, 1)[:6]
        fixed = wavelet_original(decoded, style).clamp(-1, 1)
        expected = ((fixed * 0.5 + 0.5) * 255).round()
        assert (out.float() - expected).abs().max() <= 1

    def test_another_kind_of_resolution_is_refused(self):
        with pytest.raises(SettingsError, match="area:WxH"):
            _restorer().plan(_task(3, reference=True, resolution="720p"))

    def test_a_geometry_of_other_size_is_refused(self):
        with pytest.raises(SettingsError, match="reference_geometry"):
            _restorer().plan(_task(3, reference=True, resolution="area:80x48"))
