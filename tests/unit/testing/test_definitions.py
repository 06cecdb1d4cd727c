"""Queues, Workers and manifests that a test defines wrongly: it is told which field, and what it is to be."""

from __future__ import annotations

from typing import Any

import pytest

from questline import OptionInvalid
from questline import testing as kit
from tests.unit.testing import shop

JOB = {"task": shop.nothing.name}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concurrency": -3}, "concurrency is -3: an integer from 0 to 100,000 is needed"),
        ({"concurrency": "3"}, "concurrency is '3': an integer"),
        ({"concurrency": True}, "concurrency is True: an integer"),
        ({"priority": 1_001}, "priority is 1001: an integer from -1,000 to 1,000 is needed"),
        ({"per_key_concurrency": 0}, "per_key_concurrency is 0: an integer from 1 to 100,000 is needed"),
        ({"paused": "no"}, "paused is 'no': True or False is needed"),
        ({"rate": 5}, r"rate is 5: how many attempts and in what time is needed, as \(100, '1m'\)"),
        ({"rate": (5,)}, "rate is .*: how many attempts and in what time is needed"),
        ({"rate": (0, "1m")}, "rate's count is 0: an integer from 1 to 1,000,000 is needed"),
        ({"rate": (5, "2d")}, "rate's period is '2d': 1 to 86,400 seconds are allowed"),
        ({"name": "Emails"}, "queue is 'Emails'"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(cluster: kit.Cluster, settings: dict[str, Any], said: str) -> None:
    queue: Any = cluster.queue
    with pytest.raises(OptionInvalid, match=said):
        queue(**{"name": "q", **settings})
    assert list(cluster._world.queues) == []


@pytest.mark.parametrize("names", ["media", 3, [3]])
def test_a_worker_allows_a_list_of_names(cluster: kit.Cluster, names: Any) -> None:
    with pytest.raises(OptionInvalid, match=r"allowed_queues is .*: a list of names is needed"):
        cluster.worker("w", allowed_queues=names)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"kind": "Schedule", "metadata": {"name": "s"}, "spec": {"job": JOB}}, "Schedule s has no spec.cron"),
        ({"kind": "Schedule", "metadata": {"name": "s"}, "spec": {"cron": "* * * * *"}}, "Schedule s has no task"),
        ({"kind": "Schedule", "metadata": {"name": "s"}}, "Schedule s has no spec.cron"),
        ({"kind": "Job", "spec": JOB}, "metadata.name of a Job is ''"),
        ({"kind": "Job", "metadata": {"name": "J"}, "spec": JOB}, "metadata.name of a Job is 'J'"),
        ({"kind": "Job", "metadata": {"name": "j"}, "spec": None}, "Job j has no task"),
        ({"kind": "Worker", "metadata": {"name": "a b"}}, "metadata.name of a Worker is 'a b'"),
        (
            {"kind": "Queue", "metadata": {"name": "q"}, "spec": {"rateLimit": {"count": 1}}},
            r"Queue q has no spec.rateLimit.periodSeconds",
        ),
        ({"kind": "Pod", "metadata": {"name": "p"}}, "p is a Pod: the test kit has"),
        ([], r"apply\(\) takes manifests, .*, not \[\]"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(cluster: kit.Cluster, manifest: Any, said: str) -> None:
    with pytest.raises(kit.KitError, match=said):
        cluster.apply(manifest)
    cluster.advance("1h")
    assert cluster.jobs() == []


def test_a_manifest_changes_what_is_there(cluster: kit.Cluster) -> None:
    cluster.schedule("often", "*/10 * * * *", shop.nothing)
    cluster.apply({"kind": "Schedule", "metadata": {"name": "often"}, "spec": {"suspend": True}})
    cluster.advance("1h")
    assert cluster.jobs() == []


def test_a_state_that_is_none_is_refused(cluster: kit.Cluster) -> None:
    with pytest.raises(OptionInvalid, match=r"state is 'succeeded': Waiting, .*, Canceled or Skipped is needed"):
        cluster.jobs(state="succeeded")
