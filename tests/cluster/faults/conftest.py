"""What every fault run ends with: its verdict, printed, kept, and without a violation."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.faults.daemons import Daemons
from tests.cluster.faults.operators import no_deployed_operator
from tests.kube import Kube
from tests.verdict import Verdict

RECORDS = Path(__file__).parents[3] / ".cluster" / "records"
"""From these docs/reliability.md has its numbers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What breaks the cluster has it for itself."""
    for item in items:
        if "/faults/" in str(item.path):
            item.add_marker(pytest.mark.exclusive)


@pytest.fixture
def records(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[Verdict], None]:
    """Keeps a verdict under the test's name, prints it, and fails where it holds a violation."""

    def keep(verdict: Verdict) -> None:
        name: str = request.node.name
        verdict.save(RECORDS, name)
        with capsys.disabled():
            print(f"\n{name}: {verdict}")
        assert verdict.violations == ()

    return keep


@pytest.fixture(scope="module")
def no_deployed(kube: Kube) -> Iterator[None]:
    """No deployed operator while the tests of a module have operators of their own."""
    with no_deployed_operator(kube):
        yield


@pytest.fixture
async def daemons(kube: Kube) -> AsyncIterator[Daemons]:
    """The daemons of the local cluster, which is whole again at the end."""
    if os.environ.get("CLUSTER_KUBECONFIG"):
        pytest.skip("the daemons of CLUSTER_KUBECONFIG's cluster are out of reach")
    local = Daemons()
    yield local
    await local.heal()
