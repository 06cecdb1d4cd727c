"""A cluster in memory: what a test has in its hands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar, Union, overload

from questline import attempt as attempts
from questline import options as sdk_options
from questline.codec import CodecError
from questline.durations import Duration, seconds_of
from questline.enqueue import connected_to, enqueue
from questline.errors import ArgsInvalid, JobGone, NotInAttempt, OptionInvalid, WaitTimeout
from questline.handle import Handle
from questline.task import Call, Task
from questline.testing._clock import Clock, datetime_of
from questline.testing._definitions import NAMESPACE, Definitions, calendar
from questline.testing._engine import Engine
from questline.testing._errors import JobsFailed, KitError, NoCluster
from questline.testing._node import Node
from questline.testing._store import Store
from questline.testing._transport import KitRoots, Transport
from questline.testing._views import Job, Outcome, view_of
from questline_operator.core import outcomes as core_outcomes
from questline_operator.core import records, transitions
from questline_operator.core.records import Key
from questline_operator.core.states import OutcomeKind, Reason, State
from questline_operator.core.times import parse_time

P = ParamSpec("P")
R = TypeVar("R")
Which: TypeAlias = Union[str, Job, "Handle[Any]"]
"""A Job: its name, what `enqueue` returned, or what a test was shown of it."""
Input: TypeAlias = "tuple[Task[..., Any, Any], Any]"
"""A task, and what a Job of it returned; an exception where that one failed."""

WORKER = "default"
LIMIT = 10_000
"""Attempts in one call of the kit, unless it is told another number."""


class Cluster(Definitions):
    """One test's own cluster: whatever is enqueued while it is entered goes there.

    Args:
        now: its time at the beginning; without one, the present second.
        attempt_seconds: how much virtual time an attempt takes, where its code does not let more pass by `advance`.
        strict: a Queue, or a Worker other than ``default``, that the test has not defined does not exist, and Jobs wait
            for it as on a cluster. Without it, it is made with its defaults when it is first needed.
        max_running_pods: the operator's own limit, or None.
    """

    def __init__(
        self,
        *,
        now: datetime | None = None,
        attempt_seconds: Duration = 1,
        strict: bool = False,
        max_running_pods: int | None = None,
    ) -> None:
        if now is not None and now.utcoffset() is None:
            raise OptionInvalid(f"now is {now!r}: it has no time zone; give one, such as tzinfo=UTC")
        self._clock = Clock(float(int(time.time())) if now is None else now.timestamp())
        self._store = Store(self._clock)
        self._world = self._store.world
        self._transport = Transport(self._store)
        seconds = seconds_of(attempt_seconds, "attempt_seconds")
        self._node = Node(self._store, self._clock, self._transport, seconds=seconds)
        self._engine = Engine(
            self._store,
            self._clock,
            self._node,
            calendar=calendar,
            strict=strict,
            max_running_pods=max_running_pods,
        )
        self._names = 0
        self._stand_ins: set[Key] = set()
        self._exits = ExitStack()
        self.worker(WORKER)

    def __enter__(self) -> Self:
        from questline import testing

        if self in testing._clusters:
            raise KitError("this cluster of the test kit is entered already")
        roots = KitRoots(self._transport, NAMESPACE, suffix=self._next_suffix, ended=self._until_ended)
        self._exits.enter_context(connected_to(roots))
        self._exits.callback(_set(sdk_options, "now", self._clock.time))
        testing._clusters.append(self)
        self._exits.callback(testing._clusters.remove, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    # Running

    @overload
    def run(self, what: Task[P, Any, R], *args: P.args, **kwargs: P.kwargs) -> Outcome[R]: ...
    @overload
    def run(self, what: Call[R], *, attempt: int = 1, inputs: Iterable[Input] = ()) -> Outcome[R]: ...
    def run(self, what: Any, *args: Any, **kwargs: Any) -> Outcome[Any]:
        """Runs one attempt of a task here and now, whatever its queue, its delay or its unique key say.

        It is an attempt of a Job that is enqueued for it. What follows, such as its children or its next attempt, is
        left to `drain`.

        Args:
            what: a task with its arguments after it, or a call.
            attempt: of a call: as which attempt, after so many failures but one.
            inputs: of a call: what it has waited for, as pairs of a task and what it returned; an exception where it
                failed. `current().inputs` tells the task.

        Raises:
            ArgsInvalid: see `Task.call`; a task of `inputs` cannot return that.
            OptionInvalid: `inputs` are no such pairs.
            KitError: an attempt runs here already.
            NoCluster: the cluster is not entered, or another one is within it.
        """
        self._only_outside("run()")
        self._engine.settle()
        call, number, inputs = self._call_of(what, args, kwargs)
        ended = _ended_inputs(inputs)  # all of them are good before the first Job is made
        after = [{"job": self._stand_in(n, *pair)} for n, pair in enumerate(ended, 1)]
        handle = enqueue(call, after=after, policy="Finished" if after else None)
        key = (handle.namespace, handle.name)
        if number > 1:
            self._store.write_status(self._world.jobs[key], {"attempt": number - 1, "failures": number - 1})
        self._engine.run_one(self._world.jobs[key])
        return self._outcome_of(self._world.jobs[key], number, call.task)

    def drain(self, *, raise_failures: bool = False, limit: int = LIMIT) -> list[Job]:
        """Runs everything to its end: what is enqueued now, what that enqueues, and every further attempt.

        Time jumps to whatever is due next. Jobs that wait for something else than time are left waiting. Schedules make
        Jobs while others keep the time going, and are no reason to go on.

        Args:
            raise_failures: raise `JobsFailed` where a Job failed.
            limit: how many attempts may run.

        Returns: the Jobs that ended, in the order of their ends.

        Raises:
            Endless: more attempts would run.
            JobsFailed: see above.
            KitError: an attempt runs here already.
            NoCluster: the cluster is not entered, or another one is within it.
        """
        self._only_outside("drain()")
        before = {job.uid: job.finishes for job in self._world.jobs.values()}
        self._engine.run(None, limit=limit)
        ended = [job for job in self._world.jobs.values() if job.terminal and job.finishes > before.get(job.uid, 0)]
        ended.sort(key=lambda job: (job.finished_at or 0.0, job.resource_version))
        jobs = [self._view(job) for job in ended]
        failed = [job for job in jobs if job.state == State.FAILED]
        if raise_failures and failed:
            lines = "\n".join(f"  {job}" for job in failed)
            raise JobsFailed(f"{len(failed)} of {len(jobs)} Jobs failed:\n{lines}") from failed[0].exception
        return jobs

    def advance(self, duration: Duration, *, limit: int = LIMIT) -> None:
        """Lets time pass, and runs what is due meanwhile, Schedules included.

        In the code of a task it is the attempt that takes so long: its timeout counts. `time.sleep` may be replaced by
        it.

        Args:
            duration: seconds, "1h30m" or a timedelta.
            limit: how many attempts may run.

        Raises:
            Endless: more attempts would run.
            NoCluster: the cluster is not entered, or another one is within it.
        """
        seconds = seconds_of(duration, "advance()")
        if self._node.busy:
            self._node.pass_time(seconds)
        else:
            self._only_outside("advance()")
            self._engine.run(self._clock.now + seconds, limit=limit)

    @property
    def now(self) -> datetime:
        """The cluster's time, in UTC; in the code of a task what that one has let pass is included."""
        return datetime_of(self._clock.time())

    # Looking

    def enqueued(self, task: Task[..., Any, Any] | None = None, *, queue: str | None = None) -> list[Job]:
        """The Jobs that have not run yet and still may, in the order in which they were enqueued.

        Args:
            task: of this task only, whatever its options.
            queue: of this queue only.
        """
        self._settle()
        return [job for job in self.jobs(task, queue=queue) if job.state == State.WAITING and not job.attempt]

    def jobs(
        self, task: Task[..., Any, Any] | None = None, *, queue: str | None = None, state: str | None = None
    ) -> list[Job]:
        """All Jobs, in the order in which they were enqueued; those that stand in for `inputs` of `run` are not shown.

        Args:
            task: of this task only, whatever its options.
            queue: of this queue only.
            state: in this state only: Waiting, Starting, Running, Succeeded, Failed, Canceled or Skipped.

        Raises:
            OptionInvalid: there is no such state.
        """
        if state is not None and state not in list(State):
            raise OptionInvalid(f"state is {state!r}: {', '.join(list(State)[:-1])} or {list(State)[-1]} is needed")
        self._settle()
        return [
            self._view(job)
            for job in list(self._world.jobs.values())
            if job.key not in self._stand_ins
            and (task is None or job.spec.get("task") == task.name)
            and (queue is None or job.queue == queue)
            and (state is None or job.state == state)
        ]

    def job(self, which: Which) -> Job:
        """One Job as it is now.

        Raises:
            JobGone: there is none of that name.
        """
        self._settle()
        return self._view(self._record(which))

    # Steering

    def cancel(self, which: Which) -> None:
        """Cancels a Job and all its descendants, as `questline cancel` does."""
        self._edit(self._record(which), {"cancel": True})

    def rerun(self, which: Which) -> None:
        """Runs a finished Job again, as `questline rerun` does; what was Skipped because of it waits again."""
        job = self._record(which)
        self._edit(job, {"rerun": max(job.rerun, job.observed_rerun) + 1, "cancel": False})

    # Inside

    def _edit(self, job: records.Job, change: Mapping[str, Any]) -> None:
        self._store.update_spec("Job", job.key, change)
        self._engine.look_at_all()
        self._settle()

    def _settle(self) -> None:
        """What the operator would have done long before anyone looks."""
        if not self._node.busy:
            self._engine.settle()

    def _record(self, which: Which) -> records.Job:
        name = which if isinstance(which, str) else which.name
        job = self._world.jobs.get((NAMESPACE, name))
        if job is None:
            raise JobGone(f"there is no Job {name} in this cluster of the test kit")
        return job

    def _view(self, job: records.Job) -> Job:
        raised = next((e for n in range(job.attempt, 0, -1) if (e := self._node.raised.get((job.uid, n)))), None)
        reason, message = self._engine.why(job)
        return view_of(job, reason=reason, message=message, exception=raised)

    def _call_of(
        self, what: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call[Any], int, Iterable[Input]]:
        if isinstance(what, Task):
            return what.call(*args, **kwargs), 1, ()
        if not isinstance(what, Call):
            raise ArgsInvalid(f"run() takes a task and its arguments, or a call such as resize.call('p'), not {what!r}")
        unknown = [*map(repr, args), *(name for name in kwargs if name not in ("attempt", "inputs"))]
        if unknown:
            raise ArgsInvalid(f"run() of a call has its arguments already, and {unknown[0]} is given")
        number = kwargs.get("attempt", 1)
        if not isinstance(number, int) or number < 1:
            raise ArgsInvalid(f"attempt is {number!r}: attempts are counted from 1")
        return what, number, kwargs.get("inputs", ())

    def _stand_in(self, place: int, task: Task[..., Any, Any], outcome: core_outcomes.Outcome) -> str:
        """A Job of that task that has ended so, by the core's own transitions; `jobs` does not show it."""
        self._names += 1
        name = f"input-{place}-{self._names:06}"
        key, now = (NAMESPACE, name), self._clock.now
        self._stand_ins.add(key)
        self._store.create("Job", NAMESPACE, {"metadata": {"name": name}, "spec": {"task": task.name}})
        self._store.write_status(self._world.jobs[key], transitions.claim(self._world, self._world.jobs[key], now=now))
        job = self._world.jobs[key]
        self._store.write_status(job, transitions.end_attempt(job, None, None, outcome, now, canceled=None))
        return name

    def _outcome_of(self, job: records.Job, number: int, task: Task[..., Any, Any]) -> Outcome[Any]:
        entry = job.recorded_attempt(number)
        if entry is None:
            raise KitError(f"attempt {number} of Job {job.name} has not ended: {self._view(job)}")
        kind = str(entry["outcome"])
        children = [
            child
            for child in self._world.children_of(job)
            if child.parent is not None and child.parent.attempt == number
        ]
        waits = job.next_attempt_at is not None and not job.terminal
        view = self._view(job)
        return Outcome(
            kind=kind,
            reason=str(entry.get("reason", "")),
            message=str(entry.get("message", "")),
            error=job.status.get("error") if kind in ("Failed", "Fatal", "Retry") else None,
            exception=self._node.raised.get((job.uid, number)),
            delay_seconds=(job.next_attempt_at or 0.0) - parse_time(entry["finishedAt"]) if waits else None,
            children=tuple(self._view(one) for one in sorted(children, key=lambda one: one.order)),
            job=view,
            _result=view.result,
        )

    def _until_ended(self, key: Key, seconds: float) -> dict[str, Any]:
        """For `wait` and `result` of a handle: the cluster goes on until the Job has ended."""
        if self._node.busy:
            raise NotInAttempt(f"an attempt runs here, which cannot wait for Job {key[1]}: let a join or a chain do it")
        self._only_outside("a handle's wait() or result()")
        until = None if math.isinf(seconds) else self._clock.now + seconds
        if not self._engine.run(until, limit=LIMIT, enough=lambda: self._world.jobs[key].terminal):
            view = self._view(self._world.jobs[key])
            if until is None:
                raise KitError(f"{view}; nothing that is due would let it end")
            raise WaitTimeout(f"{view}; it has not ended in {seconds:g} s of the cluster's time")
        raw: Any = self._world.jobs[key].raw
        return dict(raw)

    def _only_outside(self, what: str) -> None:
        from questline import testing

        if attempts.active() is not None:
            raise KitError(f"an attempt runs here: {what} is for the test, not for a task; a task enqueues and returns")
        if self not in testing._clusters:
            raise NoCluster(f"{what}: this cluster of the test kit is not entered: use it within its `with` block")
        if testing._clusters[-1] is not self:
            raise NoCluster(
                f"{what}: another cluster of the test kit is entered within this one, and what is enqueued now goes "
                "there: leave that one first"
            )

    def _next_suffix(self) -> str:
        self._names += 1
        return f"{self._names:06}"


