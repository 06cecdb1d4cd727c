"""The running attempt: its payload, what it has enqueued, and `current()`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from questline.children import Children
from questline.codec import CodecError
from questline.errors import ConfigurationError, NotInAttempt, ResultInvalid
from questline.stopping import StopRequest

if TYPE_CHECKING:
    from pathlib import Path

    from questline.client import Transport
    from questline.task import R, Task

PAYLOAD_ENV = "QUESTLINE_PAYLOAD"
POD_UID_ENV = "QUESTLINE_POD_UID"


class JobInfo(NamedTuple):
    """The Job that an attempt belongs to. ``root`` names the first Job of its tree, whose ``depth`` is 0."""

    namespace: str
    name: str
    uid: str
    queue: str
    task: str | None
    root: str
    depth: int
    worker: str | None
    max_attempts: int | None


class Attempt:
    """One attempt, as its task sees it by `current()`.

    Attributes:
        job: the Job.
        attempt: which attempt this is, from 1. Numbers are never used twice; disruptions take one too.
        is_last_attempt: whether a failure now ends the Job.
        args: the Job's args as JSON.
        inputs: what the Job waited for, ``{summary, jobs, truncated}``, or None.
        parent: who enqueued it, as in spec.parent, or None.
        traceparent: the W3C trace context of the enqueue, or None.
    """

    def __init__(self, payload: Mapping[str, Any]) -> None:
        job = payload["job"]
        self.job = JobInfo(
            namespace=job["namespace"],
            name=job["name"],
            uid=job["uid"],
            queue=job.get("queue", "default"),
            task=job.get("task"),
            root=job.get("root") or job["name"],
            depth=job.get("depth") or 0,
            worker=job.get("worker"),
            max_attempts=job.get("maxAttempts"),
        )
        self.attempt: int = payload["attempt"]
        self.is_last_attempt: bool = bool(payload.get("isLastAttempt"))
        self.args: dict[str, Any] = payload.get("args") or {}
        self.inputs: dict[str, Any] | None = payload.get("inputs")
        self.parent: dict[str, Any] | None = payload.get("parent")
        self.traceparent: str | None = payload.get("traceparent")
        self._children = Children()
        self._process = os.getpid()
        self._stop_request = StopRequest()
        self._ends_by_itself = False
        self._transport: Transport | None = None
        self._pod_uid: str | None = None

    @classmethod
    def load(cls, path: Path) -> Attempt:
        """The attempt of a payload file.

        Raises:
            ConfigurationError: the file is missing or holds no payload of this version.
        """
        try:
            payload = json.loads(path.read_bytes())
            if payload.get("v") != 1:
                raise ConfigurationError(f"the payload {path} is of version {payload.get('v')!r}, this SDK reads 1")
            return cls(payload)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"the payload {path} cannot be read: {type(error).__name__}: {error}") from None

    def __repr__(self) -> str:
        return f"<attempt {self.attempt} of Job {self.job.namespace}/{self.job.name}>"

    @property
    def stopping(self) -> StopRequest:
        """Whether the pod is to end: by a cancel, its timeout, or the node.

        A task that has asked for this is not interrupted by SIGTERM: it ends by itself, within the pod's grace (30 s
        unless the Worker says otherwise), and its outcome counts.
        """
        self._ends_by_itself = True
        return self._stop_request

    def results(self, task: Task[..., Any, R]) -> list[R]:
        """What the Jobs of that task returned that this Job waited for, those that succeeded, in the order of inputs.

        Raises:
            ResultInvalid: a result is of another type than the task's annotation.
        """
        found = []
        for job in (self.inputs or {}).get("jobs", ()):
            if job.get("task") == task.name and job.get("state") == "Succeeded":
                try:
                    found.append(task.signature.result.decode(job.get("result")))
                except CodecError as error:
                    where = f"the result of Job {job.get('name')} ({task.name}){error.path}"
                    raise ResultInvalid(f"{where}: {error.problem}") from None
        return found


_active: Attempt | None = None


def begin(attempt: Attempt) -> None:
    """Makes it the process's attempt. For the runner."""
    global _active
    _active = attempt


def end() -> None:
    """The process has no attempt any more."""
    global _active
    _active = None


def active() -> Attempt | None:
    """The attempt that this very process runs, or None.

    Raises:
        NotInAttempt: this is another process of an attempt's pod, which cannot know the attempt's children.
    """
    if _active is not None and _active._process == os.getpid():
        return _active
    if _active is not None or os.environ.get(PAYLOAD_ENV):
        raise NotInAttempt(
            "this process is not the one that runs the attempt's task (it is a subprocess of it, or a Job's command): "
            "enqueue, and ask for current(), in the task's own process"
        )
    return None


def current() -> Attempt:
    """The attempt that runs this code.

    Raises:
        NotInAttempt: none does.
    """
    attempt = active()
    if attempt is None:
        raise NotInAttempt("no attempt runs here: current() is for code that a Job runs, in its worker pod")
    return attempt
