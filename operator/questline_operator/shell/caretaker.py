"""The slow work beside the controller: Queues' status, Workers' checks, and what may be deleted."""

import asyncio
import logging
from collections import Counter, defaultdict
from typing import Any, NoReturn

from questline_operator.core.pod import Pod
from questline_operator.core.podspec import worker_pod
from questline_operator.core.queue_status import queue_status
from questline_operator.core.records import ANNOTATION_EPOCH, Job, Key, Queue, Worker
from questline_operator.core.retention import expired_jobs, expired_pods
from questline_operator.core.status import Change, differs, with_ready
from questline_operator.core.world import World
from questline_operator.shell.actions import Actions
from questline_operator.shell.api import JOBS, PODS, QUEUES, WORKERS, Api, ApiError, NoAnswerError, Resource
from questline_operator.shell.clock import Clock
from questline_operator.shell.controller import Controller
from questline_operator.shell.keyed_tasks import Action, KeyedTasks
from questline_operator.shell.writer import Writer, leave_if_fenced_off

logger = logging.getLogger(__name__)

QUEUE_STATUS_SECONDS = 2.0
WORKER_POLL_SECONDS = 0.25
WORKER_RECHECK_SECONDS = 30.0
"""A Worker that was refused is tried again this often: what refuses it may have changed."""
WORKER_RETRY_SECONDS = 2.0
"""... and one whose check got no answer, this often: its Jobs wait for it."""
CHECKS_AT_ONCE = 16
"""Workers of one namespace that are checked at once."""
RETENTION_SECONDS = 5.0


