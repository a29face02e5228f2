"""Laws of ``seedvr2-ray cluster``, against an API server over real HTTP."""

import base64
import copy
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedvr2_ray.cli.main import main
from seedvr2_ray.cluster.platform_rules import required_secrets
from tests.cluster.api_server import Store, api_server, write_kubeconfig
from tests.cluster.rendered import FOLDER, manifests, the

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Store, Path]]:
    with api_server(tmp_path) as (store, kubeconfig):
        for overlay in ("laptop", "gangs"):
            for name, keys in required_secrets(manifests(overlay)).items():
                data = {key: base64.b64encode(b"x").decode() for key in keys}
                store.put("secrets", {"metadata": {"name": name}, "data": data})
        yield store, kubeconfig


@pytest.fixture
def store(server: tuple[Store, Path]) -> Store:
    return server[0]


@pytest.fixture
def run(server: tuple[Store, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type a command; returns the exit code, what it said, and what it complained about."""
    monkeypatch.setenv("KUBECONFIG", str(server[1]))

    def type_in(*words: str) -> tuple[int, str, str]:
        code = main(["cluster", *words])
        said = capsys.readouterr()
        return code, said.out, said.err.strip()

    return type_in


_FOLDER = ("--folder", str(FOLDER))


def test_what_is_rendered_is_yaml_of_every_object(run: Run) -> None:
    code, out, _ = run("render", "laptop", *_FOLDER)
    assert code == 0
    assert list(yaml.safe_load_all(out)) == [manifest.body for manifest in manifests("laptop")]


def test_validating_says_valid_or_what_is_wrong(run: Run, tmp_path: Path) -> None:
    assert run("validate", "laptop", *_FOLDER) == (0, "laptop: valid\n", "")
    (tmp_path / "overlays" / "bad").mkdir(parents=True)
    (tmp_path / "overlays" / "bad" / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    (tmp_path / "overlays" / "bad" / "a.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {portz: []}\n"
    )
    code, out, _ = run("validate", "--folder", str(tmp_path), "--json")
    assert code == 2
    (problem,) = json.loads(out)["overlays"]["bad"]
    assert "Service a" in problem and "'portz' was unexpected" in problem


def test_a_dry_run_is_checked_by_the_server_and_keeps_nothing(run: Run, store: Store) -> None:
    before = dict(store.objects)
    code, out, _ = run("apply", "laptop", "--dry-run", *_FOLDER)
    assert code == 0 and "RayService seedvr2: would be applied" in out
    assert store.objects == before
    assert sum(request.startswith("PATCH") for request in store.requests) == len(manifests("laptop"))


def test_applying_stores_every_object_and_namespaces_first(run: Run, store: Store) -> None:
    code, _, _ = run("apply", "laptop", *_FOLDER)
    assert code == 0
    changed = [request for request in store.requests if request.startswith("PATCH")]
    assert changed[0] == "PATCH /api/v1/namespaces/seedvr2"
    assert len(changed) == 2 * len(manifests("laptop")), "every object is tried before the first is stored"
    assert store.objects["rayservices", "seedvr2"]["spec"] == the("RayService", manifests("laptop"))["spec"]


def _serve_patch(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of the manifests in which a component says something else."""
    import shutil

    folder = tmp_path / "cluster"
    shutil.copytree(FOLDER, folder)
    file = folder / "components" / "gangs" / "serve.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return folder


def test_a_gang_larger_than_a_machine_is_refused_before_anything_is_sent(
    run: Run, store: Store, tmp_path: Path
) -> None:
    folder = _serve_patch(tmp_path, "gang_size: 8", "gang_size: 16")
    code, _, err = run("apply", "gangs", "--folder", str(folder))
    assert code == 2
    assert "wants 16 GPUs in one machine" in err and "the largest machine of a group has 8" in err
    assert store.requests == []


def test_a_missing_secret_is_named_with_the_command_that_makes_it(run: Run, store: Store) -> None:
    del store.objects["secrets", "seedvr2-redis"]
    code, _, err = run("apply", "laptop", *_FOLDER)
    assert code == 6
    assert "the secret seedvr2-redis is missing in namespace seedvr2" in err
    assert "create secret generic seedvr2-redis --from-literal=password=..." in err
    assert not any(request.startswith("PATCH") for request in store.requests)


def test_a_secret_without_its_key_is_named(run: Run, store: Store) -> None:
    store.objects["secrets", "seedvr2-secrets"]["data"] = {"OTHER": "eA=="}
    code, _, err = run("apply", "laptop", *_FOLDER)
    assert code == 6 and "seedvr2-secrets in namespace seedvr2 has no key SEEDVR2_DATABASE_URL" in err


def test_no_permission_is_one_sentence(run: Run, store: Store) -> None:
    store.forbidden.add(("PATCH", "rayservices"))
    code, _, err = run("apply", "laptop", *_FOLDER)
    assert code == 6 and "\n" not in err
    assert {kind for kind, _ in store.objects} == {"secrets"}, "nothing was changed"
    assert "you may not apply RayService seedvr2 in namespace seedvr2" in err and "ask for a role" in err


def test_a_field_that_somebody_else_owns_is_kept_unless_forced(run: Run, store: Store) -> None:
    store.conflicting["deployments", "seedvr2-redis"] = "helm"
    code, _, err = run("apply", "laptop", *_FOLDER)
    assert code == 2 and 'conflict with "helm"' in err and "--force" in err
    assert run("apply", "laptop", "--force", *_FOLDER)[0] == 0


def test_what_scaling_has_set_is_no_obstacle_to_an_upgrade(run: Run, store: Store) -> None:
    _running_service(store)
    spec = store.objects["rayservices", "seedvr2"]["spec"]
    spec["serveConfigV2"] = spec["serveConfigV2"].replace("max_replicas: 64", "max_replicas: 8")
    store.conflicting["rayservices", "seedvr2"] = "seedvr2-ray"
    assert run("upgrade", "h100", *_FOLDER) == (0, "RayService seedvr2: in place\n", "")


def test_what_cannot_be_changed_any_more_is_one_sentence_and_nothing_else_is_changed(run: Run, store: Store) -> None:
    store.immutable.add(("persistentvolumeclaims", "seedvr2-data"))
    code, _, err = run("apply", "laptop", *_FOLDER)
    assert code == 2 and "cannot be changed once it is made; delete the object that is there" in err
    assert {kind for kind, _ in store.objects} == {"secrets"}


def test_a_namespace_that_is_not_there_is_one_sentence(run: Run, store: Store) -> None:
    store.namespaces.clear()
    code, _, err = run("apply", "laptop", *_FOLDER)
    assert code == 2 and "create the namespace" in err


@pytest.mark.parametrize("command", [("status",), ("scale", "cpu", "--max", "2"), ("logs", "a")])
def test_a_cluster_that_cannot_be_reached_is_one_sentence(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        kubeconfig = write_kubeconfig(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}")
        code, _, err = run(*command, "--kubeconfig", str(kubeconfig))
    assert code == 5 and "cannot be reached" in err and "\n" not in err


def test_who_is_not_known_is_told_to_sign_in(run: Run, server: tuple[Store, Path], tmp_path: Path) -> None:
    address = yaml.safe_load(server[1].read_text())["clusters"][0]["cluster"]["server"]
    code, _, err = run("status", "--kubeconfig", str(write_kubeconfig(tmp_path, address, "wrong")))
    assert code == 6 and "does not know who you are" in err


def test_a_kubeconfig_or_a_context_that_is_not_there_is_one_sentence(run: Run, tmp_path: Path) -> None:
    for words in (("--kubeconfig", str(tmp_path / "absent")), ("--context", "other")):
        code, _, err = run("status", *words)
        assert code == 6 and "the kubeconfig does not lead to a cluster" in err


def test_a_server_in_trouble_may_be_asked_again(run: Run, store: Store) -> None:
    store.broken = True
    code, _, err = run("status")
    assert code == 5 and "503 etcd is away; try again" in err


def test_an_archive_is_submitted_with_its_own_name_and_options(run: Run, store: Store) -> None:
    words = ("submit", "h100-bulk", "--name", "archive-7", "--manifest", "s3://a/in/", "--output=s3://a/out/")
    code, out, _ = run(*words, *_FOLDER)
    assert code == 0 and "seedvr2-ray cluster logs archive-7" in out
    spec = store.objects["rayjobs", "archive-7"]["spec"]
    assert "--manifest s3://a/in/ --output s3://a/out/ --model seedvr2-3b" in spec["entrypoint"]
    assert spec["backoffLimit"] == 3 and "suspend" not in spec
    code, _, err = run(*words, *_FOLDER)
    assert code == 2 and "already exists" in err and "choose another name" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("laptop-bulk", "--name", "n" * 48), "KubeRay takes 47 for a RayJob"),
        (("laptop-bulk", "--name", "a", "--resolutoin", "720p"), "resolutoin"),
        (("laptop-bulk", "--name", "a", "--min-workers", "many"), "should be a valid integer"),
        (("laptop-bulk", "--name", "a", "720p"), "write options of seedvr2-ray batch as --name value"),
        (("laptop-bulk", "--name", "A_b"), "the name A_b may hold only a-z, 0-9 and -"),
        (("h100-bulk", "--name", "a", "--gang-size", "16"), "wants 16 GPUs in one machine (--gang-size 16)"),
        (("laptop", "--name", "a"), "has no RayJob; name one for archives"),
        (("huge", "--name", "a"), "there is no overlay huge; the overlays are"),
    ],
)
def test_a_submission_that_would_fail_later_is_refused_now(
    run: Run, store: Store, words: tuple[str, ...], complaint: str
) -> None:
    code, _, err = run("submit", *words, *_FOLDER)
    assert code == 2 and complaint in err and "\n" not in err
    assert not any(request.startswith("POST") for request in store.requests)