def _ended_inputs(inputs: Any) -> list[tuple[Task[..., Any, Any], core_outcomes.Outcome]]:
    """How each of the Jobs that `run` is told of has ended."""
    if not isinstance(inputs, Iterable):
        raise OptionInvalid(f"inputs is {inputs!r}: pairs of a task and what it returned are needed")
    ended: list[tuple[Task[..., Any, Any], core_outcomes.Outcome]] = []
    for one in inputs:
        if not isinstance(one, tuple) or len(one) != 2 or not isinstance(one[0], Task):
            raise OptionInvalid(f"inputs has {one!r}: a pair of a task and what it returned is needed, or raised")
        task, value = one
        if isinstance(value, BaseException):
            ended.append((task, core_outcomes.Outcome(OutcomeKind.FATAL, Reason.FAIL, str(value))))
            continue
        try:
            result = task.signature.result.encode(value)
        except CodecError as error:
            raise ArgsInvalid(f"inputs: the result of {task.name}{error.path}: {error.problem}") from None
        ended.append((task, core_outcomes.Outcome(OutcomeKind.SUCCEEDED, result=result)))
    return ended


def _set(module: Any, name: str, value: object) -> Callable[[], None]:
    former = getattr(module, name)
    setattr(module, name, value)
    return lambda: setattr(module, name, former)