class Caretaker:
    """Three loops, each of which looks at the same world as the controller and leaves its Jobs' lifecycle alone.

    What a loop does to an object is a task of its own, at most one an object: one whose writes get no answer, or the
    same error for hours, holds up no other.
    """

    def __init__(
        self, api: Api, clock: Clock, writer: Writer, actions: Actions, controller: Controller, *, epoch: int
    ) -> None:
        self._api = api
        self._clock = clock
        self._writer = writer
        self._actions = actions
        self._controller = controller
        self._epoch = epoch
        self._recheck_at: dict[Key, float] = {}
        self._busy: KeyedTasks[tuple[Resource, Key]] = KeyedTasks(clock, _log)

    @property
    def _world(self) -> World:
        return self._controller.world

    async def run(self) -> NoReturn:
        """Run the loops until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_queue_status(tasks))
            tasks.create_task(self._keep_workers_checked(tasks))
            tasks.create_task(self._delete_expired(tasks))
        raise AssertionError("unreachable: the loops never end")

    def _start(self, resource: Resource, key: Key, action: Action, tasks: asyncio.TaskGroup) -> None:
        """Run the action beside all others."""
        self._busy.start(tasks, (resource, key), action)

    # Queues

    async def _keep_queue_status(self, tasks: asyncio.TaskGroup) -> NoReturn:
        self._controller.changed_queues.update(self._world.queues)
        while True:
            changed, self._controller.changed_queues = self._controller.changed_queues, set()
            for key in sorted(changed):
                if (QUEUES, key) in self._busy:
                    self._controller.changed_queues.add(key)
                elif key in self._world.queues:
                    self._start(QUEUES, key, self._write_queue_status(self._world.queues[key]), tasks)
            await self._clock.sleep(QUEUE_STATUS_SECONDS)

    async def _write_queue_status(self, queue: Queue) -> None:
        """Write what differs from what stands there."""
        refusal = self._controller.refusal(queue.key)
        status = queue_status(self._world, queue, refusal, self._clock.now())
        if differs(queue.raw.get("status", {}), status) and not await self._patch(QUEUES, queue, status):
            self._controller.changed_queues.add(queue.key)

    # Workers

    async def _keep_workers_checked(self, tasks: asyncio.TaskGroup) -> NoReturn:
        self._controller.changed_workers.update(self._world.workers)
        while True:
            now = self._clock.monotonic()
            due = {key for key, when in self._recheck_at.items() if when <= now}
            changed, self._controller.changed_workers = self._controller.changed_workers | due, set()
            running = Counter(key[0] for resource, key in self._busy if resource == WORKERS)
            for key in sorted(changed):
                if (WORKERS, key) in self._busy or running[key[0]] >= CHECKS_AT_ONCE:
                    self._controller.changed_workers.add(key)
                    continue
                self._recheck_at.pop(key, None)
                worker = self._world.workers.get(key)
                if worker is not None and not worker.ready:
                    running[key[0]] += 1
                    self._start(WORKERS, key, self.check_worker(worker), tasks)
            await self._clock.sleep(WORKER_POLL_SECONDS)

    async def check_worker(self, worker: Worker) -> None:
        """Have the API server try a pod of the Worker, and write the condition Ready with its words."""
        ready, reason, message = True, "PodAccepted", ""
        try:
            await self._try_pod(worker)
        except ApiError as error:
            leave_if_fenced_off(error)
            if not error.definite:
                self._check_again(worker, WORKER_RETRY_SECONDS)
                return
            # A quota that is exhausted, or so new that nothing is counted yet, says nothing about the Worker: its Jobs'
            # pods wait for it as PodRejected. That the name is taken is found after everything else was found good.
            quota = "exceeded quota" in error.message or "status unknown for quota" in error.message
            if not quota and error.reason != "AlreadyExists":
                ready, reason, message = False, "PodRefused", error.message
        except NoAnswerError:
            self._check_again(worker, WORKER_RETRY_SECONDS)
            return
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            ready, reason, message = False, "TemplateInvalid", f"spec.template is no PodTemplateSpec: {error!r}"
        if not ready:
            self._check_again(worker)
        known, now = worker.raw.get("status", {}), self._clock.now()
        change = with_ready(known, ready, reason, message, generation=worker.generation, now=now)
        if differs(known, change) and not await self._patch(WORKERS, worker, change):
            self._check_again(worker, WORKER_RETRY_SECONDS)

    async def _try_pod(self, worker: Worker) -> None:
        pod = worker_pod(worker)
        # One name every time: it is part of the API server's words, which would differ from check to check.
        pod["metadata"] |= {"name": f"{worker.name[:50].rstrip('-.')}-check", "namespace": worker.namespace}
        pod["metadata"]["annotations"][ANNOTATION_EPOCH] = str(self._epoch)
        await self._api.create(PODS, worker.namespace, pod, dry_run=True)

    def _check_again(self, worker: Worker, seconds: float = WORKER_RECHECK_SECONDS) -> None:
        self._recheck_at[worker.key] = self._clock.monotonic() + seconds

    # Retention

    async def _delete_expired(self, tasks: asyncio.TaskGroup) -> NoReturn:
        while True:
            await self._clock.sleep(RETENTION_SECONDS)
            now = self._clock.now()
            pods_of_queue: defaultdict[Key, list[Pod]] = defaultdict(list)
            for pod in self._world.pods.values():
                pods_of_queue[pod.namespace, pod.queue].append(pod)
            for queue in sorted(self._world.queue_keys() | set(pods_of_queue)):
                try:
                    self._delete_expired_of(queue, pods_of_queue.get(queue, []), now, tasks)
                except Exception:
                    logger.exception("%s/%s: unexpected error", *queue)
                await asyncio.sleep(0)

    def _delete_expired_of(self, queue: Key, pods_of_queue: list[Pod], now: float, tasks: asyncio.TaskGroup) -> None:
        for pod in expired_pods(self._world, queue, pods_of_queue, now):
            if (PODS, pod.key) not in self._busy:
                self._start(PODS, pod.key, self._delete(pod), tasks)
        for job in expired_jobs(self._world, queue, now):
            if (JOBS, job.key) not in self._busy and self._seen_by_watch(job):
                self._start(JOBS, job.key, self._delete(job), tasks)

    def _seen_by_watch(self, job: Job) -> bool:
        """Whether the watch is as far as the records of the Job and its descendants, some of which answers may have
        brought: only then every child that they have is known."""
        watched = self._world.watched or 0
        return all(one.resource_version <= watched for one in (job, *self._world.descendants_of(job)))

    async def _delete(self, record: Job | Pod) -> None:
        """Delete it; the writer lets few through at once. What failed is found again by the next round."""
        try:
            if isinstance(record, Pod):
                await self._actions.delete_pod(record, patient=True)
            else:
                await self._actions.delete_job(record)
        except ApiError as error:
            logger.warning("retention: %s", error)

    async def _patch(self, resource: Resource, record: Queue | Worker, change: Change) -> bool:
        """Write the status of a small kind; False where the API server said no, as when it has changed meanwhile."""
        raw: Any = record.raw
        try:
            written = await self._writer.patch_status(resource, raw, change, patient=True)
        except ApiError as error:
            logger.info("%s %s/%s: %s", resource.plural, record.namespace, record.name, error)
            return False
        self._controller.store.apply(resource, written)
        return True


def _log(busy: tuple[Resource, Key], error: Exception) -> float:
    """The next round of its loop finds the object again."""
    resource, key = busy
    logger.error("%s %s/%s: unexpected error", resource.plural, *key, exc_info=error)
    return 0.0