def _pod(name: str, group: str, **state: Any) -> dict[str, Any]:
    labels = {"ray.io/cluster": "seedvr2-abc", "ray.io/group": group}
    return {"metadata": {"name": name, "labels": labels, **state.get("metadata", {})}, "status": state["status"]}


def _running_service(store: Store, overlay: str = "h100") -> None:
    service = copy.deepcopy(the("RayService", manifests(overlay)))
    service["status"] = {
        "activeServiceStatus": {
            "rayClusterName": "seedvr2-abc",
            "applicationStatuses": {
                "seedvr2": {"serveDeploymentStatuses": {"restorer-seedvr2-3b": {"status": "HEALTHY"}}}
            },
        }
    }
    store.put("rayservices", service)
    store.put(
        "rayclusters", {"metadata": {"name": "seedvr2-abc"}, "spec": copy.deepcopy(service["spec"]["rayClusterConfig"])}
    )


def test_status_shows_jobs_queue_replicas_and_machines_that_come_and_go(run: Run, store: Store) -> None:
    _running_service(store)
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    waits = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes match"}
        ],
    }
    store.put("pods", _pod("a", "h100-x8", status=ready))
    store.put("pods", _pod("b", "h100-x8", status=waits))
    store.put("pods", _pod("c", "h100-x8", status=ready, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    store.put("rayclusters", {"metadata": {"name": "fleet"}, "spec": the("RayCluster", manifests("h100"))["spec"]})
    store.put("rayjobs", {"metadata": {"name": "archive-7"}, "status": {"jobStatus": "RUNNING", "failed": 1}})
    store.put(
        "events",
        {
            "metadata": {"name": "e"},
            "type": "Warning",
            "reason": "Preempted",
            "message": "spot is gone",
            "involvedObject": {"kind": "Pod", "name": "c"},
        },
    )
    store.answers["seedvr2-serve-svc:8000/metrics"] = (
        '# TYPE seedvr2_jobs gauge\nseedvr2_jobs{state="restoring"} 3\nseedvr2_jobs{state="queued"} 12\n'
        "seedvr2_queue_depth 12\nseedvr2_queue_age_seconds 4100.5\nseedvr2_remaining_gpu_seconds 90000\n"
    )
    code, out, _ = run("status", "--json")
    assert code == 0
    status = json.loads(out)
    (group,) = [one for one in status["groups"] if one["group"] == "h100-x8"]
    assert (group["ready"], group["coming"], group["going"], group["gpus"]) == (1, 1, 1, 8.0)
    assert group["waits_for"] == "Unschedulable: no nodes match"
    assert {one["cluster"] for one in status["groups"]} == {"seedvr2-abc"}, "a paused cluster is left out"
    (service,) = status["services"]
    assert service["gauges"] == {
        "seedvr2_jobs.restoring": 3.0,
        "seedvr2_jobs.queued": 12.0,
        "seedvr2_queue_depth": 12.0,
        "seedvr2_queue_age_seconds": 4100.5,
        "seedvr2_remaining_gpu_seconds": 90000.0,
    }
    assert service["deployments"] == {"restorer-seedvr2-3b": "HEALTHY"}
    code, out, _ = run("status")
    assert code == 0
    assert "jobs: 12 waiting (the oldest for 1 h 08 min), 3 restoring; device time left 25 h 00 min" in out
    for text in ("archive-7", "RUNNING", "Unschedulable", "spot is gone", "HEALTHY"):
        assert text in out


def test_status_says_so_where_the_service_does_not_answer(run: Run, store: Store) -> None:
    _running_service(store)
    code, out, _ = run("status")
    assert code == 0 and "jobs: the service does not answer" in out and "no archives" in out


def test_scaling_changes_the_service_and_the_cluster_that_is_active(run: Run, store: Store) -> None:
    _running_service(store)
    code, out, _ = run("scale", "h100-x8", "--max", "16")
    assert code == 0 and out.count("between 0 and 16 machines") == 2
    service = store.objects["rayservices", "seedvr2"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]
    cluster = store.objects["rayclusters", "seedvr2-abc"]["spec"]["workerGroupSpecs"][1]
    assert (service["groupName"], service["maxReplicas"], cluster["maxReplicas"]) == ("h100-x8", 16, 16)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("a100", "--max", "3"), "has no group a100; its groups are cpu, h100-x8"),
        (("h100-x8", "--min", "9"), "cannot have between 9 and 8 machines"),
        (("h100-x8",), "nothing would change"),
        (("h100-x8", "--max", "3", "--service", "other"), "there is no RayService other"),
    ],
)
def test_scaling_that_makes_no_sense_is_refused(run: Run, store: Store, words: tuple[str, ...], complaint: str) -> None:
    _running_service(store)
    code, _, err = run("scale", *words)
    assert code == 2 and complaint in err


