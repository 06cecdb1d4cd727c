"""The SDK's side of an attempt, played in the simulation: children, the termination message, the early report.

A behaviour is what a task's code would be:

    async def process_upload(attempt: Attempt) -> Ended:
        await attempt.work(2.0)
        await attempt.enqueue("tasks:generate_thumbnail", queue="media")
        return succeeded({"processed": True})
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from questline_operator.shell.api import JOBS, Api, ApiError, NoAnswerError, Object

_unseen: set["asyncio.Task[None]"] = set()
TRIES = 8
"""How often a call is repeated while its fate is unknown."""


@dataclass(frozen=True)
class Ended:
    """How a worker container ends.

    Args:
        outcome: the envelope without its children, or None where the code leaves none (a command, ``os._exit``).
        message: the termination message of a container that leaves no envelope.
        reason: the runtime's word: "" for Completed or Error by the exit code, or OOMKilled and the like.
        reports: whether the SDK writes status.report before it exits.
        lingers: for so many seconds the container goes on after that, as a thread that does not end.
    """

    exit_code: int = 0
    outcome: Mapping[str, Any] | None = None
    message: str = ""
    reason: str = ""
    reports: bool = True
    lingers: float = 0.0

    def unreported(self) -> "Ended":
        """The same end, told by the termination message alone."""
        return replace(self, reports=False)


def succeeded(result: object = None) -> Ended:
    """The task returned."""
    return Ended(0, {"outcome": "Succeeded", "result": result})


def failed(message: str = "it broke", *, error: str = "ValueError") -> Ended:
    """The task raised."""
    details = {"type": error, "message": message}
    return Ended(1, {"outcome": "Failed", "reason": "TaskError", "message": f"{error}: {message}", "error": details})


def fatal(message: str = "no use to try again", *, reason: str = "Fail") -> Ended:
    """The task raised what forbids a further attempt."""
    return Ended(1, {"outcome": "Fatal", "reason": reason, "message": message})


def retry(delay_seconds: float | None, message: str = "not now") -> Ended:
    """The task asked for another attempt after a delay of its own, or the back-off's; counts as a failure."""
    delay = {} if delay_seconds is None else {"delaySeconds": delay_seconds}
    return Ended(75, {"outcome": "Retry", "message": message, **delay})


def snoozed(delay_seconds: float) -> Ended:
    """The task put itself off; no failure."""
    return Ended(75, {"outcome": "Snoozed", "delaySeconds": delay_seconds})


def canceled(message: str = "no longer wanted") -> Ended:
    """The task canceled itself."""
    return Ended(0, {"outcome": "Canceled", "reason": "Raised", "message": message})


def exits(exit_code: int, message: str = "", *, reason: str = "") -> Ended:
    """The process ends with no outcome, as a command does, or ``os._exit``, or a signal."""
    return Ended(exit_code, None, message, reason)


def oom_killed() -> Ended:
    """The kernel took it."""
    return Ended(137, None, "", "OOMKilled")


class FateUnknownError(Exception):
    """An enqueue whose fate stays unknown ends the attempt (design 4)."""


