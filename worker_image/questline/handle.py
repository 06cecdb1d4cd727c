"""Handles of enqueued Jobs, and waiting for them by a watch (outside an attempt)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

from questline.codec import CodecError
from questline.errors import (
    ApiRefused,
    ApiUnavailable,
    JobGone,
    JobNotSucceeded,
    NotInAttempt,
    ResultInvalid,
    WaitTimeout,
)
from questline.task import R_co

if TYPE_CHECKING:
    from questline.client import Answer, Transport
    from questline.durations import Duration
    from questline.task import Task

API_PATH = "/apis/questline.dev/v1alpha1/namespaces/{namespace}/questjobs"
TERMINAL_STATES = frozenset({"Succeeded", "Failed", "Canceled", "Skipped"})
_WATCH_SECONDS = 290
"""How long one watch request lasts; a new one goes on where it ended."""

_LEAST_WATCH_SECONDS = 0.5
"""Watches are begun no more often than this."""


class Handle(Generic[R_co]):
    """A Job that was enqueued.

    Attributes:
        name: the Job's name.
        namespace: its namespace.
        task: the task that it runs.
    """

    __slots__ = ("_transport", "name", "namespace", "task")

    def __init__(
        self, task: Task[..., Any, Any], namespace: str, name: str, transport: Callable[[], Transport] | None = None
    ) -> None:
        self.task, self.namespace, self.name = task, namespace, name
        self._transport = transport

    def __repr__(self) -> str:
        return f"<Job {self.namespace}/{self.name} of {self.task.name}>"

    def wait(self, timeout: Duration | None = None) -> str:
        """Waits until the Job has ended, and returns its state: Succeeded, Failed, Canceled or Skipped.

        Args:
            timeout: seconds, "1h30m" or a timedelta; None waits as long as it takes.

        Raises:
            WaitTimeout: it has not ended by then.
            JobGone: it does not exist any more.
            NotInAttempt: inside an attempt, whose children wait for the attempt itself.
            ApiUnavailable, ApiRefused: the API server cannot be reached, or refuses to show it.
        """
        state: str = self._ended(timeout)["status"]["state"]
        return state

    def result(self, timeout: Duration | None = None) -> R_co:
        """Waits until the Job has ended, and returns what its task returned.

        Raises:
            JobNotSucceeded: it ended in another state; the message says how.
            ResultInvalid: the result is of another type than the task's annotation.
            Besides: see `wait`.
        """
        status = self._ended(timeout)["status"]
        if status["state"] != "Succeeded":
            words = [status["state"], f"({status['reason']})" if status.get("reason") else "", status.get("message")]
            if status.get("duplicateOf"):
                words.append(f"- the Job that ran in its place is {status['duplicateOf']}")
            raise JobNotSucceeded(
                f"Job {self.namespace}/{self.name} of {self.task.name} is " + " ".join(filter(None, words)),
                state=status["state"],
                reason=status.get("reason", ""),
            )
        try:
            result: R_co = self.task.signature.result.decode(status.get("result"))
        except CodecError as error:
            where = f"the result of Job {self.namespace}/{self.name} ({self.task.name}){error.path}"
            raise ResultInvalid(f"{where}: {error.problem}") from None
        return result

    def _ended(self, timeout: Duration | None) -> dict[str, Any]:
        if self._transport is None:
            raise NotInAttempt(
                f"{self!r} is a child of this attempt and runs when the attempt has succeeded, so it cannot be waited "
                "for here: let it do, or enqueue, what comes next, or use chain()"
            )
        from questline.durations import seconds_of

        seconds = math.inf if timeout is None else seconds_of(timeout, "timeout")
        return _Watcher(self._transport(), self.namespace, self.name, seconds).ended()


class _Watcher:
    """Follows one Job until it has ended: read it, then watch it from there, and again when the watch breaks."""

    def __init__(self, transport: Transport, namespace: str, name: str, seconds: float) -> None:
        self._transport = transport
        self._what = f"Job {namespace}/{name}"
        self._name = name
        self._path = API_PATH.format(namespace=namespace)
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self._state = "unknown"

    def ended(self) -> dict[str, Any]:
        while True:
            job = self._read()
            if self._has_ended(job):
                return job
            begun = time.monotonic()
            ended = self._watch(job["metadata"]["resourceVersion"])
            if ended is not None:
                return ended
            # A watch that breaks at once would do so again: not in a tight loop.
            time.sleep(min(self._remaining(), max(0.0, begun + _LEAST_WATCH_SECONDS - time.monotonic())))

    def _has_ended(self, job: dict[str, Any]) -> bool:
        self._state = job.get("status", {}).get("state", "Waiting")
        return self._state in TERMINAL_STATES

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise WaitTimeout(f"{self._what} has not ended in {self._seconds:g} s: its state is {self._state}")
        return remaining

    def _read(self) -> dict[str, Any]:
        from questline.client import UnsettledError, persist

        try:
            # Read at least once: a Job that has ended already is no timeout, however short that is.
            seconds = min(30.0, max(self._deadline - time.monotonic(), 1.0))
            answer, _ = persist(self._transport, "GET", f"{self._path}/{self._name}", None, seconds=seconds)
        except UnsettledError as error:
            self._remaining()
            raise ApiUnavailable(f"{self._what} cannot be read: {error}") from None
        if answer.status != 200:
            raise self._refusal(answer)
        return answer.json()

    def _watch(self, version: str) -> dict[str, Any] | None:
        """The Job once it has ended, or None where the watch broke first."""
        from questline.client import LostAnswerError, NotSentError, RefusedError

        seconds = min(self._remaining(), _WATCH_SECONDS)
        query = (
            f"?watch=1&fieldSelector=metadata.name%3D{self._name}&resourceVersion={version}"
            f"&timeoutSeconds={math.ceil(seconds)}"
        )
        try:
            for line in self._transport.stream(self._path + query, seconds):
                event = json.loads(line)
                if event["type"] == "DELETED":
                    raise JobGone(f"{self._what} was deleted before it had ended")
                if event["type"] not in ("ADDED", "MODIFIED"):
                    return None  # such as 410: what the watch was to start from is forgotten
                if self._has_ended(event["object"]):
                    ended: dict[str, Any] = event["object"]
                    return ended
                self._remaining()
        except RefusedError as error:
            if error.answer.status != 410 and not error.answer.passes:
                raise self._refusal(error.answer) from None
        except (LostAnswerError, NotSentError, ValueError):
            self._remaining()
        return None

    def _refusal(self, answer: Answer) -> Exception:
        if answer.status == 404:
            return JobGone(f"{self._what} does not exist")
        return ApiRefused(
            f"the API server does not show {self._what} ({answer.status} {answer.reason}): {answer.message}",
            status=answer.status,
        )
