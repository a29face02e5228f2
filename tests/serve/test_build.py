"""What an application is built of, and what is refused before anything is started. No Ray runs."""

from pathlib import Path

import pytest
import yaml

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.app import build_with, settle
from seedvr2_ray.serve.config import GangPool, ModelPool, ServiceConfig

ROOT = Path(__file__).parents[2]


def test_the_shipped_configuration_is_what_the_application_takes():
    (application,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    config = settle(ServiceConfig.model_validate(application["args"]), {})
    assert set(config.models) == {"nano", "lanczos"}
    assert all(pool.num_gpus == 0 for pool in config.models.values())


def test_the_environment_takes_the_place_of_what_the_file_says(tmp_path):
    config = ServiceConfig(data=str(tmp_path), database_url="sqlite:////elsewhere/service.db", auth=("keys",))
    settled = settle(config, {"SEEDVR2_DATABASE_URL": "postgresql://db/jobs", "SEEDVR2_AUTH": "keys, jwt"})
    assert settled.database_url == "postgresql://db/jobs"
    assert settled.auth == ("keys", "jwt")


def test_a_relative_folder_means_the_one_where_the_service_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settled = settle(ServiceConfig(data="data"), {})
    assert settled.data == str(tmp_path / "data")
    assert settled.database_url == f"sqlite:///{tmp_path}/data/service.db"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "s3://bucket/data"}, "SEEDVR2_DATABASE_URL"),
        ({"models": {"nano": ModelPool(gang_size=2, num_gpus=0.5)}}, "num_gpus is what each rank has"),
        ({"models": {"nano": ModelPool(max_replicas=0)}}, "max_replicas 0"),
        ({"models": {"nano": ModelPool(gang_size=2, gangs={2: GangPool()})}}, "gangs of 2; say it once"),
        ({"models": {"nano": ModelPool(gangs={0: GangPool()})}}, "the smallest gang is 1"),
        ({"default_model": "seedvr2_3b"}, "name one of them"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_the_way_out(tmp_path, changes, words):
    with pytest.raises(DeploymentError, match=words):
        settle(ServiceConfig.model_validate({"data": str(tmp_path), **changes}), {})


def test_every_model_has_a_deployment_of_its_own_that_takes_one_segment_at_a_time(tmp_path):
    models = {"nano": ModelPool(max_replicas=3), "lanczos": ModelPool(num_gpus=0.5, max_replicas=2)}
    application = build_with(ServiceConfig(data=str(tmp_path), models=models), {})
    runner = application._bound_deployment.init_args[1]._bound_deployment
    found = {model: bound._bound_deployment for model, bound in runner.init_args[2].items()}
    for model, pool in models.items():
        deployment = found[model]
        assert deployment.name == f"restorer-{model}"
        assert deployment.max_ongoing_requests == 1
        assert deployment.ray_actor_options["num_gpus"] == pool.num_gpus
        scaling = deployment._deployment_config.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas) == (0, pool.max_replicas)
        assert deployment._deployment_config.graceful_shutdown_timeout_s > 600


def test_gangs_of_one_model_are_deployments_of_their_own(tmp_path):
    models = {"nano": ModelPool(num_cpus=0.5, gangs={2: GangPool(max_replicas=3)})}
    application = build_with(ServiceConfig(data=str(tmp_path), models=models), {})
    pools = application._bound_deployment.init_args[1]._bound_deployment.init_args[2]
    own, pair = (pools[name]._bound_deployment for name in ("nano", "nano-gang-2"))
    assert (own.name, pair.name) == ("restorer-nano", "restorer-nano-gang-2")
    assert own.init_args[1] == pair.init_args[1] == "nano"
    assert own._replica_config.placement_group_bundles is None
    assert pair._replica_config.placement_group_bundles == [{"CPU": 0.5}] * 3
    assert pair._deployment_config.autoscaling_config.max_replicas == 3
