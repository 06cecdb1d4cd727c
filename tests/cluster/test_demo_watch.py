"""The demo judges by events, so its watches may miss none."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from examples.demo.cluster import Cluster, DemoError, Event, Watch, WatchLost

pytestmark = pytest.mark.cluster

CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
Sink = queue.SimpleQueue[Event | WatchLost]


@pytest.fixture
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    opened = Cluster(kubeconfig, f"demo-watch-{token_hex(4)}")
    opened.kubectl("create", "namespace", opened.namespace)
    yield opened
    opened.kubectl("delete", "namespace", opened.namespace, "--wait=false")


def make(cluster: Cluster, name: str) -> None:
    cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}])


def next_of_mine(events: Sink) -> tuple[str, str]:
    """The next event's type and name, but for those of the ConfigMap that Kubernetes puts into each namespace."""
    while True:
        event = events.get(timeout=30)
        assert isinstance(event, Event), event
        name = str(event.object["metadata"]["name"])
        if name != "kube-root-ca.crt":
            return event.type, name


def test_a_watch_tells_what_was_there_and_what_comes(cluster: Cluster) -> None:
    make(cluster, "before")
    events: Sink = queue.SimpleQueue()
    watch = cluster.watch(CONFIG_MAPS, events.put)
    make(cluster, "after")
    cluster.kubectl("delete", "configmap", "before")
    seen = [next_of_mine(events) for _ in range(3)]
    watch.stop()
    assert seen == [("ADDED", "before"), ("ADDED", "after"), ("DELETED", "before")]


def test_a_watch_whose_kubectl_is_killed_goes_on_where_it_was(cluster: Cluster) -> None:
    events: Sink = queue.SimpleQueue()
    watch = cluster.watch(CONFIG_MAPS, events.put)
    make(cluster, "one")
    assert next_of_mine(events) == ("ADDED", "one")
    os.kill(watch.pid, signal.SIGKILL)
    make(cluster, "two")
    cluster.kubectl("delete", "configmap", "one")
    seen = [next_of_mine(events) for _ in range(2)]
    watch.stop()
    assert seen == [("ADDED", "two"), ("DELETED", "one")]


def test_a_watch_that_cannot_go_on_says_so(cluster: Cluster) -> None:
    events: Sink = queue.SimpleQueue()
    watch = Watch(lambda version: cluster.open_watch("/no/such/path", version), "1", events.put)
    lost = events.get(timeout=60)
    watch.stop()
    assert isinstance(lost, WatchLost)
    assert "could not find the requested resource" in lost.message


def test_an_error_is_in_kubectls_own_words(cluster: Cluster) -> None:
    with pytest.raises(DemoError, match='configmaps "absent" not found'):
        cluster.kubectl("get", "configmap", "absent")
