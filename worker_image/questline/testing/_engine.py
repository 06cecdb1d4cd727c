"""The operator's loop for tests: asks the core what each Job should do next, and carries it out in virtual time.

No decision is made here. What a Job does next is `core.decide.next_step`, who is claimed is `core.turnstile`, what is
written is `core.transitions`, what a Schedule does is `core.ticks`. The operator's own shell looks at a Job when
something that it depends on has changed; here nearly every Job is looked at each time, which comes to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from questline.testing._clock import Clock
from questline.testing._errors import Endless
from questline.testing._node import Node
from questline.testing._store import Store
from questline_operator.core import transitions
from questline_operator.core.admission import free_slots
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
from questline_operator.core.lineage import Hold, needs_worker, worker_name, worker_of
from questline_operator.core.podspec import pod_of_attempt
from questline_operator.core.records import DEFAULT_QUEUE, Job, Key
from questline_operator.core.schedule import Calendar
from questline_operator.core.states import Reason, State
from questline_operator.core.ticks import MakeJob, Rest, WriteSchedule, next_step_of_schedule
from questline_operator.core.times import parse_time
from questline_operator.core.turnstile import Turnstile

EPOCH = 1


class Engine:
    """Drives the Jobs of one cluster.

    Args:
        strict: a Queue or a Worker that is needed and was not defined does not exist; without it, it is made.
        max_running_pods: the operator's own limit, or None.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        node: Node,
        *,
        calendar: Callable[[], Calendar],
        strict: bool,
        max_running_pods: int | None,
    ) -> None:
        self._store, self._clock, self._node, self._calendar, self._strict = store, clock, node, calendar, strict
        self._world = store.world
        self._turnstile = Turnstile(self._world, max_running_pods=max_running_pods)
        self._changed: dict[Key, None] = {}
        self._open: dict[Key, None] = {}
        """Unfinished Jobs that are not known to be ready: looked at whenever anything has changed."""
        self._look_at_all = False
        self._due: dict[Key, float] = {}
        self._schedule_due: dict[Key, float | None] = {}
        store.on_job = self._job_changed

    # Time

    def run(self, until: float | None, *, limit: int, enough: Callable[[], bool] = lambda: False) -> bool:
        """Go on until nothing is due that belongs to a Job, or up to that moment, or until it is enough.

        Args:
            until: seconds since the epoch; with it, Schedules alone keep the time going too.
            limit: how many attempts may run.

        Returns: whether it was enough.

        Raises:
            Endless: more would.
        """
        before = self._node.count
        ran: Counter[Key] = Counter()
        while True:
            self._work(ran, before + limit)
            if enough():
                return True
            due = self._next_due(schedules=until is not None)
            if until is not None and (due is None or due > until):
                self._clock.now = max(self._clock.now, until)
                self._work(ran, before + limit)
                return enough()
            if due is None:
                return False
            self._clock.now = max(self._clock.now, due)

    def run_one(self, job: Job) -> None:
        """Claim this very Job now, whatever holds it up, and go on until its attempt has ended. No other is claimed."""
        number = job.attempt + 1
        if needs_worker(job) and worker_of(self._world, job) is None:
            self._make("Worker", job.namespace, worker_name(self._world, job))
        self._claim(job)
        self._look_at(job.key)
        while True:
            self.settle()
            current = self._world.jobs[job.key]
            end = self._node.next_end()
            if not (current.active and current.attempt == number) or end is None:
                return
            self._clock.now = max(self._clock.now, end)

    def settle(self) -> None:
        """Do everything that is due at this moment, but claim nothing."""
        self._changed.update(dict.fromkeys(self._node.end_due()))
        while self._changed or self._look_at_all:
            for key in self._to_look_at():
                self._look_at(key)
            self._changed.update(dict.fromkeys(self._node.end_due()))

    def why(self, job: Job) -> tuple[str, str]:
        """The reason why the Job is where it is, and a sentence: what the operator writes once it has lasted."""
        step = Nothing() if job.terminal or job.active else next_step(self._world, job, self._clock.now, epoch=EPOCH)
        match step:
            case Hold():
                return step.reason, step.message
            case Ready() if self._comes(job) > self._clock.now:
                return "", ""
            case Ready():
                hold = self._turnstile.why(job, self._clock.now)
                has_slot = free_slots(self._world, job.queue_key) > 0 and hold.reason is Reason.AT_CONCURRENCY_LIMIT
                return ("", "") if has_slot and "maxRunningPods" not in hold.message else (hold.reason, hold.message)
            case _:
                return job.reason, str(job.status.get("message") or "")

    def look_at_all(self) -> None:
        """Something that every Job may depend on has changed: a Queue, a Worker, a cancel."""
        self._look_at_all = True
        for key in self._world.queues:
            self._turnstile.queue_changed(key)
        # At once, and not merely unknown: time must not go on before they have been asked again.
        self._schedule_due = dict.fromkeys(self._world.schedules, 0.0)

    def _next_due(self, *, schedules: bool) -> float | None:
        dues = [self._node.next_end(), *self._due.values()]
        dues += [self._turnstile.next_due(queue, self._clock.now) for queue in list(self._world.queues)]
        # Schedules alone would go on for ever; while Jobs keep the time going, they tick.
        if schedules or any(due is not None for due in dues):
            dues += self._schedule_due.values()
        return min((due for due in dues if due is not None), default=None)

    def _work(self, ran: Counter[Key], most: int) -> None:
        """All that happens at this moment."""
        for key in [key for key, due in self._due.items() if due <= self._clock.now]:
            del self._due[key]
            self._changed[key] = None
        while True:
            self._tick()
            self.settle()
            claimed = self._claim_all()
            if not claimed:
                return
            for key in claimed:
                if self._node.count >= most:
                    raise self._endless(ran, most)
                ran[key] += 1
                self._look_at(key)

    def _endless(self, ran: Counter[Key], most: int) -> Endless:
        (first, times), *_ = ran.most_common(1)
        job = self._world.jobs[first]
        what = f"Job {job.name} of {job.spec.get('task')} alone has run {times:,} times"
        if times == 1:
            tasks = Counter(str(self._world.jobs[key].spec.get("task")) for key in ran)
            (task, times), *_ = tasks.most_common(1)
            what = f"{times:,} of them were of {task}, the last in Job {list(ran)[-1][1]}"
        return Endless(
            f"{sum(ran.values()):,} attempts have run and there are more to come: {what}. A task that snoozes or "
            "enqueues itself for ever never ends: go on by advance() for some time, or give a higher limit"
        )

    # Jobs

    def _job_changed(self, old: Job | None, new: Job) -> None:
        world = self._world
        self._changed[new.key] = None
        for child in world.children_of(new):
            self._changed[child.key] = None
        if new.terminal:
            self._open.pop(new.key, None)
            self._due.pop(new.key, None)
        else:
            self._open[new.key] = None
        # What may concern Jobs that are ready, or have ended: those that it would take along, and those that it arms.
        again = old is not None and old.terminal and not new.terminal
        if again or new.cancel or new.rerun_due or new.state is State.CANCELED or (new.tick and new.tick.replaces):
            self._look_at_all = True
        self._turnstile.slots_changed(new.queue_key, new.concurrency_key)

    def _to_look_at(self) -> list[Key]:
        keys = self._world.jobs if self._look_at_all else {**self._open, **self._changed}
        self._look_at_all = False
        self._changed = {}
        return list(keys)

    def _look_at(self, key: Key) -> None:
        job = self._world.jobs[key]
        self._carry_out(job, next_step(self._world, job, self._clock.now, epoch=EPOCH))

    def _carry_out(self, job: Job, step: Step) -> None:
        if not isinstance(step, Ready):
            self._turnstile.discard(job)
        match step:
            case Nothing(until):
                self._wake(job.key, until)
            case Hold():
                self._hold(job, step)
            case Ready() if self._comes(job) > self._clock.now:
                self._open[job.key] = None
                self._wake(job.key, self._comes(job))
            case Ready():
                self._turnstile.add(job)
                self._open.pop(job.key, None)
            case WriteStatus(change):
                pod = self._world.attempt_pod(job)
                self._store.write_status(job, {**change, "epoch": EPOCH})
                if pod is not None and pod.over:
                    self._world.remove_pod(pod.key)
            case CreatePod():
                self._node.start(job, pod_of_attempt(self._world, job, epoch=EPOCH))
                self._changed[job.key] = None
            case DeletePod(pod):
                self._node.delete(pod)
                self._changed[job.key] = None
            case MakeDefaultQueue():
                self._make("Queue", job.namespace, DEFAULT_QUEUE)

    def _comes(self, job: Job) -> float:
        """When it is created: the code of an attempt runs all at once, and may have enqueued it after some time."""
        return self._store.ahead.get(job.key, 0.0)

    def _hold(self, job: Job, hold: Hold) -> None:
        self._open[job.key] = None
        self._wake(job.key, hold.until)
        if self._strict:
            return
        if hold.reason is Reason.QUEUE_NOT_FOUND:
            self._make("Queue", job.namespace, job.queue)
        elif hold.reason is Reason.WORKER_NOT_FOUND:
            self._make("Worker", job.namespace, worker_name(self._world, job))

    def _make(self, kind: str, namespace: str, name: str) -> None:
        spec = {"image": "the test's own process"} if kind == "Worker" else {}
        self._store.create(kind, namespace, {"metadata": {"name": name}, "spec": spec})
        self.look_at_all()

    def _wake(self, key: Key, when: float | None) -> None:
        self._due.pop(key, None)
        if when is not None:
            self._due[key] = when

    # Claims

    def _claim_all(self) -> list[Key]:
        """Claim what the turnstile lets through, all at this one moment."""
        claimed: list[Key] = []
        queues = list(self._world.queues)
        for job in self._turnstile.passing(queues, self._clock.now, uncounted={}, still_ready=self._still_ready):
            self._claim(job)
            claimed.append(job.key)
        return claimed

    def _still_ready(self, key: Key) -> Job | None:
        job = self._world.jobs[key]
        step = next_step(self._world, job, self._clock.now, epoch=EPOCH)
        if isinstance(step, Ready):
            return job
        self._carry_out(job, step)
        return None

    def _claim(self, job: Job) -> None:
        change = transitions.claim(self._world, job, now=self._clock.now)
        self._turnstile.discard(job)
        self._turnstile.starts.claimed(job.queue_key, parse_time(str(change["startedAt"])))
        self._store.write_status(job, {**change, "epoch": EPOCH})

    # Schedules

    def follow(self, key: Key) -> str:
        """Do what is due of that Schedule; returns what is wrong with it, or ""."""
        while True:
            schedule = self._world.schedules[key]
            match next_step_of_schedule(self._world, schedule, self._clock.now, self._calendar()):
                case Rest(until):
                    self._schedule_due[key] = until
                    return "" if schedule.ready.get("status") == "True" else str(schedule.ready.get("message"))
                case WriteSchedule(change):
                    self._store.write_status(schedule, change)
                case MakeJob(tick, replaces):
                    self._store.create("Job", schedule.namespace, schedule.job(tick, epoch=EPOCH, replaces=replaces))

    def _tick(self) -> None:
        for key in list(self._world.schedules):
            due = self._schedule_due.get(key, 0.0)
            if due is not None and due <= self._clock.now:
                self.follow(key)
