"""What the tests on a real API server share: the conformance suite's two servers, and namespaces on fake nodes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import kopf
import pytest
import yaml

from questline_operator.shell.api import CRDS, JOBS, QUEUES
from questline_operator.shell.clock import SystemClock
from questline_operator.shell.crd_install import apply_crds
from questline_operator.shell.http_api import HttpApi
from tests.cluster.api_server import Server
from tests.live import FAKE_WORKER, Live, live_namespace
from tests.simulation.apiserver import ApiServer

ROOT = Path(__file__).parents[2]
CRDS_FOLDER = ROOT / "crds"
GROUP = f"{os.environ.get('PYTEST_XDIST_WORKER', 'conformance')}.questline.dev"
"""Of each process that runs tests its own, so that none takes another's CRDs away."""


@pytest.fixture(scope="session")
def copied_crds(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[kopf.ConnectionInfo]:
    """The real server, with the copies of the CRDs in a group that no operator looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    assert info is not None
    folder, names = tmp_path_factory.mktemp("crds"), []
    for resource in (JOBS, QUEUES):
        crd = yaml.safe_load((CRDS_FOLDER / f"{resource.plural}.yaml").read_text())
        crd["metadata"]["name"] = f"{resource.plural}.{GROUP}"
        crd["spec"]["group"] = GROUP
        crd["spec"]["names"] = {key: crd["spec"]["names"][key] for key in ("kind", "listKind", "plural", "singular")}
        (folder / f"{resource.plural}.yaml").write_text(yaml.safe_dump(crd))
        names.append(crd["metadata"]["name"])
    asyncio.run(apply_crds(info, folder))
    yield info

    async def remove() -> None:
        async with HttpApi.connect(info) as api:
            for name in names:
                crd = await api.get(CRDS, "", name)
                await api.delete(CRDS, "", name, uid=crd["metadata"]["uid"])

    asyncio.run(remove())


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.cluster)])
def api_target(request: pytest.FixtureRequest) -> tuple[kopf.ConnectionInfo, str] | None:
    """The real server and a namespace on it, or None for the simulation's, which needs neither."""
    if request.param == "simulated":
        return None
    return request.getfixturevalue("copied_crds"), request.getfixturevalue("namespace")


@pytest.fixture
async def server(api_target: tuple[kopf.ConnectionInfo, str] | None) -> AsyncIterator[Server]:
    if api_target is None:
        yield Server(ApiServer(SystemClock(), namespaces=["here"]), "here", JOBS, QUEUES)
        return
    info, namespace = api_target
    async with HttpApi.connect(info) as api:
        yield Server(api, namespace, replace(JOBS, group=GROUP), replace(QUEUES, group=GROUP))


@pytest.fixture(scope="session")
def fake_nodes(installed: Path) -> Path:
    """The local cluster with fake nodes, and the stand-in for the SDK on them."""
    subprocess.run([sys.executable, "-m", "devcluster", "up", "--kwok-nodes", "3"], cwd=ROOT, check=True)
    return installed


@pytest.fixture
async def fake(api: HttpApi, fake_nodes: Path) -> AsyncIterator[Live]:
    """A namespace whose Worker's pods go to the fake nodes."""
    async with live_namespace(api, FAKE_WORKER) as namespace:
        yield namespace
