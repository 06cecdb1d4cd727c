"""The node of a cluster of the kit: runs the code of attempts in this very thread, one after the other.

The code of an attempt runs at the moment at which its container starts, all at once; its container ends later, when
its virtual seconds are over. So attempts overlap in virtual time as on a cluster, and hold their slots meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from questline import attempt as attempts
from questline.attempt import Attempt
from questline.durations import Duration, seconds_of
from questline.report import report
from questline.runner import CLOSE_SECONDS, call_task, concluded, run_task
from questline.stopping import EXIT_CODE as EXIT_STOPPED
from questline.stopping import Stopping, StopRequest
from questline.task import compact
from questline.testing._clock import Clock
from questline.testing._errors import Endless, KitError
from questline.testing._store import Store, made_uid
from questline_operator.core.pod import Pod
from questline_operator.core.records import ANNOTATION_PAYLOAD, Job, Key

if TYPE_CHECKING:
    from questline.client import Transport
    from questline.envelope import Ending
    from questline.task import Task

GRACE_SECONDS = 30.0
"""How long a pod may go on after SIGTERM, as Kubernetes has it."""
LONGEST_SECONDS = 366 * 86_400.0
"""A task that lets more time pass in one attempt is taken for one that never ends."""


class Ran(NamedTuple):
    """An attempt whose code has run. ``envelope`` is None where it was stopped before it had an outcome."""

    attempt: Attempt
    envelope: Mapping[str, Any] | None
    exit_code: int
    timed_out: bool
    raised: BaseException | None


class Node:
    """Runs pods.

    Args:
        seconds: how long an attempt takes in virtual time, where its code does not let more pass.

    Attributes:
        count: how many attempts have run so far.
        raised: what the code of attempts raised, by the Job's UID and the attempt's number.
    """

    def __init__(self, store: Store, clock: Clock, transport: Transport, *, seconds: float) -> None:
        self.count = 0
        self.raised: dict[tuple[str, int], BaseException] = {}
        self._store, self._clock, self._transport, self._seconds = store, clock, transport, seconds
        self._ends: list[tuple[float, int, Pod]] = []
        self._ran: dict[str, Ran] = {}
        self._running: _Running | None = None

    @property
    def busy(self) -> bool:
        """Whether the code of an attempt runs at this moment."""
        return self._running is not None

    def start(self, job: Job, manifest: Mapping[str, Any]) -> None:
        """The pod of that attempt is created, its container starts, and its code runs."""
        self.count += 1
        uid = f"{self.count:08x}{made_uid(job.uid, job.attempt)[8:]}"  # children are named by the first eight
        pod = self._store.put_pod(manifest, uid=uid)
        attempt = Attempt(json.loads(manifest["metadata"]["annotations"][ANNOTATION_PAYLOAD]))
        attempt._transport, attempt._pod_uid = self._transport, uid
        running = _Running(attempt, pod.deadline_seconds, self._clock)
        attempt._stop_request = _VirtualStop(running)
        ran = self._run(running)
        if ran.raised is not None:
            self.raised[job.uid, attempt.attempt] = ran.raised
        self._ran[uid] = ran
        heapq.heappush(self._ends, (self._clock.now + max(self._seconds, running.passed), self.count, pod))

    def next_end(self) -> float | None:
        """When the next container ends, in seconds since the epoch; None where none runs."""
        while self._ends and self._ends[0][2].uid not in self._ran:
            heapq.heappop(self._ends)  # it was deleted before
        return self._ends[0][0] if self._ends else None

    def end_due(self) -> list[Key]:
        """End every container whose time has come: the SDK reports, and leaves its termination message.

        Returns: their Jobs.
        """
        ended: list[Key] = []
        while (end := self.next_end()) is not None and end <= self._clock.now:
            pod = heapq.heappop(self._ends)[2]
            ran = self._ran.pop(pod.uid)
            if ran.envelope is not None:
                report(ran.attempt, ran.envelope)
            message = compact(ran.envelope).decode() if ran.envelope is not None else ""
            reason = "DeadlineExceeded" if ran.timed_out else ""
            self._store.end_pod(pod, exit_code=ran.exit_code, message=message, phase_reason=reason)
            ended.append((pod.namespace, pod.job))
        return ended

    def delete(self, pod: Pod) -> None:
        """The operator deletes the pod: its container ends without an outcome, whatever its code has come to."""
        self._ran.pop(pod.uid, None)
        self._store.pod_gone(pod)

    def pass_time(self, duration: Duration) -> None:
        """The code of the running attempt takes so long. Raises `Stopping` where its pod's time is over."""
        if self._running is None:
            raise AssertionError("no attempt runs")
        self._running.let_pass(seconds_of(duration, "advance()"))

    def _run(self, running: _Running) -> Ran:
        attempt = running.attempt
        ending: Ending | None = None
        raised: BaseException | None = None
        with self._current(running):
            with suppress(Stopping):
                ending, raised = run_task(attempt, call=_call)
            attempt._children.close(CLOSE_SECONDS)
        if raised is not None and _is_of_the_test(raised):
            raise raised
        if running.endless:
            raise Endless(running.endless) from None
        if running.killed or ending is None:
            return Ran(attempt, None, EXIT_STOPPED, running.stopped, raised)
        ending, envelope = concluded(attempt, ending)
        return Ran(attempt, envelope, ending.exit_code, running.stopped, raised)

    @contextmanager
    def _current(self, running: _Running) -> Iterator[None]:
        if attempts._active is not None:
            raise KitError("an attempt runs here already: run() and drain() are for the test, not for a task")
        self._running = running
        attempts.begin(running.attempt)
        try:
            yield
        finally:
            attempts.end()
            self._running = None
            self._clock.ahead = 0.0


