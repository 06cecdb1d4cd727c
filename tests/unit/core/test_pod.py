"""Parsing a pod: whose attempt it runs, and what of its container's state a decision goes by."""

import pytest

from questline_operator.core.pod import Pod
from tests.unit.core.builders import METADATA, T0, a_job, a_pod


@pytest.mark.parametrize("label", ["-1", "1.5", "x", "", "٣", "1" * 16, "1e3", " 1"])
def test_a_forged_attempt_label_counts_as_zero(label: str) -> None:
    raw = {"metadata": {**METADATA, "labels": {"questline.dev/job": "j", "questline.dev/attempt": label}}}

    assert Pod.parse(raw).attempt == 0


def test_only_a_controlling_owner_of_kind_job_owns_a_pod() -> None:
    def pod(**owner: object) -> Pod:
        return Pod.parse({"metadata": {**METADATA, "ownerReferences": [{"uid": "u", **owner}]}})

    assert pod(kind="Job", controller=True).owner_uid == "u"
    assert pod(kind="Job").owner_uid == ""
    assert pod(kind="ReplicaSet", controller=True).owner_uid == ""


def test_a_pod_that_nobody_has_scheduled_is_pending_and_live() -> None:
    pod = Pod.parse({"metadata": METADATA})

    assert (pod.phase, pod.started, pod.ended, pod.live) == ("Pending", False, False, True)


@pytest.mark.parametrize(
    ("pod", "ended", "over"),
    [
        pytest.param(a_pod(a_job(attempt=1)), False, False, id="pending"),
        pytest.param(a_pod(a_job(attempt=1), running=1), False, False, id="running"),
        pytest.param(a_pod(a_job(attempt=1), exit_code=0), True, True, id="succeeded"),
        pytest.param(a_pod(a_job(attempt=1), exit_code=1), True, True, id="failed"),
        pytest.param(
            a_pod(a_job(attempt=1), exit_code=0, phase="Running"),
            True,
            False,
            id="ended, while a sidecar of it runs on",
        ),
        pytest.param(a_pod(a_job(attempt=1), phase="Failed", reason="OutOfcpu"), True, True, id="refused by its node"),
        pytest.param(
            a_pod(a_job(attempt=1), running=1, phase="Failed"),
            False,
            False,
            id="failed by the control plane, its container last seen running on a node that is lost",
        ),
        pytest.param(a_pod(a_job(attempt=1), running=1, gone=True), True, True, id="gone"),
    ],
)
def test_a_slot_ends_with_the_container_and_a_pod_with_all_of_it(pod: Pod, ended: bool, over: bool) -> None:
    assert (pod.ended, pod.live, pod.over) == (ended, not ended, over)


def test_a_pods_end_is_read_from_the_container_worker_alone() -> None:
    pod = a_pod(a_job(attempt=1), exit_code=3, finished=9, started=4, message="bye", end_reason="Error", signal=9)

    assert (pod.exit_code, pod.end_reason, pod.termination_message, pod.signal) == (3, "Error", "bye", 9)
    assert (pod.started_at, pod.finished_at) == (T0 + 4, T0 + 9)


def test_a_disruption_condition_that_is_false_is_none() -> None:
    condition = {"type": "DisruptionTarget", "status": "False", "reason": "EvictionByEvictionAPI"}
    pod = a_pod(a_job(attempt=1), running=1, extra_status={"conditions": [condition]})

    assert pod.disruption == ""