@dataclass
class Attempt:
    """One attempt as its own code sees it."""

    api: Api
    pod: Object
    payload: Mapping[str, Any]
    total: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    handles_sigterm: bool = False
    """Set by a behaviour that goes on after SIGTERM: it is killed when its grace is over."""
    termination_message: str = ""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def job(self) -> str:
        """The Job's name."""
        name: str = self.payload["job"]["name"]
        return name

    @property
    def task(self) -> str:
        """``module:function``, or "" for a command."""
        return self.payload["job"].get("task") or ""

    @property
    def number(self) -> int:
        """Which attempt it is."""
        number: int = self.payload["attempt"]
        return number

    @property
    def args(self) -> Mapping[str, Any]:
        """The Job's args."""
        args: Mapping[str, Any] = self.payload["args"]
        return args

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the Job waited for."""
        inputs: Mapping[str, Any] = self.payload["inputs"]
        return inputs

    @property
    def pod_uid(self) -> str:
        """The pod's UID."""
        uid: str = self.pod["metadata"]["uid"]
        return uid

    async def work(self, seconds: float) -> None:
        """Take this long."""
        await asyncio.sleep(seconds)

    async def enqueue(
        self,
        task: str,
        *,
        unique: Mapping[str, Any] | None = None,
        staged: bool = True,
        group: str | None = None,
        **spec: Any,
    ) -> str:
        """Create a child Job and return its name, as the SDK does: a repeated POST that finds its own Job is done.

        Raises:
            ApiError: the API server refuses the child.
            FateUnknownError: no answer came, however often it was asked.
        """
        slug = re.sub(r"[^a-z0-9-]", "-", task.partition(":")[2].lower())[:24].strip("-")
        suffix = str(self.total)
        if unique is not None:
            suffix = hashlib.sha256(f"{task}\0{unique.get('key', spec.get('args'))}".encode()).hexdigest()[:10]
            spec["unique"] = dict(unique)
        name = f"{slug}-{self.pod_uid[:8]}-{suffix}"
        job = self.payload["job"]
        parent = self._parent(staged=staged)
        if group is not None:
            parent["group"] = group
        body = {"metadata": {"name": name}, "spec": {"task": task, **spec, "parent": parent}}
        for attempt in range(TRIES):
            try:
                await self.api.create(JOBS, job["namespace"], body)
            except NoAnswerError:
                pass
            except ApiError as error:
                if error.reason == "AlreadyExists" and (attempt or unique is not None):
                    if not attempt:
                        return name
                    break
                if error.definite:
                    raise
            else:
                break
            await asyncio.sleep(0.1 * 2.0**attempt)
        else:
            raise FateUnknownError(name)
        self.total += 1
        if group is not None:
            self.groups[group] = self.groups.get(group, 0) + 1
        return name

    def enqueue_unseen(self, task: str, **spec: Any) -> None:
        """Send an enqueue that no one waits for, and that takes no index: its Job is none of the reported children."""
        name = f"{task.partition(':')[2]}-{self.pod_uid[:8]}-stray"
        body = {"metadata": {"name": name}, "spec": {"task": task, **spec, "parent": self._parent(staged=True)}}

        async def send() -> None:
            with suppress(ApiError, NoAnswerError):
                await self.api.create(JOBS, self.payload["job"]["namespace"], body)

        task_of_it = asyncio.get_running_loop().create_task(send())
        _unseen.add(task_of_it)
        task_of_it.add_done_callback(_unseen.discard)

    def _parent(self, *, staged: bool) -> dict[str, Any]:
        job = self.payload["job"]
        parent = {
            "name": job["name"],
            "uid": job["uid"],
            "attempt": self.number,
            "podUID": self.pod_uid,
            "index": self.total,
        }
        return parent if staged else {**parent, "staged": False}

    def envelope(self, ended: Ended) -> dict[str, Any] | None:
        """The envelope of that end, or None where there is none."""
        if ended.outcome is None:
            return None
        return {
            "v": 1,
            "attempt": self.number,
            **ended.outcome,
            "children": {"total": self.total, "groups": self.groups},
        }

    async def report(self, envelope: Mapping[str, Any]) -> bool:
        """Write status.report as the pod does; whether the API server is known to have taken it."""
        job = self.payload["job"]
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": job["uid"]},
            {"op": "add", "path": "/status/report", "value": {**envelope, "podUID": self.pod_uid}},
        ]
        for attempt in range(TRIES):
            try:
                await self.api.patch(JOBS, job["namespace"], job["name"], operations, subresource="status")
            except NoAnswerError:
                pass
            except ApiError as error:
                if error.definite:
                    return False
            else:
                return True
            await asyncio.sleep(0.1 * 2.0**attempt)
        return False


Behaviour = Callable[[Attempt], Awaitable[Ended | None]]
"""What an attempt's container does; None means `succeeded()`, an exception `failed`."""


def by_name(behaviours: Mapping[str, Behaviour], *, seconds: float = 1.0) -> Behaviour:
    """The behaviour of the Job's name, else of its task's function; all others work for ``seconds`` and succeed."""

    async def behave(attempt: Attempt) -> Ended | None:
        for name in (attempt.job, attempt.task.partition(":")[2]):
            if name in behaviours:
                return await behaviours[name](attempt)
        await attempt.work(seconds)
        return None

    return behave


def compact(envelope: Mapping[str, Any]) -> str:
    """The envelope as a termination message."""
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False)
