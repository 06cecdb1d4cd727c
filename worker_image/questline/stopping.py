"""What SIGTERM does to an attempt: the pod is to end, because of its deadline, a cancel or the node.

A task that has asked for `current().stopping` finds it true there, and ends by itself: what it returns or raises is its
outcome. Any other is interrupted by `Stopping`, so that its ``finally`` blocks run, and the process ends with 143 and
no outcome: whether this was a timeout, a cancel or a disruption is known to the operator alone. What a task does after
it was interrupted says nothing about its work, so a return or an error of it then is no outcome either.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from questline.attempt import Attempt
    from questline.durations import Duration

EXIT_CODE = 128 + signal.SIGTERM


class Stopping(SystemExit):
    """Ends the task. A SystemExit, so that an event loop lets it pass, and a task's ``except Exception`` too."""


class StopRequest:
    """Whether the pod is to end. True once it is, and can be waited for instead of a sleep.

    A pipe carries it: a signal handler may write to one at any moment, where a lock of `threading` could be held by
    the very code that it interrupts.
    """

    def __init__(self) -> None:
        self._made = False
        self._lock = threading.Lock()
        self._pipe: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return self._made

    def __repr__(self) -> str:
        return f"<stopping: {self._made}>"

    def wait(self, timeout: Duration | None = None) -> bool:
        """Waits until the pod is to end, at most for so long, and returns whether it is.

        Args:
            timeout: seconds, "1h30m" or a timedelta; None waits as long as it takes.
        """
        poll = select.poll()
        poll.register(self._readable(), select.POLLIN)
        poll.poll(None if timeout is None else _seconds(timeout) * 1_000)
        return self._made

    async def wait_async(self, timeout: Duration | None = None) -> bool:  # noqa: ASYNC109  as `wait` has it
        """The same for async code, which goes on meanwhile."""
        import asyncio

        seconds = None if timeout is None else _seconds(timeout)
        loop, found = asyncio.get_running_loop(), asyncio.Event()
        own = os.dup(self._readable())  # a loop keeps one reader a descriptor
        loop.add_reader(own, found.set)
        try:
            await asyncio.wait_for(found.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(own)
            os.close(own)
        return self._made

    def _make(self) -> None:
        """For the signal handler: takes no lock."""
        if not self._made:
            self._made = True
            if self._pipe is not None:
                os.write(self._pipe[1], b"!")

    def _readable(self) -> int:
        with self._lock:
            if self._pipe is None:
                self._pipe = os.pipe()
                if self._made:  # before there was a pipe to write to; a byte too many does no harm
                    os.write(self._pipe[1], b"!")
            return self._pipe[0]


class StopSignal:
    """Takes SIGTERM while an attempt runs.

    Attributes:
        interrupted: whether the task was interrupted, so that what it says counts no more.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.interrupted = False
        self._attempt = attempt
        self._armed = True

    def install(self) -> None:
        """Takes the signal from now on. Outside the main thread there is nothing to take."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._received)

    def disarm(self) -> None:
        """The task has ended: from now on the outcome is written, whatever comes."""
        self._armed = False

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if self._attempt._process != os.getpid():  # a fork of the task, as a pool's worker: not the attempt is meant
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._attempt._stop_request._make()
        # Once is enough: a second one must not interrupt the task's clean-up.
        if self._armed and not self.interrupted and not self._attempt._ends_by_itself:
            self.interrupted = True
            raise Stopping(EXIT_CODE)


def _seconds(timeout: Duration) -> float:
    from questline.durations import seconds_of

    return seconds_of(timeout, "timeout", maximum=1e6)
