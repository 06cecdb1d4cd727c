"""Large trees on fake nodes: the writes that a Job costs, and a queue's concurrency among hundreds."""

import json
import re

import pytest

from questline_operator.core.states import State
from tests.kube import Kube
from tests.live import Live, a_queue
from tests.verdict import most_slots, violations

CHILDREN = 300
OPERATOR_PODS = "/api/v1/namespaces/questline-system/pods"


@pytest.mark.cluster
@pytest.mark.exclusive
async def test_a_tree_of_three_hundred_costs_three_writes_a_job_and_keeps_its_queue(fake: Live, kube: Kube) -> None:
    await fake.apply(a_queue("emails", concurrency=20))
    before = job_and_pod_writes(kube)
    await fake.job("root", "tasks:root", args={"fake": {"children": CHILDREN, "child": {"queue": "emails"}}})
    await fake.history.until(lambda: len(fake.history.jobs()) == CHILDREN + 1, seconds=180)
    jobs = await fake.history.settled(seconds=300)
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    events = fake.history.in_order()
    assert violations(events, concurrency={"emails": 20}) == []
    assert most_slots(events, "emails") == 20
    writes = job_and_pod_writes(kube) - before
    # The claim, the pod, the outcome. A wait of over 30 s is explained once, and other tests' pods may be deleted.
    assert writes <= 3.5 * (CHILDREN + 1), writes


def job_and_pod_writes(kube: Kube) -> int:
    """What the operator has counted: its creations and patches of Jobs and pods."""
    pods = kube.kubectl("get", "--raw", f"{OPERATOR_PODS}?labelSelector=app.kubernetes.io/component=operator")
    metrics = "".join(
        kube.kubectl("get", "--raw", f"{OPERATOR_PODS}/{pod['metadata']['name']}:8080/proxy/metrics")
        for pod in json.loads(pods)["items"]
    )
    counted = re.findall(r'questline_writes_total\{resource="(\w+)",verb="(\w+)"\} (\S+)', metrics)
    return sum(
        int(float(value))
        for resource, verb, value in counted
        if resource in ("questjobs", "pods") and verb in ("create", "patch")
    )