class _Running:
    """An attempt whose code runs now, and the virtual time that it has let pass."""

    def __init__(self, attempt: Attempt, deadline: float | None, clock: Clock) -> None:
        self.attempt = attempt
        self.passed = 0.0
        self.killed = False
        self.endless = ""
        self._deadline, self._clock = deadline, clock

    @property
    def stopped(self) -> bool:
        """Whether its time was over while it ran."""
        return self._deadline is not None and self.passed >= self._deadline

    def let_pass(self, seconds: float) -> None:
        if self.killed:
            return  # it cleans up
        self.passed += seconds
        if self._deadline is None:
            if self.passed > LONGEST_SECONDS:
                job = self.attempt.job
                self.endless = (
                    f"Job {job.name} of {job.task}: its attempt {self.attempt.attempt} has let more than "
                    f"{LONGEST_SECONDS / 86_400:.0f} days pass and has no timeout: give its task one, or let it end"
                )
                raise Stopping(EXIT_STOPPED)
        elif self.passed >= self._deadline:
            self._stop(self._deadline)
        self._clock.ahead = self.passed

    def _stop(self, deadline: float) -> None:
        """What the kubelet does at the deadline: SIGTERM, and an end that cannot be put off once the grace is over."""
        attempt = self.attempt
        attempt._stop_request._make()
        if attempt._ends_by_itself and self.passed <= deadline + GRACE_SECONDS:
            return
        self.killed = True
        self.passed = deadline + (GRACE_SECONDS if attempt._ends_by_itself else 0.0)
        self._clock.ahead = self.passed
        raise Stopping(EXIT_STOPPED)


class _VirtualStop(StopRequest):
    """`current().stopping`, whose waits pass virtual time."""

    def __init__(self, running: _Running) -> None:
        super().__init__()
        self._running = running

    def wait(self, timeout: Duration | None = None) -> bool:
        """Lets the time pass, up to the attempt's deadline."""
        deadline, running = self._running._deadline, self._running
        seconds = float("inf") if timeout is None else seconds_of(timeout, "timeout", maximum=1e6)
        if not self:
            rest = float("inf") if deadline is None else deadline - running.passed
            running.let_pass(min(seconds, rest))
        return bool(self)

    async def wait_async(self, timeout: Duration | None = None) -> bool:  # noqa: ASYNC109  as `wait` has it
        """The same for async code."""
        await asyncio.sleep(0)
        return self.wait(timeout)


def _is_of_the_test(error: BaseException) -> bool:
    """Whether the error is meant for who runs the test: Ctrl-C, `pytest.fail` in a stub, a test's own time-out."""
    return isinstance(error, KeyboardInterrupt) or type(error).__module__.partition(".")[0] == "_pytest"


def _call(task: Task[..., Any, Any], arguments: dict[str, Any]) -> Any:
    """Calls the task in this thread; in another where an event loop runs in this one, such as an async test's."""
    if not _loop_runs():
        return call_task(task, arguments)
    return _in_thread(contextvars.copy_context(), lambda: call_task(task, arguments))


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(context: contextvars.Context, call: Callable[[], Any]) -> Any:
    returned: list[Any] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(context.run(call))
        except BaseException as error:  # raised again below
            raised.append(error)

    thread = threading.Thread(target=work, name="questline-testing")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return returned[0]
