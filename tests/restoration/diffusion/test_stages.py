"""What the stages of a diffusion model keep, and what they do with tiles."""

import weakref
from dataclasses import replace

import pytest
import torch

from seedvr2_ray.frames import to_unit_range
from seedvr2_ray.models.seedvr2.vae.config import FAST
from seedvr2_ray.restoration.diffusion import restorer as diffusion
from seedvr2_ray.restoration.diffusion import stages as diffusion_stages
from seedvr2_ray.restoration.planning.memory import LADDER
from tests.restoration.diffusion.test_restorer import MODEL, _restore, _restorer, _task


class _Alive:
    """Counts what the VAE's passes leave behind and nobody has let go of."""

    def __init__(self, monkeypatch):
        self._caches = {"encode": [], "decode": []}
        for name, refs in self._caches.items():
            monkeypatch.setattr(MODEL.vae, f"{name}_slice", self._watched(getattr(MODEL.vae, f"{name}_slice"), refs))

    @staticmethod
    def _watched(method, refs):
        def call(*args, **options):
            made, state = method(*args, **options)
            refs.extend(weakref.ref(cache) for cache in state.caches)
            return made, state

        return call

    def __call__(self, name):
        return any(ref() is not None for ref in self._caches[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("knobs", "encoder", "decoder"),
    [
        (LADDER[2], [True, True, False], [False, True, True]),  # The encoder forgets when it has seen the last frame.
        (LADDER[4], [False, False, False], [False, True, True]),
        (replace(LADDER[-1], offload=True), [False, False, False], [False, False, False]),
    ],
    ids=["streaming", "encode_first", "offload"],
)
def test_what_the_vae_remembers_is_alive_while_the_transformer_works_only_where_the_plan_says_so(
    knobs, encoder, decoder, monkeypatch
):
    alive, seen = _Alive(monkeypatch), []
    real = diffusion_stages.sample
    monkeypatch.setattr(
        diffusion_stages,
        "sample",
        lambda *args, **options: seen.append((alive("encode"), alive("decode"))) or real(*args, **options),
    )
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (knobs,))
    plan = diffusion.plan_memory
    monkeypatch.setattr(
        diffusion, "plan_memory", lambda *args, **options: plan(*args, **{**options, "may_offload": True})
    )
    _restore(_restorer(), _task(33, chunk_frames=13, chunk_overlap=0))
    assert [one for one, _ in seen] == encoder
    assert [other for _, other in seen] == decoder
    assert not alive("encode")
    assert not alive("decode")


class TestTiles:
    """Frames encoded and decoded in tiles: another picture, but one that depends on the settings alone."""

    def _task(self, **settings):
        return _task(6, (72, 40), (18, 10), depth=16, **settings)

    @pytest.mark.slow
    def test_a_tile_that_holds_the_frame_changes_nothing(self):
        assert torch.equal(_restore(_restorer(), self._task(vae_tile=128)), _restore(_restorer(), self._task()))

    @pytest.mark.slow
    def test_exact_knobs_do_not_change_what_tiles_make(self, monkeypatch):
        task = self._task(vae_tile=64)
        outs = []
        for knobs in (LADDER[0], replace(LADDER[6], conv_elements=20_000)):
            monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (knobs,))
            outs.append(to_unit_range(_restore(_restorer(vae_options=FAST), task)))
        torch.testing.assert_close(outs[0], outs[1], atol=2e-4, rtol=0)
        assert not torch.equal(outs[0], to_unit_range(_restore(_restorer(), self._task())))

    def test_a_tiled_segment_can_be_cancelled_between_slices(self):
        calls = []

        def check():
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        task = replace(self._task(vae_tile=64), check_cancelled=check)
        with pytest.raises(KeyboardInterrupt):
            _restore(_restorer(), task)
