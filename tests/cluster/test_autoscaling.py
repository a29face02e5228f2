"""A service between no machine and some: Ray's own autoscaler, on the machines that a manifest describes."""

import asyncio
import copy
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import ray
import yaml
from ray import serve

from seedvr2_ray.cluster.connection import connect
from seedvr2_ray.cluster.manifests import Manifest
from seedvr2_ray.cluster.platform_rules import service_config
from seedvr2_ray.cluster.status import read_status
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.serve.app import restorer_application
from tests.cluster.api_server import api_server
from tests.cluster.kuberay import NAME
from tests.cluster.rendered import manifests, the
from tests.cluster.simulated import operated
from tests.gang.machines import ON_MACHINES
from tests.gang.serving import running
from tests.media import clips
from tests.restoration.gang.row_shards import RowShards
from tests.serve.deployment import SETTINGS, deploy
from tests.waiting import wait_for

pytestmark = ON_MACHINES

SPOT, ON_DEMAND = "h100-x8-spot", "h100-x8"
WHOLE = replace(SETTINGS, segment_seconds=60.0, detect_shots=False)
"""One segment."""


@pytest.fixture
def body():
    """The service of the overlay ``h100-spot``, where what idles is given back after six seconds.

    That is longer than the loss of a machine goes unnoticed, as five minutes are.
    """
    body = copy.deepcopy(the("RayService", manifests("h100-spot")))
    for group in body["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        group["idleTimeoutSeconds"] = 6
    body["status"] = {"activeServiceStatus": {"rayClusterName": NAME}}
    return body


@pytest.fixture
def groups(tmp_path):
    """What ``cluster status`` says of a group of machines."""

    def look(name):
        status = read_status(connect(kubeconfig=tmp_path / "kubeconfig", context=None, namespace="seedvr2"))
        (group,) = [each for each in status.summary()["groups"] if each["group"] == name]
        return {key: group[key] for key in ("ready", "coming", "gpus", "waits_for")}

    return look


NONE = {"ready": 0, "coming": 0, "gpus": 0.0, "waits_for": ""}
ONE = {"ready": 1, "coming": 0, "gpus": 8.0, "waits_for": ""}


def test_a_backlog_brings_a_spot_machine_whose_loss_costs_no_byte_and_the_last_one_is_given_back(
    body, groups, tmp_path
):
    clip = tmp_path / "video.mp4"
    clips.make_clip(clip, num_frames=10, size=(64, 48))
    restore_video(str(clip), str(tmp_path / "alone.mp4"), WHOLE, LANCZOS, LanczosRestorer, report=False)
    (tmp_path / "traces").mkdir()
    shards = RowShards(str(tmp_path / "traces"))
    pool = service_config(Manifest(body)).models["seedvr2-3b"]
    pool = pool.model_copy(update={"max_replicas": 1, "downscale_to_zero_seconds": 2})
    service = deploy(tmp_path / "service", shards)
    service.config = service.config.model_copy(update={"models": {"lanczos": pool}})
    provider = {"cpu": 1, SPOT: 0, ON_DEMAND: 8}

    async def until(condition, what):
        await asyncio.to_thread(wait_for, condition, what)

    async def story(operator, cluster, handle):
        await until(lambda: groups("cpu")["ready"] == 1, "the machine that is always there")
        assert groups(SPOT) == groups(ON_DEMAND) == NONE
        shards.hold(1)
        async with running(service, {"lanczos": handle}):
            jobs = [service.submit(clip, replace(WHOLE, seed=1)) for _ in range(2)]
            await until(lambda: groups(SPOT)["coming"] == 1, "a spot machine to be asked for")
            assert groups(SPOT)["waits_for"] == "Unschedulable: no machine is free"
            provider[SPOT] = 2
            await until(lambda: shards.segments() == 1, "a segment to be at work on it")
            assert groups(SPOT) == ONE
            (pod,) = operator.pods(SPOT)
            operator.lose(pod, lambda node: cluster.remove_node(node, allow_graceful=False))
            await until(lambda: shards.segments() == 2, "its segment to be at work on another")
            assert groups(SPOT) == ONE and operator.pods(SPOT) != [pod]
            shards.let_go(1)
            for job in jobs:
                assert service.master(await service.until(job)) == (tmp_path / "alone.mp4").read_bytes()
            await until(lambda: groups(SPOT) == NONE, "the machine to be given back")
        assert groups(ON_DEMAND) == NONE and groups("cpu")["ready"] == 1

    with api_server(tmp_path) as (store, kubeconfig):
        store.put("rayservices", body)
        server = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        spec = body["spec"]["rayClusterConfig"]
        with (
            operated(store, server, spec, provider, tmp_path / "autoscaler.log") as (operator, cluster),
            ThreadPoolExecutor(1) as threads,
        ):
            serve.start(proxy_location="Disabled")
            application = restorer_application("lanczos", pool, service.config, service.layout)
            handle = serve.run(application, route_prefix=None)
            told = threads.submit(asyncio.run, story(operator, cluster, handle))
            while not told.done():
                operator.step()
                time.sleep(0.2)
            told.result()
            ends = [node["DeathReasonMessage"] for node in ray.nodes() if not node["Alive"]]
            serve.shutdown()
    assert any("idle" in end for end in ends), f"the last one was drained: {ends}"
