"""Tasks that end in every way."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import shop  # type: ignore[import-not-found]

from questline import (
    Cancel,
    EnqueueFateUnknown,
    EnqueueRefused,
    Fail,
    NotInAttempt,
    Retry,
    Snooze,
    current,
    enqueue,
    fan_out,
    job,
)


class OwnError(Exception):
    """An error of a user's."""


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no text")


@dataclass
class Point:
    x: int
    y: int


def _hurry() -> None:
    """An enqueue is tried for 1 s, not 30."""
    enqueue.ENQUEUE_SECONDS = 1.0


def plain() -> None:
    """Not registered."""


@job
def returns(value: Any = None) -> Any:
    print("in the task")
    return value


@job
def returns_point(point: Point) -> list[Point]:
    assert isinstance(point, Point)
    return [point, Point(point.y, point.x)]


@job
def returns_another_type() -> int:
    return "seven"  # type: ignore[return-value]


@job
def returns_object() -> Any:
    return {"a": [object()]}


@job
def returns_loop() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@job
def returns_large(size: int) -> str:
    return "x" * size


@job
async def asynchronous(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@job
async def asynchronous_error() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(_broken())


async def _broken() -> None:
    raise Retry("5s", "later")


@job
def raises(text: str) -> None:
    raise ValueError(text)


@job
def raises_own() -> None:
    try:
        dict[str, str]()["key"]
    except KeyError as error:
        raise OwnError("it broke") from error


@job
def raises_much(size: int) -> None:
    raise ValueError('"ä\n' * (size // 3))


@job
def raises_unprintable() -> None:
    raise Unprintable


@job
def raises_fail() -> None:
    raise Fail("no such customer")


@job
def raises_retry(delay: str) -> None:
    raise Retry(delay, "the mail server is busy")


@job(max_attempts=1, retry_on=OSError)
def raises_snooze(delay: Any) -> None:
    raise Snooze(delay, "the file is not there yet")


@job
async def snoozes_async() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        group.create_task(_not_yet())


async def _not_yet() -> None:
    raise Snooze(0)


@job
def raises_cancel() -> None:
    raise Cancel("the order was withdrawn")


@job(retry_on=OSError)
def retries_os_errors(error: str) -> None:
    raise {"os": TimeoutError, "other": ValueError}[error](error)


@job(no_retry_on=(LookupError, ZeroDivisionError))
def never_retries_lookups() -> None:
    raise KeyError("k")


@job
def exits(code: Any) -> None:
    sys.exit(code)


@job
def exits_hard(code: int) -> None:
    print("the last line")
    os._exit(code)


@job
def interrupts() -> None:
    raise KeyboardInterrupt


@job
def recurses() -> None:
    recurses()


@job
def runs_out_of_memory() -> None:
    bytearray(2**62)


@job
def breaks() -> None:
    ctypes.string_at(0)


@job
def kills_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


@job
def prints_much(size: int) -> int:
    line = "x" * 999 + "\n"
    for _ in range(size // 1000):
        sys.stdout.write(line)
    return size


@job
def closes_its_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


@job
def leaves_a_thread() -> str:
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "returned"


@job
def leaves_an_exit_handler() -> None:
    atexit.register(print, "goodbye")


@job
def waits(path: str, swallow: bool = False) -> str:
    """Waits to be stopped; writes what happened in its clean-up."""
    try:
        print("waiting", flush=True)
        time.sleep(60)
    except BaseException:
        if not swallow:
            raise
    finally:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write("cleaned up")
    return "went on"


@job
def cleans_up_for_long(path: str) -> None:
    try:
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        sys.stdin.read()
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write("cleaned up")


@job
async def waits_async(path: str) -> None:
    try:
        print("waiting", flush=True)
        await asyncio.sleep(60)
    finally:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123, ASYNC230
            file.write("cleaned up")


@job
def ends_by_itself(how: str) -> str:
    stopping = current().stopping
    assert not stopping
    assert not stopping.wait(0)
    print("waiting", flush=True)
    if how == "thread":
        thread = threading.Thread(target=stopping.wait)
        thread.start()
        thread.join()
    elif how == "loop":
        while not stopping:
            time.sleep(0.001)
    else:
        stopping.wait("1m")
    assert stopping
    assert stopping.wait()
    if how == "snooze":
        raise Snooze(0, "the node goes")
    if how == "error":
        raise ValueError("half done")
    return "saved"


@job
async def ends_by_itself_async(how: str) -> str:
    stopping = current().stopping
    assert not await stopping.wait_async("1ms")
    print("waiting", flush=True)
    await asyncio.gather(stopping.wait_async(), stopping.wait_async("1m"))
    assert await stopping.wait_async()
    if how == "snooze":
        raise Snooze(0, "the node goes")
    return "saved"


@job
def ignores_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("waiting", flush=True)
    time.sleep(60)


@job
def says_who() -> dict[str, Any]:
    attempt = current()
    return {
        "job": attempt.job.name,
        "attempt": attempt.attempt,
        "last": attempt.is_last_attempt,
        "inputs": attempt.results(shop.resize),
    }


@job
def enqueues(count: int) -> int:
    return len(fan_out(shop.resize.call(str(n)) for n in range(count)))


@job
def enqueues_then_fails() -> None:
    shop.resize.enqueue("a")
    raise ValueError("after the enqueue")


@job
def swallows_refusals() -> str:
    try:
        shop.resize.enqueue("a")
    except EnqueueRefused as refusal:
        return str(refusal)
    return "accepted"


@job
def swallows_all() -> str:
    _hurry()
    try:
        shop.resize.enqueue("a")
    except BaseException as error:
        return type(error).__name__
    return "accepted"


@job
def swallows_unknown() -> str:
    _hurry()
    with suppress(EnqueueFateUnknown):
        shop.resize.enqueue("a")
    raise Cancel("anyway")


@job
def enqueues_in_a_thread_left_behind() -> None:
    thread = threading.Thread(target=shop.resize.enqueue, args=("a",))
    thread.start()


@job
def enqueues_in_a_fork() -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            shop.resize.enqueue("a")
            os.write(writing, b"accepted")
        except NotInAttempt as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return os.read(reading, 4096).decode()


@job
def enqueues_in_a_subprocess() -> str:
    code = "import shop\ntry: shop.resize.enqueue('a')\nexcept Exception as error: print(type(error).__name__)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@job
def joined(count: int) -> None:
    fan_out(shop.resize.call(str(n)) for n in range(count)).then(shop.nothing.call())


@job
def takes_set(values: set) -> int:  # type: ignore[type-arg]
    return len(values)


@dataclass
class Frame:
    width: int

    def __post_init__(self) -> None:
        assert self.width > 0, f"width is {self.width}"
        self.unit = {1: "px", 2: "em"}[self.width]


@job
def takes_frame(frame: Frame) -> None: ...


@job
def ends_its_pool() -> list[bool]:
    stopping = current().stopping
    stopping.wait(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(abs, [1, 2])
    begun = time.monotonic()
    asked = stopping.wait(0.5)
    return [time.monotonic() - begun >= 0.5, asked]


@job
def ends_its_fork() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    time.sleep(0.1)
    process.terminate()
    process.join()
    return process.exitcode or 0
