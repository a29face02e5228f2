"""What the gang's benchmark counts: memory that falls with the number of ranks."""

import pytest

from benchmarks.gang import build_vae, count_vae


@pytest.mark.slow
def test_activations_and_state_of_a_rank_fall_with_the_number_of_ranks() -> None:
    vae = build_vae()
    one = count_vae(vae, 1088, 1920, 1)
    for num_ranks in (2, 4, 8):
        rank = count_vae(vae, 1088, 1920, num_ranks)
        for name in ("encode", "decode"):
            for kind in ("peak_bytes", "state_bytes"):
                assert rank[name][kind] * num_ranks == pytest.approx(one[name][kind], rel=0.15), (num_ranks, name, kind)
