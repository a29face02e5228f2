from seedvr2_ray.batch.report.figures import figures_of
from seedvr2_ray.restoration.planning.plan import plan_video
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source


def test_the_devices_of_a_gang_count_one_by_one():
    plan = plan_video(
        a_source(),
        RestoreSettings(),
        source="in.mp4",
        fingerprint="f",
        shots=(0,),
        restorer=RestorerIdentity("seedvr2-3b", "0"),
        target="out.mp4",
        max_pixels=10**8,
    )
    alone = {"frames": [0, 24], "seconds": 3.0, "idle_seconds": 1.0, "missing_frames": []}
    segments = [{"restored": record} for record in (alone, {**alone, "gang_size": 1}, {**alone, "gang_size": 4})]
    figures = figures_of(plan, {"segments": segments, "settings": {}, "preflight": [], "target": {"outputs": []}})
    assert (figures["gpu_seconds"], figures["idle_seconds"]) == (18.0, 6.0)
