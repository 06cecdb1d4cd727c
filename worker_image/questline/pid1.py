"""The first process of a container: passes signals on, collects orphans, and ends as the task's process ends.

The kernel drops signals that process 1 has no handler for, even those that it sends to itself: a task that runs as
process 1 and kills itself, or aborts, goes on as if nothing had happened. So the task is given a process of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}


def run_below_pid1(main: Callable[[], int]) -> int:
    """Runs it here, or, where this is process 1, in a child; returns the exit code, 128 + n after signal n."""
    return main() if os.getpid() != 1 else supervise(main)


def supervise(main: Callable[[], int]) -> int:
    """Runs it in a child process and returns that one's exit code; in the child, what it returns itself."""
    waited = _FORWARDED | {signal.SIGCHLD}
    # Blocked from before the fork, so that none is lost: sigwait takes them one by one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        child = os.fork()
    except OSError:  # no process to be had: better as process 1 than not at all
        child = 0
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return main()
    while True:
        received = signal.sigwait(waited)
        if received != signal.SIGCHLD:
            os.kill(child, received)
            continue
        ended = _reap(child)
        if ended is not None:
            os._exit(ended)  # nothing is ours to clean up, and the pod's end is waited for


def _reap(child: int) -> int | None:
    """Collects all that have ended; the exit code where the child is among them."""
    code = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if process == 0:
            return code
        if process == child:
            exit_code = os.waitstatus_to_exitcode(status)
            code = exit_code if exit_code >= 0 else 128 - exit_code
