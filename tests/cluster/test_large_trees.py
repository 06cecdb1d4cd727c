"""Large trees on fake nodes: the writes that a Job costs, and a queue's concurrency among hundreds."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from questline_operator.core.states import State
from questline_operator.shell.http_api import HttpApi
from tests.history import most_slots, violations
from tests.kube import Kube
from tests.live import Live, a_queue, live_namespace

ROOT = Path(__file__).parents[2]
CHILDREN = 300
OPERATOR_PODS = "/api/v1/namespaces/questline-system/pods"


@pytest.fixture(scope="module")
def fake_nodes(installed: Path) -> Path:
    """The local cluster with fake nodes, and the stand-in for the SDK on them."""
    subprocess.run([sys.executable, "-m", "devcluster", "up", "--kwok-nodes", "3"], cwd=ROOT, check=True)
    return installed


@pytest.fixture
async def fake(api: HttpApi, fake_nodes: Path) -> AsyncIterator[Live]:
    """A namespace whose Worker's pods go to the fake nodes."""
    worker = {
        "kind": "Worker",
        "metadata": {"name": "default"},
        "spec": {
            "image": "questline.dev/fake:1",
            "serviceAccountName": "questline-worker",
            "nodeSelector": {"type": "kwok"},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        },
    }
    async with live_namespace(api, worker) as namespace:
        yield namespace


@pytest.mark.cluster
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
