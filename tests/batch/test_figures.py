from seedvr2_ray.batch.figures import figures_of
from tests.restoration import plans


def test_the_devices_of_a_gang_count_one_by_one():
    plan = plans.a_plan()
    alone = {"frames": [0, 24], "seconds": 3.0, "idle_seconds": 1.0, "missing_frames": []}
    segments = [{"restored": record} for record in (alone, {**alone, "gang_size": 1}, {**alone, "gang_size": 4})]
    figures = figures_of(plan, {"segments": segments, "settings": {}, "preflight": [], "target": {"outputs": []}})
    assert (figures["gpu_seconds"], figures["idle_seconds"]) == (18.0, 6.0)
