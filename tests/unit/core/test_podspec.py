"""The pod of an attempt: whose words win, what is set where nobody speaks, and what a bad template leads to."""

import copy
import json
from typing import Any

import pytest

from questline_operator.core.podspec import fault_of_args, payload, pod_manifest, pod_of_attempt, worker_pod
from questline_operator.core.records import ANNOTATION_KEY, Job, Worker
from questline_operator.core.states import Reason
from tests.unit.core.builders import EPOCH, a_job, a_queue, a_worker, a_world, child_of, nested

JOB = a_job("resize", state="Starting", attempt=3)
COMMAND = a_job("sync", state="Starting", attempt=3, spec={"command": ["sh", "-c", "true"]})


def pod_of(job: Job, worker: Worker | None = None, *, timeout: int | None = None) -> dict[str, Any]:
    return pod_manifest(job, worker or a_worker(), epoch=EPOCH, root="upload", payload_text='{"v":1}', timeout=timeout)


def container_of(pod: dict[str, Any], name: str = "worker") -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in pod["spec"]["containers"] if c["name"] == name)
    return found


def env_of(pod: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in container_of(pod)["env"]}


def template(*, containers: list[Any] | None = None, metadata: Any = None, **spec: Any) -> Worker:
    body: dict[str, Any] = {"spec": {**spec, **({"containers": containers} if containers is not None else {})}}
    return a_worker(template=body | ({"metadata": metadata} if metadata is not None else {}))


# What every pod has


def test_a_pod_says_whose_it_is() -> None:
    meta = pod_of(JOB)["metadata"]

    assert (meta["name"], meta["namespace"]) == (JOB.pod_name(3), "default")
    assert meta["labels"] == {
        "questline.dev/job": "resize",
        "questline.dev/queue": "default",
        "questline.dev/attempt": "3",
        "questline.dev/root": "upload",
    }
    assert meta["annotations"] == {"questline.dev/epoch": "7", "questline.dev/payload": '{"v":1}'}
    (owner,) = meta["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"]) == ("questline.dev/v1alpha1", "Job")
    assert (owner["name"], owner["uid"], owner["controller"]) == ("resize", JOB.uid, True)


def test_a_pod_carries_its_jobs_concurrency_key_and_never_the_templates() -> None:
    """It counts for the key when its Job is gone."""
    forging = template(metadata={"annotations": {ANNOTATION_KEY: "forged"}})
    keyed, bare = a_job(spec={"key": "customer 7: ü"}), a_job()

    assert pod_of(keyed, forging)["metadata"]["annotations"][ANNOTATION_KEY] == "customer 7: ü"
    assert ANNOTATION_KEY not in pod_of(bare, forging)["metadata"]["annotations"]


def test_labels_of_the_template_stay_and_those_of_questline_win() -> None:
    worker = template(
        metadata={
            "labels": {"team": "media", "questline.dev/job": "forged"},
            "annotations": {"note": "x", "questline.dev/epoch": "99"},
            "name": "mine",
            "ownerReferences": [{"kind": "Job"}],
        }
    )

    meta = pod_of(JOB, worker)["metadata"]

    assert (meta["labels"]["team"], meta["labels"]["questline.dev/job"]) == ("media", "resize")
    assert (meta["annotations"]["note"], meta["annotations"]["questline.dev/epoch"]) == ("x", "7")
    assert (meta["name"], len(meta["ownerReferences"])) == (JOB.pod_name(3), 1)


def test_a_pod_never_restarts_and_gets_no_service_links() -> None:
    spec = pod_of(JOB, template(restartPolicy="Always"))["spec"]

    assert (spec["restartPolicy"], spec["enableServiceLinks"]) == ("Never", False)


def test_the_container_of_the_attempt_is_never_restarted_in_its_pod() -> None:
    """A container may have a policy and rules of its own, which go before its pod's: the attempt would run again."""
    rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]
    restarted = {"restartPolicy": "OnFailure", "restartPolicyRules": rules}
    proxy = {"name": "proxy", "image": "p:1", "restartPolicy": "Always"}

    pod = pod_of(JOB, template(containers=[{"name": "worker", **restarted}, proxy]))

    assert not restarted.keys() & container_of(pod).keys()
    assert container_of(pod, "proxy")["restartPolicy"] == "Always", "a sidecar may"


