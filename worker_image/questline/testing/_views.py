"""What a test sees: Jobs as they were when it asked, and how one attempt ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from questline.codec import CodecError
from questline.errors import ArgsInvalid, TaskNotFound
from questline.runner import find_task
from questline.testing._clock import datetime_of
from questline.testing._errors import KitError
from questline_operator.core import records
from questline_operator.core.times import parse_time

if TYPE_CHECKING:
    from questline.task import Task

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Attempt:
    """An attempt that has ended, of a Job's last ten.

    Attributes:
        number: from 1.
        outcome: Succeeded, Failed, Fatal, Retry, Snoozed, Canceled or Disrupted.
        reason: one word of the API, such as TaskError or Timeout; "" where the outcome says all.
        message: in a line, what went wrong.
        started_at: when its code began to run, in the cluster's time.
        finished_at: when its outcome was known.
    """

    number: int
    outcome: str
    reason: str
    message: str
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True)
class Job:
    """A Job as it was at the moment of asking.

    Attributes:
        name: its name.
        task: `module:function`.
        args: its args as the task gets them: decoded by the annotations. Defaults are not among them.
        queue: the Queue's name.
        priority: -1000 to 1000.
        run_at: not before this moment; None for at once. A `delay` shows here.
        group: the group of children that it is of, or None.
        after: what it waits for, as in spec.after.
        parent: the name of the Job that enqueued it, or None.
        state: Waiting, Starting, Running, Succeeded, Failed, Canceled or Skipped.
        reason: one word of the API for why it is in that state, computed now; "" for none.
        message: the same in a sentence, with its numbers.
        result: what its task returned, decoded; None where it has not succeeded.
        error: of its last failed attempt {type, message, traceback}, or None.
        exception: what its code raised last, itself; None where it has not.
        attempts: its last ten attempts that have ended.
        attempt: how many attempts it has had, the one that runs now included.
        failures: how many of them count as failures.
        next_attempt_at: when it runs again, where that is known; else None.
        created_at: when it was enqueued, in whole seconds.
        finished_at: when it ended, or None.
        duplicate_of: the name of the Job that runs in its place, or None.
        manifest: all of it, as `kubectl get -o json` would show it.
    """

    name: str
    task: str
    args: Mapping[str, Any]
    queue: str
    priority: int
    run_at: datetime | None
    group: str | None
    after: tuple[Mapping[str, str], ...]
    parent: str | None
    state: str
    reason: str
    message: str
    result: Any
    error: Mapping[str, str] | None
    exception: BaseException | None = field(repr=False)
    attempts: tuple[Attempt, ...] = field(repr=False)
    attempt: int
    failures: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    duplicate_of: str | None
    manifest: Mapping[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.args.items())
        said = f"{self.state} ({self.reason})" if self.reason else self.state
        return f"Job {self.name}, {self.task.rpartition(':')[2]}({given}): {said}" + (
            f": {self.message}" if self.message else ""
        )


@dataclass(frozen=True)
class Outcome(Generic[R_co]):
    """How one attempt ended.

    Attributes:
        kind: Succeeded, Failed, Fatal (no further attempt), Retry, Snoozed or Canceled.
        reason: one word of the API, such as TaskError, Timeout, Fail; "" where the kind says all.
        message: in a line, what went wrong.
        error: {type, message, traceback} as the Job's status would keep it, or None.
        exception: what the task raised, itself, or None.
        delay_seconds: how long after it the next attempt follows; None where none does.
        children: the Jobs that it enqueued, in order.
        job: the Job after this attempt.
    """

    kind: str
    reason: str
    message: str
    error: Mapping[str, str] | None
    exception: BaseException | None = field(repr=False)
    delay_seconds: float | None
    children: tuple[Job, ...]
    job: Job = field(repr=False)
    _result: Any = field(repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether the task returned, and its result could be kept."""
        return self.kind == "Succeeded"

    @property
    def result(self) -> R_co:
        """What the task returned, encoded and decoded again.

        Raises:
            KitError: the attempt has not succeeded. Its cause is what the task raised.
        """
        if not self.succeeded:
            reason = f" ({self.reason})" if self.reason else ""
            raise KitError(
                f"the attempt of {self.job.task} has no result: it ended {self.kind}{reason}: {self.message}"
            ) from self.exception
        result: R_co = self._result
        return result


def view_of(job: records.Job, *, reason: str, message: str, exception: BaseException | None) -> Job:
    """The Job as it is now."""
    spec, status = job.spec, job.status
    task = _task_of(job)
    return Job(
        name=job.name,
        task=str(spec.get("task")),
        args=_args(task, spec.get("args", {})),
        queue=job.queue,
        priority=job.priority,
        run_at=_moment(job.run_at),
        group=job.parent.group if job.parent else None,
        after=tuple(spec.get("after", ())),
        parent=job.parent.name if job.parent else None,
        state=str(job.state),
        reason=str(reason),
        message=message,
        result=_result(task, status.get("result")) if job.state == "Succeeded" else None,
        error=status.get("error"),
        exception=exception,
        attempts=tuple(_attempt(entry) for entry in status.get("attempts", ())),
        attempt=job.attempt,
        failures=job.failures,
        next_attempt_at=_moment(job.next_attempt_at),
        created_at=datetime_of(job.created_at),
        finished_at=_moment(job.finished_at) if job.terminal else None,
        duplicate_of=job.duplicate_of or None,
        manifest=job.raw,
    )


def _task_of(job: records.Job) -> Task[..., Any, Any] | None:
    try:
        return find_task(job.spec.get("task"))
    except (TaskNotFound, OSError):
        return None  # its attempts say so


def _args(task: Task[..., Any, Any] | None, args: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return args if task is None else task.signature.decode(args)
    except ArgsInvalid:
        return args  # its attempts say so


def _result(task: Task[..., Any, Any] | None, result: Any) -> Any:
    try:
        return result if task is None else task.signature.result.decode(result)
    except CodecError:
        return result  # JSON, but of another type than annotated: it is kept as it is


def _attempt(entry: Mapping[str, Any]) -> Attempt:
    finished = parse_time(entry["finishedAt"])
    return Attempt(
        number=entry["number"],
        outcome=entry["outcome"],
        reason=entry.get("reason", ""),
        message=entry.get("message", ""),
        started_at=datetime_of(parse_time(entry["startedAt"]) if "startedAt" in entry else finished),
        finished_at=datetime_of(finished),
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime_of(seconds)
