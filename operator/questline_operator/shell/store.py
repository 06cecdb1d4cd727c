"""The world as watches and the answers of our own writes tell it, each object only ever newer than before."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Key, Queue, Worker
from questline_operator.core.schedule import Schedule
from questline_operator.core.world import World
from questline_operator.shell.api import JOBS, NAMESPACES, PODS, QUEUES, SCHEDULES, WORKERS, Listing, Object, Resource

logger = logging.getLogger(__name__)

KEPT_TOMBSTONES = 5_000
"""Far more than can be deleted while an answer that was sent before the deletion is still under way."""
Record = Job | Pod | Queue | Schedule | Worker
RESOURCE_OF: dict[type[Record], Resource] = {
    Job: JOBS,
    Pod: PODS,
    Queue: QUEUES,
    Schedule: SCHEDULES,
    Worker: WORKERS,
}
"""Of which resource's objects these are the records."""
_PARSERS: dict[Resource, Callable[[Object], Record]] = {resource: kind.parse for kind, resource in RESOURCE_OF.items()}


@dataclass
class Listeners:
    """Who is told of a change: each gets the record before and the one after, None where there is none."""

    job: Callable[[Job | None, Job | None], None]
    pod: Callable[[Pod | None, Pod | None], None]
    queue: Callable[[Queue | None, Queue | None], None]
    worker: Callable[[Worker | None, Worker | None], None]
    schedule: Callable[[Schedule | None, Schedule | None], None]
    namespace: Callable[[str], None]
    watched: Callable[[int], None]
    """Up to which resourceVersion the watch of Jobs has told all."""


