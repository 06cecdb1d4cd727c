"""The store: whatever order watches and answers come in, each object only ever gets newer."""

from typing import Any

import pytest

from questline_operator.core.records import LABEL_JOB, LABEL_QUEUE, Job
from questline_operator.core.states import State
from questline_operator.core.world import World
from questline_operator.shell.api import JOBS, NAMESPACES, PODS, QUEUES, WORKERS, Listing, Object
from questline_operator.shell.store import Listeners, Store
from tests.unit.core import builders

QUEUE = ("default", "default")


class Told:
    """What a store told its listeners: the kind, and what was before and after."""

    def __init__(self) -> None:
        self.news: list[tuple[str, Any, Any]] = []

    def listeners(self) -> Listeners:
        def listener(kind: str) -> Any:
            return lambda old, new: self.news.append((kind, old, new))

        return Listeners(
            job=listener("job"),
            pod=listener("pod"),
            queue=listener("queue"),
            worker=listener("worker"),
            schedule=listener("schedule"),
            namespace=lambda name: self.news.append(("namespace", name, None)),
            watched=lambda version: None,
        )

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.news]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def store(told: Told) -> Store:
    return Store(World(), told.listeners())


def _job(version: int, **fields: Any) -> Object:
    return dict(builders.a_job("resize", version=version, **fields).raw)


def _pod(version: int, *, uid: str = "pod-uid", phase: str = "Running", **meta: Any) -> Object:
    owner = builders.uid_of("resize")
    state = {"running": {"startedAt": builders.whole_time_of(1)}} if phase == "Running" else {}
    return {
        "metadata": {
            "name": f"resize-{owner[:8]}-1",
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": builders.whole_time_of(0),
            "labels": {LABEL_JOB: "resize", LABEL_QUEUE: "default", "questline.dev/attempt": "1"},
            "ownerReferences": [{"kind": "Job", "name": "resize", "uid": owner, "controller": True}],
            **meta,
        },
        "spec": {},
        "status": {"phase": phase, "containerStatuses": [{"name": "worker", "state": state}]},
    }


def _known(store: Store) -> Job | None:
    return store.world.jobs.get(("default", "resize"))


@pytest.mark.parametrize("late", [4, 5])
def test_a_record_is_not_replaced_by_one_that_is_not_newer(store: Store, told: Told, late: int) -> None:
    store.apply(JOBS, _job(5, state="Starting"))
    store.apply(JOBS, _job(late))
    known = _known(store)
    assert known is not None
    assert known.state is State.STARTING
    assert told.kinds == ["job"]


def test_versions_are_compared_as_numbers(store: Store) -> None:
    store.apply(JOBS, _job(9))
    store.apply(JOBS, _job(10, state="Starting"))
    known = _known(store)
    assert known is not None
    assert known.state is State.STARTING


def test_a_deleted_job_is_not_brought_back_by_an_answer_that_comes_late(store: Store) -> None:
    store.apply(JOBS, _job(5))
    store.remove(JOBS, _job(8))
    store.apply(JOBS, _job(7, state="Starting"))
    assert _known(store) is None


def test_a_deletion_that_is_told_late_leaves_the_new_job_of_that_name(store: Store) -> None:
    store.apply(JOBS, _job(5))
    store.apply(JOBS, _job(12, uid="another"))
    store.remove(JOBS, _job(8))
    known = _known(store)
    assert known is not None
    assert known.uid == "another"


def test_a_job_that_a_call_found_gone_stays_gone_for_what_the_watch_still_tells_of_it(store: Store) -> None:
    store.apply(JOBS, _job(5))
    known = _known(store)
    assert known is not None
    store.is_gone(known)
    store.apply(JOBS, _job(5))
    assert _known(store) is None
    store.apply(JOBS, _job(6, uid="another"))
    assert _known(store) is not None


@pytest.mark.parametrize(
    ("resource", "raw"),
    [
        (JOBS, _job(5)),
        (QUEUES, dict(builders.a_queue().raw)),
        (WORKERS, dict(builders.a_worker().raw)),
    ],
)
def test_what_a_list_lacks_was_deleted_unseen(store: Store, told: Told, resource: Any, raw: Object) -> None:
    store.apply(resource, raw)
    store.replace(resource, Listing([], "50"))
    assert (store.world.jobs, store.world.queues, store.world.workers) == ({}, {}, {})
    assert [after for _, _, after in told.news][-1] is None