def test_an_upgrade_says_whether_it_is_in_place_or_needs_a_second_cluster(run: Run, store: Store) -> None:
    _running_service(store)
    assert json.loads(run("upgrade", "h100", "--json", *_FOLDER)[1])["upgrade"] == "nothing"
    spec = store.objects["rayservices", "seedvr2"]["spec"]
    spec["serveConfigV2"] = spec["serveConfigV2"].replace("max_replicas: 64", "max_replicas: 8")
    # The autoscaler's numbers are no change of the machines.
    spec["rayClusterConfig"]["workerGroupSpecs"][1]["maxReplicas"] = 2
    assert json.loads(run("upgrade", "h100", "--json", "--dry-run", *_FOLDER)[1])["upgrade"] == "in place"
    assert "max_replicas: 8\n" in store.objects["rayservices", "seedvr2"]["spec"]["serveConfigV2"]
    assert run("upgrade", "h100", *_FOLDER) == (0, "RayService seedvr2: in place\n", "")
    assert "max_replicas: 64" in store.objects["rayservices", "seedvr2"]["spec"]["serveConfigV2"]


def test_a_second_cluster_must_be_asked_for(run: Run, store: Store) -> None:
    _running_service(store)
    head = store.objects["rayservices", "seedvr2"]["spec"]["rayClusterConfig"]["headGroupSpec"]
    head["template"]["spec"]["containers"][0]["image"] = "seedvr2-ray:0.0.9-cuda"
    code, _, err = run("upgrade", "h100", *_FOLDER)
    assert code == 2 and "second cluster beside the first" in err and "--second-cluster" in err
    assert head["template"]["spec"]["containers"][0]["image"] == "seedvr2-ray:0.0.9-cuda"
    assert run("upgrade", "h100", "--second-cluster", *_FOLDER)[0] == 0


