"""The tasks of the tests on the real kubelet, well-behaved and not. Mounted into worker pods as /app/tasks.py."""

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from questline import Cancel, Fail, Retry, Snooze, current, fan_out, job


def stamp(what: str) -> None:
    """A line in the pod's log, with the container's own clock."""
    print(json.dumps({"what": what, "at": time.time()}), flush=True)


@job()
def work(seconds: float = 0.0, value: Any = None) -> Any:
    """Take this long, return that."""
    time.sleep(seconds)
    return value


@job()
def parent() -> dict[str, float]:
    """Enqueue one child; the result is the moment of its last line."""
    child.enqueue()
    time.sleep(0.3)
    return {"last_line": time.time()}


@job()
def child() -> dict[str, float]:
    """The result is the moment of its first line."""
    return {"first_line": time.time()}


@job()
def flaky_parent(children: int, failures: int, joined: bool = False) -> dict[str, int]:
    """Enqueue children and, if they are to be joined, one more after them; fail in the first attempts."""
    family = fan_out([child.call() for _ in range(children)])
    if joined:
        family.then(work.call())
    attempt = current().attempt
    if attempt <= failures:
        raise ValueError(f"attempt {attempt} is meant to fail")
    return {"attempt": attempt}


@job()
def always_fails() -> None:
    """Fail."""
    raise RuntimeError("this never works")


@job()
def fans_out(children: int, seconds: float) -> None:
    """Enqueue children that take a while."""
    fan_out([work.call(seconds) for _ in range(children)])


@job()
def lives_on(children: int, seconds: float) -> None:
    """Enqueue children that start at once, and a join of theirs; they take this long, and so does this."""
    start_at_once = work.options(queue=current().job.queue, stage=False)
    fan_out([start_at_once.call(seconds) for _ in range(children)]).then(work.options(stage=False).call())
    time.sleep(seconds)


@job()
def two_arguments(first: int, second: str) -> None:
    """Needs both."""


@job()
def huge_result() -> str:
    """A result of 1 MiB."""
    return "x" * (1 << 20)


@job()
def no_json() -> Any:
    """A result that is not JSON."""
    return object()


@job()
def huge_error() -> None:
    """An exception whose message is 1 MB."""
    raise ValueError("x" * 1_000_000)


@job()
def exits() -> None:
    """sys.exit(3)."""
    sys.exit(3)


@job()
def leaves() -> None:
    """os._exit(0): no outcome."""
    os._exit(0)


@job()
def segfaults() -> None:
    """Read address 0."""
    ctypes.string_at(0)


@job()
def eats_memory() -> None:
    """Use more than the limit."""
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20)))


@job()
def ignores_sigterm() -> None:
    """Sleep on, whatever comes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.time() + 600
    while time.time() < end:
        time.sleep(1)


@job()
def shouts() -> str:
    """100 MB to stdout."""
    line = "y" * 1023 + "\n"
    for _ in range(100 * 1024):
        sys.stdout.write(line)
    return "done"


@job()
def steers(how: str, delay: float = 1.0, times: int = 1) -> dict[str, float]:
    """Ask for another end in the first attempts; the result is the moment of the last one's beginning."""
    begun = time.time()
    if current().attempt <= times:
        match how:
            case "Snooze":
                raise Snooze(delay, f"attempt {current().attempt} is too early")
            case "Retry":
                raise Retry(delay, f"attempt {current().attempt} is too early")
            case "Fail":
                raise Fail("no further attempt would help")
            case "Cancel":
                raise Cancel("no longer wanted")
    return {"begun": begun}


@job()
async def steers_async(how: str, delay: float = 1.0) -> str:
    """The same of a coroutine."""
    await asyncio.sleep(0)
    if current().attempt == 1:
        raise {"Snooze": Snooze, "Retry": Retry}[how](delay, "later")
    return "done"


@job(max_attempts=1)
def is_interrupted() -> str:
    """Take long in the first attempt, with a clean-up that it tells of; the second attempt returns."""
    if current().attempt == 1:
        try:
            stamp("waiting")
            time.sleep(600)
        finally:
            stamp("cleaned up")
    return "done"


@job()
def ends_by_itself(how: str) -> str:
    """Work until the pod is to end, in the first attempt."""
    if current().attempt == 1:
        stamp("waiting")
        current().stopping.wait()
        stamp("stopping")
        if how == "Snooze":
            raise Snooze(0, "the pod is to end")
        return "saved"
    return "done"


@job()
async def ends_by_itself_async() -> str:
    """The same of a coroutine."""
    if current().attempt == 1:
        stamp("waiting")
        await current().stopping.wait_async()
        raise Snooze(0, "the pod is to end")
    return "done"


def not_registered() -> None:
    """A function that is no task."""
