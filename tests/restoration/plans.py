"""The plan of an ordinary video, for tests that only need one. Not a test module."""

from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.restoration.planning.plan import Plan, plan_video
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source

SEEDVR2 = RestorerIdentity("seedvr2-3b", "0")


def a_plan(
    settings: RestoreSettings | None = None,
    restorer: RestorerIdentity = SEEDVR2,
    media: MediaInfo | None = None,
) -> Plan:
    """Plan a video of one shot, by default one that knows nothing unusual."""
    return plan_video(
        media or a_source(),
        settings or RestoreSettings(),
        source="in.mp4",
        fingerprint="f",
        shots=(0,),
        restorer=restorer,
        target="out.mp4",
        max_pixels=10**8,
    )
