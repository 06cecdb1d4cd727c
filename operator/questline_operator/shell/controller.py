"""The loop that turns what the store shows into writes: asks the core for each Job's next step, and carries it out.

One pass looks at every Job and queue that changed or became due. A step that writes runs as a task of its own, at most
one a Job; when it has ended the Job is looked at again. Claims are decided here, one queue after the other, and counted
from the moment they are sent, so that a queue's concurrency holds whatever is under way.
"""

import asyncio
import heapq
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import NoReturn

from questline_operator.core import transitions
from questline_operator.core.decide import (
    CreatePod,
    DeletePod,
    MakeDefaultQueue,
    Nothing,
    Ready,
    Step,
    WriteStatus,
    next_step,
)
from questline_operator.core.dependencies import matters_to_others, needs, whose_turn_may_come
from questline_operator.core.limits import WAITS_FOR_A_START
from questline_operator.core.lineage import Hold, ancestors, root_record
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Key, Queue, Worker
from questline_operator.core.schedule import Schedule
from questline_operator.core.states import REASON_DELAY_SECONDS, WRITTEN_AT_ONCE, Reason, State
from questline_operator.core.status import Change
from questline_operator.core.times import parse_time
from questline_operator.core.turnstile import Turnstile
from questline_operator.core.uniqueness import could_run, frees_rivals
from questline_operator.core.world import World
from questline_operator.shell.actions import Actions, PodVanishedError
from questline_operator.shell.agenda import Agenda
from questline_operator.shell.api import ApiError
from questline_operator.shell.clock import Clock
from questline_operator.shell.keyed_tasks import Action, KeyedTasks
from questline_operator.shell.store import Listeners, Store

logger = logging.getLogger(__name__)

STALE_REASON_DELAY_SECONDS = 2.0
"""A written reason that needs a person and no longer holds is replaced after this long, unless a claim clears it."""
ERROR_DELAY_SECONDS = 10.0
"""After an unexpected error a Job is left alone for this long."""
FORBIDDEN_DELAY_SECONDS = 2.0
"""An API server that has just started forbids what it allows a moment later: it has to read the roles first."""
JOBS_AT_A_STRETCH = 200
"""So many Jobs are looked at before watches, writes and probes get their turn ..."""
STRETCH_SECONDS = 0.05
"""... or for so long: a leader that is busy for many seconds loses its Lease, and its successor would fare alike."""


