"""What SIGTERM does to an attempt: the pod is to end, because of its deadline, a cancel or the node.

The task is interrupted by `Stopping`, so that its ``finally`` blocks run, and the process ends with 143 and no outcome:
whether this was a timeout, a cancel or a disruption is known to the operator alone. What a task does after it was
interrupted says nothing about its work, so a return or an error of it then is no outcome either.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from questline.attempt import Attempt

EXIT_CODE = 128 + signal.SIGTERM


class Stopping(SystemExit):
    """Ends the task. A SystemExit, so that an event loop lets it pass, and a task's ``except Exception`` too."""


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

    def _received(self, _signal: int, _frame: FrameType | None) -> None:
        self._attempt._stopping = True
        # Once is enough: a second one must not interrupt the task's clean-up.
        if self._armed and not self.interrupted:
            self.interrupted = True
            raise Stopping(EXIT_CODE)
