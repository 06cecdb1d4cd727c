"""Questline itself is changed under load: its CRDs are applied anew, and its chart is upgraded."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import kopf
import pytest
import yaml

from questline_operator.shell.api import CRDS, JOBS
from questline_operator.shell.crd_install import apply_crds
from questline_operator.shell.http_api import HttpApi
from tests.cluster.faults.load import Load, put_load
from tests.cluster.faults.operators import DEPLOYMENT, NAMESPACE, no_deployed_operator, one_operator
from tests.kube import Kube
from tests.live import Live
from tests.verdict import Verdict

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]
CRDS_FOLDER = ROOT / "crds"
TIMES = 3


@pytest.fixture
async def described(installed: Path, tmp_path: Path) -> AsyncIterator[Callable[[str], Path]]:
    """A folder of the CRDs with another description; those of the repository are applied again at the end."""

    def folder(description: str) -> Path:
        made = tmp_path / description
        made.mkdir()
        for file in CRDS_FOLDER.glob("*.yaml"):
            crd = yaml.safe_load(file.read_text())
            for version in crd["spec"]["versions"]:
                version["schema"]["openAPIV3Schema"]["description"] = description
            (made / file.name).write_text(yaml.safe_dump(crd))
        return made

    yield folder
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    assert info is not None
    await apply_crds(info, CRDS_FOLDER)


async def test_crds_changed_three_times_under_load_lose_and_double_nothing(
    fake: Live,
    api: HttpApi,
    kube: Kube,
    tmp_path: Path,
    described: Callable[[str], Path],
    records: Callable[[Verdict], None],
) -> None:
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    assert info is not None
    with no_deployed_operator(kube):
        async with one_operator(kube, tmp_path) as operator:
            loads = [await put_load(fake, units=2)]
            for number in range(TIMES):
                await some_end(fake, loads[-1])
                await apply_crds(info, described(f"description {number}"))
                loads.append(await put_load(fake, prefix=f"after-{number}-"))
            for load in loads:
                await load.done(fake.history)
            assert await operator.terminate() == 0
    crd = await api.get(CRDS, "", f"{JOBS.plural}.{JOBS.group}")
    assert crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] == f"description {TIMES - 1}"
    assert "Traceback" not in operator.output
    assert [fault for load in loads for fault in load.faults(fake.history)] == []
    faults = {"CRDs changed": TIMES}
    records(Verdict.of(fake.history, **loads[0].limits, faults=faults))


@pytest.mark.long
async def test_a_chart_upgraded_twice_under_load_loses_and_doubles_nothing(
    fake: Live, kube: Kube, records: Callable[[Verdict], None]
) -> None:
    """Each upgrade applies the CRDs by its hook and replaces every pod of the operator."""
    pods = operator_pods(kube)
    loads = [await put_load(fake, units=2)]
    for annotation in ("podAnnotations.upgraded=yes", "podAnnotations.upgraded=null"):
        await some_end(fake, loads[-1])
        upgrade = asyncio.create_task(asyncio.to_thread(upgraded, kube, annotation))
        number = 0
        while not upgrade.done():
            number += 1
            loads.append(await put_load(fake, prefix=f"{len(loads)}-{number}-"))
            await some_end(fake, loads[-1])
        await upgrade
        before, pods = pods, operator_pods(kube)
        assert not before & pods, "the upgrade left a pod of the operator in place"
    for load in loads:
        await load.done(fake.history)
    logs = [kube.kubectl("logs", pod, "-n", NAMESPACE) for pod in pods]
    assert not any("Traceback" in log for log in logs)
    assert [fault for load in loads for fault in load.faults(fake.history)] == []
    records(Verdict.of(fake.history, **loads[0].limits, faults={"helm upgrade": 2}))


async def some_end(live: Live, load: Load) -> None:
    """Return when a third of its Jobs have ended."""
    history = live.history
    await history.until(lambda: len(history.ended & load.roots) >= len(load.roots) // 3)


def upgraded(kube: Kube, value: str) -> None:
    """Upgrade the release to the chart of this checkout with the values that it has and this one; wait for its pods."""
    kube.helm(
        *("upgrade", "questline", str(ROOT / "charts" / "questline"), "--namespace", NAMESPACE),
        *("--reset-then-reuse-values", "--set", value, "--wait", "--timeout", "3m"),
    )
    kube.kubectl("rollout", "status", DEPLOYMENT, "-n", NAMESPACE, "--timeout=120s")


def operator_pods(kube: Kube) -> set[str]:
    """The names of the deployed operator's pods that are to stay."""
    label = "app.kubernetes.io/component=operator"
    pods = json.loads(kube.kubectl("get", "pods", "-n", NAMESPACE, "-l", label, "-o", "json"))["items"]
    return {pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}
