"""What the gang's benchmark counts: memory that falls with the number of ranks."""

import pytest

from benchmarks.gang import MODELS, build_vae, count_vae, predict, transformer_peak


@pytest.mark.slow
def test_activations_and_state_of_a_rank_fall_with_the_number_of_ranks() -> None:
    vae = build_vae()
    one = count_vae(vae, 1088, 1920, 1, frames=9)
    for num_ranks in (2, 4, 8):
        rank = count_vae(vae, 1088, 1920, num_ranks, frames=9)
        for name in ("encode", "decode"):
            for kind in ("peak_bytes", "state_bytes"):
                assert rank[name][kind] * num_ranks == pytest.approx(one[name][kind], rel=0.15), (num_ranks, name, kind)


@pytest.mark.slow
def test_a_transformers_activations_fall_with_the_busiest_ranks_share() -> None:
    one, four = (transformer_peak(MODELS["3B"], (6, 276, 480), num_ranks) for num_ranks in (1, 4))
    assert four * 4 == pytest.approx(one, rel=0.15)


@pytest.mark.slow
def test_more_gpus_are_predicted_to_be_faster_and_never_more_than_as_many_times() -> None:
    vae, one, seconds = build_vae(), None, []
    for num_ranks in (1, 2, 8):
        row = predict("3B", "1080p", num_ranks, count_vae(vae, 1104, 1920, num_ranks), one)
        one = one or row
        seconds.append(row["predicted_seconds"])
        assert row["predicted_efficiency"] <= 1.0
    assert seconds == sorted(seconds, reverse=True)