def test_the_kubelet_keeps_the_timeout() -> None:
    assert pod_of(JOB, timeout=60)["spec"]["activeDeadlineSeconds"] == 60
    assert "activeDeadlineSeconds" not in pod_of(JOB)["spec"]


def test_a_task_is_run_by_the_sdk_and_a_command_by_itself() -> None:
    worker = template(
        containers=[{"name": "worker", "command": ["x"], "args": ["y"], "terminationMessagePath": "/tmp/other"}]
    )
    task, command = container_of(pod_of(JOB, worker)), container_of(pod_of(COMMAND, worker))

    assert (task["command"], task["terminationMessagePolicy"]) == (["python", "-m", "questline", "run"], "File")
    assert command["command"] == ["sh", "-c", "true"]
    assert command["terminationMessagePolicy"] == "FallbackToLogsOnError"
    for container in (task, command):
        assert "args" not in container
        assert "terminationMessagePath" not in container


def test_the_payload_is_a_file_in_the_container_worker_alone() -> None:
    pod = pod_of(JOB, template(containers=[{"name": "proxy", "image": "p"}]))

    (volume,) = pod["spec"]["volumes"]
    (item,) = volume["downwardAPI"]["items"]
    assert item == {"path": "job.json", "fieldRef": {"fieldPath": "metadata.annotations['questline.dev/payload']"}}
    (mount,) = container_of(pod)["volumeMounts"]
    assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], "/questline", True)
    assert "volumeMounts" not in container_of(pod, "proxy")


