"""Whose cluster it is: nothing of a test goes anywhere but into the cluster that is entered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from questline import enqueue as sdk
from questline import job
from questline import testing as kit
from tests.unit.testing import shop
from tests.unit.testing.conftest import START

USES: list[Callable[[kit.Cluster], object]] = [
    lambda cluster: cluster.run(shop.echo, 1),
    lambda cluster: cluster.run(shop.echo.call(1)),
    lambda cluster: cluster.drain(),
    lambda cluster: cluster.advance(1),
]


@pytest.fixture(autouse=True)
def _no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own cluster, which nothing of a test may reach."""

    def connect() -> object:
        raise AssertionError("the kubeconfig's cluster was asked")

    monkeypatch.setattr(sdk, "_outside", None)
    monkeypatch.setattr(sdk, "_connect", connect)


@pytest.mark.parametrize("use", USES)
def test_a_cluster_that_is_not_entered_runs_nothing_and_reaches_no_other(use: Callable[[kit.Cluster], object]) -> None:
    cluster = kit.cluster(now=START)
    for _ in range(2):
        with pytest.raises(kit.NoCluster, match=r"is not entered: use it within its `with` block"):
            use(cluster)
        with cluster:
            pass


@pytest.mark.parametrize("use", USES)
def test_a_cluster_within_another_has_what_is_enqueued_to_itself(use: Callable[[kit.Cluster], object]) -> None:
    with kit.cluster(now=START) as outer:
        with kit.cluster(now=START) as inner:
            with pytest.raises(kit.NoCluster, match="another cluster of the test kit is entered within this one"):
                use(outer)
            assert inner.jobs() == outer.jobs() == []
        use(outer)


def test_a_handle_does_not_run_a_cluster_that_is_left() -> None:
    with kit.cluster(now=START) as cluster:
        handle = shop.echo.enqueue(1)
    with pytest.raises(kit.NoCluster, match=r"a handle's wait\(\) or result\(\): .* is not entered"):
        handle.result()
    assert [one.state for one in cluster.jobs()] == ["Waiting"]


def test_a_cluster_is_entered_once_at_a_time() -> None:
    with kit.cluster(now=START) as cluster:
        with pytest.raises(kit.KitError, match="is entered already"):
            cluster.__enter__()
        shop.echo.enqueue(1)
        assert len(cluster.drain()) == 1


def test_a_task_cannot_run_another_cluster(cluster: kit.Cluster) -> None:
    outcome = cluster.run(runs_another)
    assert (outcome.kind, type(outcome.exception)) == ("Failed", kit.KitError)
    assert outcome.children == ()


@job
def runs_another() -> None:
    with kit.cluster() as another:
        another.run(shop.echo, 1)