def test_there_must_be_something_to_upgrade(run: Run) -> None:
    code, _, err = run("upgrade", "h100", *_FOLDER)
    assert code == 2 and "start it with seedvr2-ray cluster apply" in err


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            {
                "containerStatuses": [
                    {"name": "ray", "state": {"waiting": {"reason": "ErrImage", "message": "no\ntag"}}}
                ]
            },
            "ray: ErrImage: no tag",
        ),
        (
            {"initContainerStatuses": [{"name": "weights", "state": {"running": {}}}]},
            "weights is being prepared",
        ),
        ({"conditions": []}, "Pending"),
    ],
)
def test_status_says_what_a_machine_waits_for(run: Run, store: Store, status: dict[str, Any], reason: str) -> None:
    _running_service(store)
    store.put("pods", _pod("a", "h100-x8", status={"phase": "Pending", **status}))
    groups = json.loads(run("status", "--json")[1])["groups"]
    assert [group["waits_for"] for group in groups if group["coming"]] == [reason]


def test_status_of_an_empty_namespace_says_so(run: Run) -> None:
    assert run("status") == (0, "no service\nno machines\nno archives\n", "")


def test_a_jobs_log_is_that_of_the_last_pod_that_followed_it(run: Run, store: Store) -> None:
    for name, time in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")):
        labels = {"job-name": "archive-7"}
        store.put("pods", {"metadata": {"name": name, "labels": labels, "creationTimestamp": time}, "status": {}})
        store.logs[name] = f"the {name} one\n"
    assert run("logs", "archive-7") == (0, "the new one\n", "")
    code, _, err = run("logs", "archive-8")
    assert code == 2 and "no pod of job archive-8" in err


@pytest.mark.parametrize(
    "words", [("submit", "laptop-bulk", "--name", "a", *_FOLDER), ("logs", "a")], ids=["submit", "logs"]
)
def test_a_dashboard_that_does_not_answer_is_one_sentence(run: Run, words: tuple[str, ...]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, _, err = run(*words, "--address", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert code == 6 and "no Ray dashboard answers at http://127.0.0.1" in err and "\n" not in err