class Store:
    """Applies what was read to the `World`, and tells the listeners what changed.

    A watch and the answers of our own writes race each other, so every object goes by its resourceVersion: an older one
    than the known is dropped, and a deleted object is not brought back by a late answer.
    """

    def __init__(self, world: World, listeners: Listeners) -> None:
        self.world = world
        self._listeners = listeners
        self._tombstones: OrderedDict[tuple[Resource, Key], int] = OrderedDict()

    def apply(self, resource: Resource, raw: Object) -> None:
        """Take in an object as it was at its resourceVersion."""
        meta = raw["metadata"]
        key, version = (meta.get("namespace", ""), meta["name"]), int(meta["resourceVersion"])
        if version <= self._tombstones.get((resource, key), 0):
            return
        if resource == NAMESPACES:
            self._namespace(meta["name"], terminating="deletionTimestamp" in meta)
            return
        known = self._records(resource).get(key)
        if known is not None and version <= known.resource_version:
            return
        try:
            record = _PARSERS[resource](raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # One object that passed its schema and cannot be understood all the same must not stop all the others.
            logger.error("%s %s/%s cannot be read and is left alone: %r", resource.plural, *key, error)
            return
        match record:
            case Job():
                self._listeners.job(self.world.put_job(record), record)
            case Pod():
                if isinstance(known, Pod) and known.gone and known.uid == record.uid:
                    return  # a late watch tells of what a read has found gone
                self._listeners.pod(self.world.put_pod(record), record)
            case Queue():
                self.world.queues[key] = record
                self._listeners.queue(known, record)
            case Schedule():
                self._listeners.schedule(self.world.put_schedule(record), record)
            case Worker():
                self.world.workers[key] = record
                self._listeners.worker(known, record)

    def remove(self, resource: Resource, raw: Object) -> None:
        """Take in that an object was deleted; ``raw`` is its last form, at the resourceVersion of its deletion."""
        meta = raw["metadata"]
        key, version = (meta.get("namespace", ""), meta["name"]), int(meta["resourceVersion"])
        if resource == NAMESPACES:
            self._namespace(meta["name"], terminating=False)
            return
        known = self._records(resource).get(key)
        if known is not None and known.resource_version > version:
            return  # a new object of that name is known already
        self._bury(resource, key, version)
        if resource == PODS:
            self._pod_gone(known, Pod.parse(raw))
        elif known is not None:
            self._forget(resource, key)

    def replace(self, resource: Resource, listing: Listing) -> None:
        """Take in a whole list: what it lacks and is not newer than it was deleted unseen."""
        listed = {(raw["metadata"].get("namespace", ""), raw["metadata"]["name"]) for raw in listing.items}
        for raw in listing.items:
            self.apply(resource, raw)
        version = int(listing.resource_version)
        if resource == NAMESPACES:
            for namespace in self.world.terminating_namespaces - {name for _, name in listed}:
                self._namespace(namespace, terminating=False)
            return
        for key, record in list(self._records(resource).items()):
            if key not in listed and record.resource_version <= version:
                self._bury(resource, key, version)
                if resource == PODS:
                    self._pod_gone(record, record)
                else:
                    self._forget(resource, key)

    def watched(self, resource: Resource, version: int) -> None:
        """The watch of that kind has told all up to this resourceVersion. The answers of our own writes are ahead."""
        if resource == JOBS:
            self.world.watched = version
            self._listeners.watched(version)

    def assume_claimed(self, job: Job, assumed: Job) -> None:
        """Count a claim that was sent and is not answered yet. A newer record of the Job replaces it."""
        self._listeners.job(self.world.put_job(assumed), assumed)

    def unassume(self, job: Job) -> None:
        """The claim came to nothing: put the record from before in its place, unless a newer one did."""
        known = self.world.jobs.get(job.key)
        if known is not None and known.claim_unconfirmed:
            self.world.put_job(job)
            self._listeners.job(known, job)

    def assume_pod_deleting(self, pod: Pod) -> None:
        """Our delete was accepted; the watch will say so too."""
        known = self.world.pods.get(pod.key)
        if known is not None and known.uid == pod.uid:
            changed = replace(known, deleting=True)
            self._listeners.pod(self.world.put_pod(changed), changed)

    def is_gone(self, record: Job | Pod | Worker) -> None:
        """A call showed that there is no such object any more."""
        resource = RESOURCE_OF[type(record)]
        known = self._records(resource).get(record.key)
        if known is None or known.uid != record.uid:
            return
        if resource == PODS:
            self._pod_gone(known, known)
        elif known.resource_version <= record.resource_version:
            self._bury(resource, record.key, record.resource_version)
            self._forget(resource, record.key)

    def _pod_gone(self, known: Pod | None, last: Pod) -> None:
        """A pod that was seen stays as gone until its Job has drawn the consequence."""
        if known is not None and known.gone:
            return
        gone = replace(last, gone=True)
        self.world.put_pod(gone)
        self._listeners.pod(known, gone)

    def _forget(self, resource: Resource, key: Key) -> None:
        if resource == JOBS:
            self._listeners.job(self.world.remove_job(key), None)
        elif resource == QUEUES:
            self._listeners.queue(self.world.queues.pop(key, None), None)
        elif resource == SCHEDULES:
            self._listeners.schedule(self.world.remove_schedule(key), None)
        elif resource == WORKERS:
            self._listeners.worker(self.world.workers.pop(key, None), None)

    def _namespace(self, name: str, *, terminating: bool) -> None:
        if terminating != (name in self.world.terminating_namespaces):
            (self.world.terminating_namespaces.add if terminating else self.world.terminating_namespaces.discard)(name)
            self._listeners.namespace(name)

    def _bury(self, resource: Resource, key: Key, version: int) -> None:
        self._tombstones[resource, key] = version
        self._tombstones.move_to_end((resource, key))
        if len(self._tombstones) > KEPT_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _records(self, resource: Resource) -> dict[Key, Any]:
        records: dict[Resource, dict[Key, Any]] = {
            JOBS: self.world.jobs,
            PODS: self.world.pods,
            QUEUES: self.world.queues,
            SCHEDULES: self.world.schedules,
            WORKERS: self.world.workers,
        }
        return records[resource]
