"""What the benchmark of bulk calls a limit that is met."""

import pytest

from benchmarks.bulk import meets_limits

GOOD = {"num_gpus": 1, "segment_seconds": 30.0, "steady_share": 0.99, "whole_share": 0.5, "device_idle_share": 0.009}


@pytest.mark.parametrize(
    ("change", "is_met"),
    [
        ({}, True),
        ({"steady_share": 0.94}, False),
        ({"device_idle_share": 0.011}, False),
        ({"device_idle_share": 0.011, "segment_seconds": 2.0}, True),
        ({"device_idle_share": 0.031, "segment_seconds": 2.0}, False),
        ({"num_gpus": 16, "steady_share": 0.94}, True),
        ({"num_gpus": 16, "steady_share": 0.89}, False),
        # A few GPUs are not judged by how long the first of them takes to start.
        ({"num_gpus": 64}, False),
        ({"num_gpus": 64, "whole_share": 0.95}, True),
        ({"num_gpus": 64, "whole_share": 0.95, "steady_share": 0.89}, False),
    ],
)
def test_a_size_is_judged_by_its_throughput_its_idle_devices_and_when_it_is_large_by_its_start_and_end(change, is_met):
    assert meets_limits({**GOOD, **change}) == is_met
