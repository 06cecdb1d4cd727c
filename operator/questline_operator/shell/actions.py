"""The writes of a Job's steps, each carried to a definite end and its answer put into the store."""

import logging
from typing import Any

from questline_operator.core.lineage import worker_name, worker_of
from questline_operator.core.pod import Pod
from questline_operator.core.podspec import pod_of_attempt
from questline_operator.core.records import DEFAULT_QUEUE, Job, Worker
from questline_operator.core.status import Change
from questline_operator.core.world import World
from questline_operator.shell.api import JOBS, PODS, QUEUES, WORKERS, Api, ApiError, NoAnswerError, Object
from questline_operator.shell.clock import Clock
from questline_operator.shell.lease import LeadershipLostError
from questline_operator.shell.reading import READ_DELAY_SECONDS, SharedReads, read_until_known
from questline_operator.shell.store import RESOURCE_OF, Store
from questline_operator.shell.writer import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, FateUnknownError, Writer

logger = logging.getLogger(__name__)

NOT_RUN_YET_SECONDS = 0.25
"""No pod is created, runs and is gone within this time: one that is not there so soon has not run."""


class PodVanishedError(Exception):
    """The pod of an attempt was created, as far as is known, and is gone before anything was seen of it."""


class Actions:
    """What the controller can do to the cluster."""

    FATAL = (LeadershipLostError,)
    """Errors that end the process: it must not write any more."""

    def __init__(self, api: Api, clock: Clock, writer: Writer, store: Store, *, epoch: int) -> None:
        self._api = api
        self._clock = clock
        self._writer = writer
        self._store = store
        self._epoch = epoch
        self._reads = SharedReads(api, clock)

    @property
    def _world(self) -> World:
        return self._store.world

    async def write_status(
        self, job: Job, change: Change, *, because_of: Pod | Worker | None = None, patient: bool = False
    ) -> bool:
        """Write the change on the Job as it is in that record, and the epoch; False where it has changed or is gone.

        Args:
            because_of: nothing is written, and False returned, where this has changed or is gone either.
        """
        if because_of is not None and not await self._still_is(because_of):
            return False
        raw: Any = job.raw
        change = {**change, "epoch": self._epoch}
        try:
            written = await self._writer.patch_status(JOBS, raw, change, patient=patient)
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise
            if await self._read_again(job) == job.resource_version:
                # Nothing has changed, so it was not the precondition: the API server refuses the change itself.
                raise
            logger.info("%s/%s changed before a write of its status: %s", *job.key, error.message)
            return False
        self._store.apply(JOBS, written)
        return True

    async def create_pod(self, job: Job) -> str | None:
        """Create the pod of the Job's current attempt; returns the API server's words where it refuses the pod.

        Raises:
            PodVanishedError: it was created and is gone, or may have been: to try again could run its number twice.
        """
        if worker_of(self._world, job) is None:
            await self._find_worker(job)
            if self._was_seen(job):
                return None
        try:
            manifest = pod_of_attempt(self._world, job, epoch=self._epoch)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            return f"Worker {worker_name(self._world, job)}: spec.template is no PodTemplateSpec: {error!r}"
        name = manifest["metadata"]["name"]
        pod: Object | None = None
        delay = FIRST_DELAY_SECONDS
        while pod is None:
            try:
                pod = await self._writer.create(PODS, job.namespace, manifest, repeat=False)
            except ApiError as error:
                if error.reason != "AlreadyExists":  # a quota's own conflict is a 409 too
                    return error.message
                pod = await self._existing_pod(job, name)
                if pod is None:
                    raise PodVanishedError(name) from None
            except FateUnknownError as unknown:
                logger.warning("%s/%s: %s", job.namespace, name, unknown)
                pod = await self._existing_pod(job, name)
                if pod is None and self._clock.monotonic() - unknown.sent_at > NOT_RUN_YET_SECONDS:
                    raise PodVanishedError(name) from None
                if pod is None:
                    await self._clock.sleep(delay)
                    delay = min(delay * 2, MAX_DELAY_SECONDS)
                    if self._was_seen(job):
                        return None
        if not any(owner["uid"] == job.uid for owner in pod["metadata"].get("ownerReferences", [])):
            return f"pod {name} exists and is not this Job's"
        self._store.apply(PODS, pod)
        return None

    async def delete_pod(self, pod: Pod, *, patient: bool = False) -> None:
        """Delete the pod; its end is seen by the watch."""
        try:
            await self._writer.delete(PODS, pod.namespace, pod.name, uid=pod.uid, patient=patient)
        except ApiError as error:
            if error.status != 409:
                raise
            self._store.is_gone(pod)  # another pod has its name by now
            return
        self._store.assume_pod_deleting(pod)

    async def delete_orphan(self, pod: Pod) -> None:
        """Delete a pod whose Job is gone, after a read that says so."""
        try:
            job = await self._api.get(JOBS, pod.namespace, pod.job)
        except ApiError as error:
            if error.definite and error.status != 404:
                raise
            if error.status != 404:
                await self._clock.sleep(READ_DELAY_SECONDS)
                return
        except NoAnswerError:
            await self._clock.sleep(READ_DELAY_SECONDS)
            return
        else:
            if pod.may_be_of(job["metadata"]["uid"]):
                self._store.apply(JOBS, job)
                return
        await self.delete_pod(pod)

    async def delete_job(self, job: Job) -> None:
        """Delete a finished Job as it is in that record; one that changed meanwhile is looked at again."""
        version = str(job.resource_version)
        try:
            await self._writer.delete(JOBS, job.namespace, job.name, uid=job.uid, version=version, patient=True)
        except ApiError as error:
            if error.status != 409:
                raise

    async def make_default_queue(self, namespace: str) -> None:
        """Create the queue ``default``."""
        body: Object = {
            "apiVersion": QUEUES.api_version,
            "kind": "Queue",
            "metadata": {"name": DEFAULT_QUEUE, "namespace": namespace},
            "spec": {},
        }
        try:
            queue = await self._writer.create(QUEUES, namespace, body)
        except ApiError as error:
            if error.status != 409:
                raise
            try:
                queue = await self._api.get(QUEUES, namespace, DEFAULT_QUEUE)
            except (ApiError, NoAnswerError) as unread:
                logger.info("Queue %s/%s exists and is not read yet: %s", namespace, DEFAULT_QUEUE, unread)
                await self._clock.sleep(READ_DELAY_SECONDS)
                return
        self._store.apply(QUEUES, queue)

    def _was_seen(self, job: Job) -> bool:
        """Whether the pod of that attempt was seen, gone or not, or the attempt is no longer its Job's open one."""
        return self._world.open_attempt(job) is None or self._world.attempt_pod(job) is not None

    async def _existing_pod(self, job: Job, name: str) -> Object | None:
        """The pod of that name, whoever's it is; None where it is gone."""
        return await read_until_known(self._api, self._clock, PODS, job.namespace, name)

    async def _still_is(self, record: Pod | Worker) -> bool:
        """Whether the object is as in that record; as it is now it is in the store."""
        resource = RESOURCE_OF[type(record)]
        return self._known_now(record, await self._reads.read(resource, *record.key)) == record.resource_version

    async def _read_again(self, job: Job) -> int:
        """Put the Job as it is now into the store; returns its resourceVersion, 0 where it is gone."""
        return self._known_now(job, await read_until_known(self._api, self._clock, JOBS, job.namespace, job.name))

    def _known_now(self, record: Job | Pod | Worker, raw: Object | None) -> int:
        """Put what was read of the record's object into the store; returns its resourceVersion, 0 where it is gone."""
        if raw is None:
            self._store.is_gone(record)
            return 0
        self._store.apply(RESOURCE_OF[type(record)], raw)
        return int(raw["metadata"]["resourceVersion"])

    async def _find_worker(self, job: Job) -> None:
        """Put the Job's Worker into the store where no watch has told of it yet: a Job with an image of its own runs
        without one, but not without its ServiceAccount and nodes for a watch that is late."""
        raw = await self._reads.read(WORKERS, job.namespace, worker_name(self._world, job))
        if raw is not None:
            self._store.apply(WORKERS, raw)