def test_the_environment_tells_the_attempt_who_it_is() -> None:
    env = env_of(pod_of(JOB))

    assert env["QUESTLINE_PAYLOAD"] == "/questline/job.json"
    assert (env["QUESTLINE_JOB"], env["QUESTLINE_ATTEMPT"], env["QUESTLINE_NAMESPACE"]) == ("resize", "3", "default")
    (uid,) = [item for item in container_of(pod_of(JOB))["env"] if item["name"] == "QUESTLINE_POD_UID"]
    assert uid["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


# Whose words win


def test_the_job_goes_before_the_worker_and_the_worker_before_its_template() -> None:
    of_template = [{"name": "A", "value": "t"}, {"name": "B", "value": "t"}, {"name": "C", "value": "t"}]
    worker = a_worker(
        image="worker:1",
        env=[{"name": "B", "value": "w"}, {"name": "C", "value": "w"}, {"name": "QUESTLINE_JOB", "value": "forged"}],
        resources={"limits": {"cpu": "2"}},
        nodeSelector={"disk": "ssd"},
        template={
            "spec": {
                "nodeSelector": {"disk": "hdd", "zone": "a"},
                "containers": [{"name": "worker", "image": "t", "env": of_template, "workingDir": "/data"}],
            }
        },
    )
    job = a_job(
        state="Starting",
        attempt=3,
        spec={
            "image": "job:1",
            "worker": "default",
            "env": [{"name": "C", "value": "j"}],
            "resources": {"limits": {"memory": "1Gi"}},
        },
    )

    plain, own = pod_of(JOB, worker), pod_of(job, worker)

    assert (container_of(plain)["image"], container_of(own)["image"]) == ("worker:1", "job:1")
    assert container_of(plain)["resources"] == {"limits": {"cpu": "2"}}
    assert container_of(own)["resources"] == {"limits": {"memory": "1Gi"}}
    assert {name: env_of(plain)[name] for name in "ABC"} == {"A": "t", "B": "w", "C": "w"}
    assert {name: env_of(own)[name] for name in "ABC"} == {"A": "t", "B": "w", "C": "j"}
    assert env_of(plain)["QUESTLINE_JOB"] == "resize"
    assert plain["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert container_of(plain)["workingDir"] == "/data"


def test_an_env_entry_keeps_its_source_and_appears_once() -> None:
    secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    worker = a_worker(env=[secret], template={"spec": {"containers": [{"name": "worker", "env": [{"name": "A"}]}]}})

    env = container_of(pod_of(JOB, worker))["env"]

    assert [item for item in env if item["name"] == "A"] == [secret]


def test_sidecars_init_containers_and_volumes_of_the_template_stay() -> None:
    worker = template(
        containers=[{"name": "proxy", "image": "p"}],
        initContainers=[{"name": "init", "image": "i"}],
        volumes=[{"name": "data", "emptyDir": {}}],
        priorityClassName="high",
    )
    spec = pod_of(JOB, worker)["spec"]

    assert [container["name"] for container in spec["containers"]] == ["worker", "proxy"]
    assert [container["name"] for container in spec["initContainers"]] == ["init"]
    assert [volume["name"] for volume in spec["volumes"]] == ["data", "questline"]
    assert spec["priorityClassName"] == "high"


def test_a_job_with_its_own_image_needs_no_worker() -> None:
    job = a_job(state="Starting", attempt=3, spec={"command": ["true"], "image": "busybox"})
    pod = pod_manifest(job, None, epoch=1, root="r", payload_text="{}", timeout=None)

    assert container_of(pod)["image"] == "busybox"
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_of_a_job_with_its_own_image_all_else_is_its_workers() -> None:
    job = a_job(state="Starting", attempt=3, spec={"image": "busybox"})
    worker = a_worker(serviceAccountName="sender", env=[{"name": "A", "value": "1"}])
    pod = pod_of_attempt(a_world(a_queue(), worker, job), job, epoch=1)

    assert container_of(pod)["image"] == "busybox"
    assert pod["spec"]["serviceAccountName"] == "sender"
    assert env_of(pod)["A"] == "1"
    assert '"worker":"default"' in pod["metadata"]["annotations"]["questline.dev/payload"]


def test_the_workers_record_is_never_changed() -> None:
    worker = a_worker(
        env=[{"name": "A", "value": "1"}],
        template={"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [], "containers": [{"name": "worker"}]}},
    )
    before = copy.deepcopy(worker.raw)

    one, two = pod_of(JOB, worker), pod_of(JOB, worker)

    assert worker.raw == before
    assert one == two


# Pod Security "restricted", and no token


def test_a_pod_is_restricted_where_the_template_is_silent() -> None:
    pod = pod_of(JOB, template(containers=[{"name": "proxy"}], initContainers=[{"name": "init"}]))
    of_pod = pod["spec"]["securityContext"]

    assert (of_pod["runAsNonRoot"], of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (
        True,
        65_532,
        65_532,
        65_532,
    )
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["spec"]["containers"], *pod["spec"]["initContainers"]]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_templates_word_on_security_wins() -> None:
    worker = template(
        securityContext={"runAsNonRoot": False, "fsGroup": 5},
        containers=[
            {"name": "worker", "securityContext": {"privileged": True, "capabilities": {"add": ["NET_ADMIN"]}}}
        ],
    )
    spec = pod_of(JOB, worker)["spec"]

    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["fsGroup"]) == (False, 5)
    assert "runAsUser" not in spec["securityContext"]
    assert spec["containers"][0]["securityContext"] == {"privileged": True, "capabilities": {"add": ["NET_ADMIN"]}}


def test_a_template_that_asks_for_root_gets_root() -> None:
    """Beside runAsUser 0 a runAsNonRoot of ours would keep the container from ever starting."""
    context = pod_of(JOB, template(securityContext={"runAsUser": 0}))["spec"]["securityContext"]

    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)


@pytest.mark.parametrize(
    "worker",
    [
        pytest.param(a_worker(), id="that says nothing of it"),
        pytest.param(template(automountServiceAccountToken=True), id="whose template asks for a token"),
        pytest.param(a_worker(serviceAccountName=""), id="whose account is empty"),
        pytest.param(template(serviceAccountName=""), id="whose template's account is empty"),
    ],
)
def test_a_worker_without_a_service_account_gets_no_token(worker: Worker) -> None:
    """The API server would mount the token of the account `default`."""
    assert pod_of(JOB, worker)["spec"]["automountServiceAccountToken"] is False


def test_a_worker_with_a_service_account_gets_its_token() -> None:
    for worker in (a_worker(serviceAccountName="w"), template(serviceAccountName="w")):
        spec = pod_of(JOB, worker)["spec"]
        assert spec["serviceAccountName"] == "w"
        assert "automountServiceAccountToken" not in spec


# Bad templates


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([1], id="a list"),
        pytest.param("pod", id="a text"),
        pytest.param({"spec": "x"}, id="a spec that is a text"),
        pytest.param({"spec": [1]}, id="a spec that is a list"),
        pytest.param({"spec": {"containers": "worker"}}, id="containers that are a text"),
        pytest.param({"spec": {"containers": {"name": "worker"}}}, id="containers that are an object"),
        pytest.param({"spec": {"containers": None}}, id="containers that are null"),
        pytest.param({"spec": {"containers": [None]}}, id="a container that is null"),
        pytest.param({"spec": {"containers": [{"name": "worker", "env": "A=1"}]}}, id="an env that is a text"),
        pytest.param({"spec": {"containers": [{"name": "worker", "env": [{"value": "1"}]}]}}, id="an env of no name"),
        pytest.param({"spec": {"containers": [{"name": "worker", "securityContext": 1}]}}, id="a context of 1"),
        pytest.param({"spec": {"securityContext": "no"}}, id="a pod's context that is a text"),
        pytest.param({"spec": {"initContainers": 3}}, id="init containers that are a number"),
        pytest.param({"spec": {"volumes": {"name": "x"}}}, id="volumes that are an object"),
        pytest.param({"metadata": {"labels": "x"}}, id="labels that are a text"),
        pytest.param({"metadata": "x"}, id="metadata that is a text"),
        pytest.param({"spec": {"x": nested(2_000)}}, id="deeper than anything may recurse"),
    ],
)
def test_a_template_that_is_none_raises_what_its_caller_expects(bad: Any) -> None:
    worker = a_worker(template=bad, env=[{"name": "A", "value": "1"}])

    with pytest.raises((TypeError, AttributeError, KeyError, ValueError)):
        pod_of(JOB, worker)