class Controller:
    """Drives every Job towards its end.

    Args:
        epoch: this leadership's number; every claim and pod carries it.
        max_running_pods: how many pods of attempts may run at once in all queues together; None for any number.
    """

    def __init__(self, clock: Clock, world: World, *, epoch: int, max_running_pods: int | None = None) -> None:
        self.world = world
        self.epoch = epoch
        self.store = Store(
            world,
            Listeners(
                job=self._job_changed,
                pod=self._pod_changed,
                queue=self._queue_changed,
                worker=self._worker_changed,
                schedule=self._schedule_changed,
                namespace=self._namespace_changed,
                watched=self._jobs_watched,
            ),
        )
        self.changed_queues: set[Key] = set()
        """Queues whose status may have changed, for whoever writes their status."""
        self.changed_workers: set[Key] = set()
        """Workers that may need a check, for whoever checks them."""
        self.changed_schedules: set[Key] = set()
        """Schedules that may need a look, for whoever makes their Jobs ..."""
        self.schedules_changed = asyncio.Event()
        """... and waits for this."""
        self.last_look = clock.monotonic()
        """The heartbeat: a pass over many Jobs may take long."""
        self._clock = clock
        self._jobs: Agenda[Key] = Agenda()
        self._queues: Agenda[Key] = Agenda()
        self._turnstile = Turnstile(world, max_running_pods=max_running_pods)
        self._busy: KeyedTasks[Key] = KeyedTasks(clock, self._delay_after)
        self._creating: dict[Key, Job] = {}
        self._competing: set[Key] = set()
        self._held_since: dict[Key, tuple[str, float]] = {}
        self._awaiting_watch: list[tuple[int, Key]] = []
        self._wake = asyncio.Event()
        self._acting = False

    async def run(self, actions: Actions) -> NoReturn:
        """Act on everything that the store holds, then on what changes. Call it when every list was read.

        Raises:
            LeadershipLostError: a write found that this process leads no more.
        """
        self._acting = True
        for key in self.world.jobs:
            self._jobs.mark(key)
        for pod in list(self.world.pods.values()):
            self._jobs.mark((pod.namespace, pod.job))
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._pass(actions, tasks)
                await self._sleep_until_due()
        raise AssertionError("unreachable: the loop above never ends")

    def wake(self) -> None:
        """Have the next pass begin now."""
        self._wake.set()

    def refusal(self, queue: Key) -> str | None:
        """The API server's words where it refuses the queue's pods, as far as this process has tried."""
        return self._turnstile.refusal(queue)

    # One pass

    async def _pass(self, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        now, until = self._clock.now(), self._clock.monotonic() + STRETCH_SECONDS
        for place, key in enumerate(self._jobs.take(now), 1):
            if key not in self._busy:
                self._look_at(key, now, actions, tasks)
            if place % JOBS_AT_A_STRETCH == 0 or self._clock.monotonic() >= until:
                self.last_look = self._clock.monotonic()
                await asyncio.sleep(0)
                until = self._clock.monotonic() + STRETCH_SECONDS
        self._claim_from(self._queues.take(now), now, actions, tasks)
        self.last_look = self._clock.monotonic()

    async def _sleep_until_due(self) -> None:
        self._wake.clear()
        if self._jobs or self._queues:
            await asyncio.sleep(0)
            return
        dues = [due for due in (self._jobs.next_due(), self._queues.next_due()) if due is not None]
        # A second at the most: the heartbeat that the liveness probe looks at.
        wait = min([1.0, *(max(0.0, due - self._clock.now()) for due in dues)])
        timer = asyncio.ensure_future(self._clock.sleep(wait))
        waker = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((timer, waker), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            waker.cancel()

    def _look_at(self, key: Key, now: float, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        job = self.world.jobs.get(key)
        self._tend_strays(key, job, actions, tasks)
        if job is None:
            self._jobs.forget(key)
            self._held_since.pop(key, None)
            self._competing.discard(key)
            return
        self._note_competition(job, now)
        step = next_step(self.world, job, now, epoch=self.epoch)
        self._carry_out(job, step, now, actions, tasks)

    def _note_competition(self, job: Job, now: float) -> None:
        """Rivals wait behind the first unique Job that could run: look at them when that one no longer could."""
        unique = self.world.unique_key(job)
        if unique is None:
            return
        if not job.claimed_in_this_run and could_run(self.world, job, now):
            self._competing.add(job.key)
        elif job.key in self._competing:
            self._competing.discard(job.key)
            self._mark(self.world.unclaimed_rivals(unique))

    def _carry_out(self, job: Job, step: Step, now: float, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        if not isinstance(step, Ready):
            self._turnstile.discard(job)
        if not isinstance(step, Ready | Hold):
            self._held_since.pop(job.key, None)
        match step:
            case Nothing(until):
                if until is not None:
                    self._jobs.mark_at(job.key, until)
            case Hold():
                self._hold(job, step, now, actions, tasks)
            case Ready():
                if self._turnstile.add(job):
                    self._queues.mark(job.queue_key)
                self._hold(job, Hold(Reason.AT_CONCURRENCY_LIMIT, ""), now, actions, tasks)
            case WriteStatus(change, because_of):
                self._start(job.key, actions.write_status(job, change, because_of=because_of), tasks)
            case CreatePod():
                self._start(job.key, self._create_pod(job, actions), tasks)
            case DeletePod(pod):
                self._start(job.key, actions.delete_pod(pod), tasks)
            case MakeDefaultQueue():
                making = (job.namespace, "queue/default")
                # It may be made for another Job, which does not look again where that one is gone by then.
                self._jobs.mark_at(job.key, now + ERROR_DELAY_SECONDS)
                if making not in self._busy:
                    self._start(making, actions.make_default_queue(job.namespace), tasks, look_at=job.key)

    def _hold(self, job: Job, hold: Hold, now: float, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        """Note the reason; write it where it needs a person, or when it has lasted."""
        reason, since = self._held_since.get(job.key, ("", now))
        if reason != hold.reason or now < since:
            since = now
            self._held_since[job.key] = (hold.reason, now)
        if hold.until is not None:
            self._jobs.mark_at(job.key, hold.until)
        if hold.watched is not None:
            heapq.heappush(self._awaiting_watch, (hold.watched, job.key))
        delay = REASON_DELAY_SECONDS
        if hold.reason in WRITTEN_AT_ONCE and not hold.passing:
            delay = 0.0
        elif job.reason in WRITTEN_AT_ONCE:
            delay = STALE_REASON_DELAY_SECONDS
        due = now >= since + delay
        known = {hold.reason}
        if not hold.message:
            # Its key, its queue and the rate take turns to hold up a ready Job: which does, is asked when it counts.
            known = set(WAITS_FOR_A_START)
            if due:
                hold = self._turnstile.why(job, now)
                known = {hold.reason}
                self._held_since[job.key] = (Reason.AT_CONCURRENCY_LIMIT, now)
        if job.reason in known and (
            # Which of several Jobs is missing may change; other messages of a reason are as good as each other.
            hold.reason != Reason.DEPENDENCY_MISSING or job.status.get("message") == hold.message
        ):
            return
        if not due:
            self._jobs.mark_at(job.key, since + delay)
            return
        change = transitions.explain(job, hold.reason, hold.message)
        self._start(job.key, actions.write_status(job, change, patient=delay > 0), tasks)

    # Claims

    def _claim_from(self, queues: list[Key], now: float, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        """Give free slots to the first of the ready Jobs."""
        self.changed_queues.update(queues)

        def still_ready(key: Key) -> Job | None:
            job = self.world.jobs.get(key)
            if job is None or key in self._busy:
                return None  # it is looked at again when its write has ended
            step = next_step(self.world, job, now, epoch=self.epoch)
            if isinstance(step, Ready):
                return job
            self._carry_out(job, step, now, actions, tasks)
            return None

        if queues:
            uncounted = self._uncounted_creates()
            for job in self._turnstile.passing(queues, now, uncounted=uncounted, still_ready=still_ready):
                self._start_claim(job, now, actions, tasks)
        for queue in queues:
            due = self._turnstile.next_due(queue, now)
            if due is not None:
                self._queues.mark_at(queue, due)

    def _uncounted_creates(self) -> Counter[tuple[Key, str]]:
        """Pods that may come to be though nothing else counts for them, by queue and key: their Job is gone, or an
        earlier try of the same create was seen to end."""
        uncounted: Counter[tuple[Key, str]] = Counter()
        for job in self._creating.values():
            known, pod = self.world.jobs.get(job.key), self.world.attempt_pod(job)
            if known is None or known.uid != job.uid or (pod is not None and not pod.live):
                uncounted[job.queue_key, job.concurrency_key] += 1
        return uncounted

    def _start_claim(self, job: Job, now: float, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        self._held_since.pop(job.key, None)
        self._turnstile.rejections.claimed(job.queue_key)
        change = transitions.claim(self.world, job, now=now)
        claimed_at = parse_time(str(change["startedAt"]))
        self._turnstile.starts.claimed(job.queue_key, claimed_at)
        assumed = replace(job, state=State.STARTING, attempt=job.attempt + 1, epoch=self.epoch, claim_unconfirmed=True)
        self.store.assume_claimed(job, assumed)
        self._start(job.key, self._claim(job, change, claimed_at, actions), tasks)

    async def _claim(self, job: Job, change: Change, claimed_at: float, actions: Actions) -> None:
        confirmed = False
        try:
            confirmed = await actions.write_status(job, change)
        finally:
            if not confirmed:
                self._turnstile.rejections.ended(job.queue_key)
                self.store.unassume(job)
                known = self.world.jobs.get(job.key)
                if known is None or known.uid != job.uid or known.attempt == job.attempt:
                    # A claim that stands, whose answer was lost, is a start.
                    self._turnstile.starts.undone(job.queue_key, claimed_at)
        if not confirmed:
            return
        claimed = self.world.open_attempt(replace(job, attempt=job.attempt + 1))
        step = claimed and next_step(self.world, claimed, self._clock.now(), epoch=self.epoch)
        if claimed is None or not isinstance(step, CreatePod):
            self._turnstile.rejections.ended(job.queue_key)
            return  # canceled meanwhile, say
        await self._create_pod(claimed, actions)

    async def _create_pod(self, job: Job, actions: Actions) -> None:
        self._creating[job.key] = job
        try:
            refusal = await actions.create_pod(job)
        except PodVanishedError:
            self._turnstile.rejections.accepted(job)
            await self._end_vanished(job, actions)
            return
        finally:
            del self._creating[job.key]
            self._slots_changed(job.queue_key, job.concurrency_key)
        if refusal is None:
            self._turnstile.rejections.accepted(job)
            return
        retry_at = self._turnstile.rejections.refused(job, self._clock.now(), refusal)
        self._queues.mark_at(job.queue_key, retry_at)
        current = self.world.open_attempt(job)
        if current is not None:
            self._turnstile.starts.undone(job.queue_key, job.started_at or 0.0)
            change = transitions.undo_claim(current, message=refusal, retry_at=retry_at)
            await actions.write_status(current, change)

    async def _end_vanished(self, job: Job, actions: Actions) -> None:
        """End an attempt whose pod is gone unseen, before anything else is done with its Job."""
        while True:
            current = self.world.open_attempt(job)
            if current is None:
                return
            step = next_step(self.world, current, self._clock.now(), epoch=None)
            if not isinstance(step, WriteStatus):
                return
            try:
                if await actions.write_status(current, step.change, because_of=step.because_of):
                    return
            except ApiError as error:
                # Left to the next look, its number would run once more.
                logger.error("%s/%s: %s; again in %.0f s", *job.key, error, FORBIDDEN_DELAY_SECONDS)
                await self._clock.sleep(FORBIDDEN_DELAY_SECONDS)

    # Pods that no Job stands behind

    def _tend_strays(self, key: Key, job: Job | None, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        for pod in self.world.pods_of_job(key):
            mine = job is not None and pod.may_be_of(job.uid)
            if pod.gone:
                if not (mine and job is not None and job.active and pod.name == job.pod_name(job.attempt)):
                    self.world.remove_pod(pod.key)
            elif not mine and not pod.deleting and pod.named_as_attempt:
                stray = (pod.namespace, f"pod/{pod.name}")
                if stray not in self._busy:
                    self._start(stray, actions.delete_orphan(pod), tasks, look_at=key)

    # Tasks

    def _start(self, key: Key, action: Action, tasks: asyncio.TaskGroup, *, look_at: Key | None = None) -> None:
        self._busy.start(tasks, key, action, then=partial(self._look_again, look_at or key))

    def _delay_after(self, key: Key, error: Exception) -> float:
        if not isinstance(error, ApiError):
            logger.error("%s/%s: unexpected error", *key, exc_info=error)
            return ERROR_DELAY_SECONDS
        delay = FORBIDDEN_DELAY_SECONDS if error.status == 403 else ERROR_DELAY_SECONDS
        logger.error("%s/%s: %s; again in %.0f s", *key, error, delay)
        return delay

    def _look_again(self, key: Key) -> None:
        self._jobs.mark(key)
        job = self.world.jobs.get(key)
        if job is not None:
            self._queues.mark(job.queue_key)
        self.wake()

    # What the store tells

    def _slots_changed(self, queue: Key, concurrency_key: str) -> None:
        """A slot of that queue and key was taken or is free."""
        self._queues.mark(queue)
        self._turnstile.slots_changed(queue, concurrency_key)

    def _mark(self, jobs: Iterable[Job]) -> None:
        """Look at these Jobs in the next pass."""
        for job in jobs:
            self._jobs.mark(job.key)

    def _job_changed(self, old: Job | None, new: Job | None) -> None:
        if old is not None and new is not None and old.uid != new.uid:
            self._job_changed(old, None)  # deleted unseen, and another of its name made
            old = None
        job = new or old
        if job is None:
            return
        self._jobs.mark(job.key)
        self._slots_changed(job.queue_key, job.concurrency_key)
        if new is None:
            self._turnstile.discard(job)
            self._turnstile.rejections.forget(job)
        if self._acting:
            self._mark_related(old, new, job)
        self.wake()

    def _mark_related(self, old: Job | None, new: Job | None, job: Job) -> None:
        """Everything whose next step may depend on what changed."""
        if old is None or new is None or matters_to_others(old, new):
            self._mark(self.world.children_of(job))
            self._mark(whose_turn_may_come(self.world, job))
            if any(one is not None and (one.cancel or one.state is State.CANCELED) for one in (old, new)):
                self._mark(self.world.descendants_of(job))
            if new is None or new.terminal:
                # A rerun may have waited for the end of what the cancel before it had reached.
                self._mark(ancestor for ancestor in ancestors(self.world, job) if ancestor.rerun_due)
            self._mark_runs(job, is_new=old is None)
        if old is not None and new is not None and old.duplicate_of and not new.duplicate_of:
            self._mark(needs(self.world, new))  # they may have been skipped for the original
        unique = self.world.unique_key(job)
        if unique is not None and old is not None and frees_rivals(old, new):
            self._mark(self.world.unclaimed_rivals(unique))

    def _jobs_watched(self, version: int) -> None:
        while self._awaiting_watch and self._awaiting_watch[0][0] <= version:
            self._jobs.mark(heapq.heappop(self._awaiting_watch)[1])
            self.wake()

    def _mark_runs(self, job: Job, *, is_new: bool) -> None:
        """A Job that takes the place of others has come, or one of those or what it enqueued may have ended."""
        root = root_record(self.world, job)
        if root.tick is None or self.world.replacement_after(replace(root.tick, at=float("-inf"))) is None:
            return
        for run in self.world.jobs_of_schedule(root.tick.schedule_uid):
            if not run.terminal:
                self._jobs.mark(run.key)
            if root is job and is_new:
                self._mark(self.world.descendants_of(run))

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        if pod is not None:
            self._jobs.mark((pod.namespace, pod.job))
            if old is None or new is None or old.live != new.live:
                self._slots_changed((pod.namespace, pod.queue), pod.concurrency_key)
            self.wake()

    def _queue_changed(self, old: Queue | None, new: Queue | None) -> None:
        queue = new or old
        if queue is not None and old != new:
            self.changed_queues.add(queue.key)
            self._queues.mark(queue.key)
            self._turnstile.queue_changed(queue.key)
            self._mark(self.world.unfinished_of_queue(queue.key))
            if (old.defaults if old else {}) != (new.defaults if new else {}):
                self._namespace_changed(queue.namespace)  # a child elsewhere may have its Worker from here
            self.wake()

    def _worker_changed(self, old: Worker | None, new: Worker | None) -> None:
        worker = new or old
        if worker is not None and old != new:
            self.changed_workers.add(worker.key)
            self._namespace_changed(worker.namespace)

    def _schedule_changed(self, old: Schedule | None, new: Schedule | None) -> None:
        schedule = new or old
        if schedule is not None:
            self.look_at_schedule(schedule.key)

    def look_at_schedule(self, key: Key) -> None:
        """Have whoever makes its Jobs look at the Schedule now."""
        self.changed_schedules.add(key)
        self.schedules_changed.set()

    def _namespace_changed(self, namespace: str) -> None:
        jobs = self.world.jobs.values()
        self._mark(job for job in jobs if job.namespace == namespace and not job.terminal)
        self.wake()