def test_what_is_newer_than_a_list_that_lacks_it_stays(store: Store) -> None:
    store.apply(JOBS, _job(51))
    store.apply(PODS, _pod(52))
    store.replace(JOBS, Listing([], "50"))
    store.replace(PODS, Listing([], "50"))
    assert _known(store) is not None
    assert [pod.gone for pod in store.world.pods.values()] == [False]


@pytest.mark.parametrize("how", ["watch", "list", "call"])
def test_a_pod_that_was_seen_stays_as_gone_with_what_it_last_showed(store: Store, how: str) -> None:
    store.apply(PODS, _pod(5))
    if how == "watch":
        store.remove(PODS, _pod(8))
    elif how == "list":
        store.replace(PODS, Listing([], "8"))
    else:
        store.is_gone(next(iter(store.world.pods.values())))
    [pod] = store.world.pods.values()
    assert (pod.gone, pod.live, pod.started_at) == (True, False, builders.T0 + 1)


def test_a_pod_that_a_call_found_gone_is_not_brought_back_by_a_late_watch(store: Store) -> None:
    store.apply(PODS, _pod(5))
    store.is_gone(next(iter(store.world.pods.values())))
    store.apply(PODS, _pod(7))
    assert [pod.gone for pod in store.world.pods.values()] == [True]


def test_the_end_of_a_pod_is_told_once(store: Store, told: Told) -> None:
    store.apply(PODS, _pod(5))
    store.remove(PODS, _pod(8))
    store.remove(PODS, _pod(8))
    store.replace(PODS, Listing([], "50"))
    assert told.kinds == ["pod", "pod"]


def test_a_claim_that_was_sent_counts_until_it_is_answered(store: Store) -> None:
    job = builders.a_job("resize", version=5)
    store.apply(JOBS, dict(job.raw))
    claimed = builders.a_job("resize", version=5, state="Starting")
    store.assume_claimed(job, builders.unconfirmed(claimed))
    assert store.world.slots_held(QUEUE) == 1
    store.unassume(job)
    assert store.world.slots_held(QUEUE) == 0
    assert _known(store) == job


def test_a_claim_that_was_applied_after_all_is_not_undone(store: Store) -> None:
    job = builders.a_job("resize", version=5)
    store.apply(JOBS, dict(job.raw))
    store.assume_claimed(job, builders.unconfirmed(builders.a_job("resize", version=5, state="Starting")))
    store.apply(JOBS, _job(6, state="Starting"))
    store.unassume(job)
    known = _known(store)
    assert known is not None
    assert (known.state, known.resource_version) == (State.STARTING, 6)


def test_a_delete_that_was_accepted_is_known_before_the_watch_tells(store: Store) -> None:
    store.apply(PODS, _pod(5))
    [pod] = store.world.pods.values()
    store.assume_pod_deleting(pod)
    assert [pod.deleting for pod in store.world.pods.values()] == [True]


def test_another_pod_of_that_name_is_neither_deleting_nor_gone(store: Store) -> None:
    store.apply(PODS, _pod(5, uid="first"))
    [first] = store.world.pods.values()
    store.apply(PODS, _pod(9, uid="second"))
    store.assume_pod_deleting(first)
    store.is_gone(first)
    [second] = store.world.pods.values()
    assert (second.deleting, second.gone) == (False, False)


def test_a_namespace_that_ends_is_told_once_and_forgotten_when_it_is_gone(store: Store, told: Told) -> None:
    ending = {"metadata": {"name": "old", "resourceVersion": "5", "deletionTimestamp": builders.whole_time_of(0)}}
    store.apply(NAMESPACES, ending)
    store.apply(NAMESPACES, ending)
    assert store.world.terminating_namespaces == {"old"}
    store.replace(NAMESPACES, Listing([], "50"))
    assert store.world.terminating_namespaces == set()
    assert told.kinds == ["namespace", "namespace"]


def test_an_object_that_cannot_be_read_is_left_alone_and_named(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.apply(JOBS, _job(5))
    broken = _job(6)
    broken["status"] = {"state": "Dreaming"}
    store.apply(JOBS, broken)
    store.replace(JOBS, Listing([broken], "50"))
    known = _known(store)
    assert known is not None
    assert known.resource_version == 5
    assert "questjobs default/resize cannot be read" in caplog.text