@pytest.mark.parametrize("empty", [None, {}, {"spec": None}, {"spec": {}}, {"metadata": None}])
def test_an_empty_template_is_none_at_all(empty: Any) -> None:
    assert worker_pod(a_worker(template=empty)) == worker_pod(a_worker())


# The payload


def test_the_payload_is_the_compact_json_that_the_sdk_reads() -> None:
    parent = a_job("upload", state="Succeeded")
    job = a_job("resize", spec={"args": {"größe": [1.0, None]}, "parent": child_of(parent, index=4)})

    text = payload(
        job, attempt=2, is_last_attempt=True, root="upload", depth=1, worker="default", max_attempts=5, inputs=None
    )

    assert json.loads(text) == {
        "v": 1,
        "job": {
            "namespace": "default",
            "name": "resize",
            "uid": job.uid,
            "queue": "default",
            "task": "tasks:work",
            "root": "upload",
            "depth": 1,
            "worker": "default",
            "maxAttempts": 5,
        },
        "attempt": 2,
        "isLastAttempt": True,
        "args": {"größe": [1.0, None]},
        "inputs": None,
        "parent": child_of(parent, index=4),
        "traceparent": None,
    }
    assert "größe" in text
    assert ": " not in text


def test_a_payload_of_the_largest_args_fits_its_limit() -> None:
    job = a_job("x" * 50, spec={"args": {"a": "x" * (128 * 1024 - 8)}, "task": "m:" + "f" * 250})

    text = payload(
        job, attempt=99, is_last_attempt=False, root="x" * 50, depth=9, worker="w" * 253, max_attempts=100, inputs=None
    )

    assert fault_of_args(job) is None
    assert len(text.encode()) <= 200 * 1024


def test_args_over_their_limit_are_refused_with_their_size_and_what_to_do() -> None:
    fault = fault_of_args(a_job(spec={"args": {"a": "é" * (64 * 1024)}}))

    assert fault is not None
    assert fault[0] is Reason.ARGS_TOO_LARGE
    assert fault[1] == (
        "spec.args holds 131080 bytes of JSON, over the limit of 131072: put the data into storage and pass its id"
    )


@pytest.mark.parametrize("levels", [100, 255, 900, 990, 1_000, 1_023, 5_000])
def test_args_that_are_nested_too_deeply_are_refused(levels: int) -> None:
    fault = fault_of_args(a_job(spec={"args": {"a": nested(levels)}}))

    assert fault is not None
    assert fault[0] is Reason.ARGS_INVALID
    assert "nested more than 100 levels" in fault[1]


def test_args_of_a_hundred_levels_are_taken() -> None:
    assert fault_of_args(a_job(spec={"args": {"a": nested(99)}})) is None
