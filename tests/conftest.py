"""The cluster that tests run on: the one of CLUSTER_KUBECONFIG, else the local one, started where it does not run."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import kopf
import pytest

from questline_operator.shell.http_api import HttpApi
from tests.kube import Kube
from tests.live import Live, live_namespace

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """Path of a cluster admin's kubeconfig. kubectl and helm of the local cluster go first on PATH from here on."""
    tools = ROOT / ".cluster" / "bin"
    if str(tools) not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    given = os.environ.get("CLUSTER_KUBECONFIG")
    if given:
        return Path(given).absolute()
    subprocess.run([sys.executable, "-m", "devcluster", "up"], cwd=ROOT, check=True)
    return ROOT / ".cluster" / "kubeconfig"


@pytest.fixture(scope="session")
def installed(kubeconfig: Path) -> Path:
    """The kubeconfig of a cluster on which Questline runs; `make install` where it does not yet."""
    if not Kube(kubeconfig).exists("deployment/questline-operator", namespace="questline-system"):
        subprocess.run(["make", "install"], cwd=ROOT, check=True)
    return kubeconfig


@pytest.fixture(scope="session")
def kube(installed: Path) -> Kube:
    """kubectl, helm and plain requests as cluster admin, on a cluster where Questline is installed."""
    return Kube(installed)


@pytest.fixture
def namespace(kubeconfig: Path) -> Iterator[str]:
    """A fresh namespace with its ServiceAccount `default`; deleted afterwards, without waiting for its end."""
    kube = Kube(kubeconfig)
    name = kube.new_namespace()
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def module_namespace(kubeconfig: Path) -> Iterator[str]:
    """Like ``namespace``, one for all tests of a module: for those that only read or make what does not collide."""
    kube = Kube(kubeconfig)
    name = kube.new_namespace()
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def api(installed: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpApi]:
    """The API server as cluster admin."""
    monkeypatch.setenv("KUBECONFIG", str(installed))
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    assert info is not None
    async with HttpApi.connect(info) as client:
        yield client


@pytest.fixture
async def live(api: HttpApi) -> AsyncIterator[Live]:
    """A fresh namespace whose Worker `default` runs tests/e2e/tasks.py, and its history."""
    async with live_namespace(api) as namespace:
        yield namespace
