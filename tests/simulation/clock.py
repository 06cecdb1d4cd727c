"""Virtual time: an event loop that jumps to its next timer whenever nothing is left to run, and a `Clock` on it.

An hour of a simulation takes milliseconds, and the same program makes the same steps in the same order every time.
"""

import asyncio
import contextvars
import heapq
import selectors
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

START = 1_769_846_400.0
"""The wall clock's seconds at virtual time 0: 2026-01-31T08:00:00Z."""


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set: the program waits for an event that nobody can bring about any more."""


class SpinError(RuntimeError):
    """The program goes round and round without any time that passes."""


MOST_ROUNDS = 100_000


class _JumpingSelector(selectors.SelectSelector):
    """A selector that never blocks: the time that it should have waited is added to the virtual time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # No socket and no thread wakes the loop, so the system is not asked.
        if timeout is None:
            raise DeadlockError("the simulation waits for an event that cannot come: no timer is set")
        self._rounds += 1
        if timeout > 0:
            self.time += timeout
            self._rounds = 0
        elif self._rounds > MOST_ROUNDS:
            raise SpinError(f"{MOST_ROUNDS} rounds of the event loop at {self.time:.3f} s")
        return []


class _Handle(events.Handle):
    """A step of some process: it waits where that process stands still."""

    _context: contextvars.Context

    def _run(self) -> None:
        freezer = self._context.get(_FREEZER)
        if freezer is not None and freezer.frozen:
            freezer.parked.append(self)
        else:
            super()._run()


class _Timer(events.TimerHandle):
    """The same of a timer: a stopped process finds it expired when it goes on."""

    _context: contextvars.Context
    _scheduled: bool
    _loop: "VirtualLoop"
    _when: float

    def _run(self) -> None:
        # It counts as due a little too early: whoever looks at the time finds that it has come, or waits again for it.
        self._loop.reach(self._when)
        freezer = self._context.get(_FREEZER)
        if freezer is not None and freezer.frozen:
            freezer.parked.append(self)
        else:
            super()._run()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` starts at 0 and jumps. Only for programs without sockets and threads."""

    _ready: deque[events.Handle]
    _scheduled: list[events.TimerHandle]

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # What asyncio takes for "due now": far below any delay of a model, far above the rounding of 10^8 seconds.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.time

    def reach(self, moment: float) -> None:
        """It is that moment, if it was not yet."""
        self._jumping.time = max(self._jumping.time, moment)

    # asyncio's own two places in which a handle is made, with ours in its place.

    def _call_soon(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        """See `asyncio.loop.call_at`."""
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def resume(self, handles: list[events.Handle]) -> None:
        """Run now what had to wait."""
        self._ready.extend(handles)


def run_simulated(main: Coroutine[Any, Any, R]) -> R:
    """Run ``main`` to its end in virtual time.

    Raises:
        DeadlockError: ``main`` waits for what can never happen.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def simulated(test: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Make an async test a plain one that runs in virtual time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return run_simulated(test(*args, **kwargs))

    return run


class Freezer:
    """A process that a test can stop as SIGSTOP does.

    What `spawn` started, and all that it started in turn, makes no step while frozen: no timer ends, no answer is
    taken, no time-out fires; what the process had sent before goes its way. Whoever was not spawned so asks to pass.
    """

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.frozen = False
        """Whether the process stands still."""
        self.parked: list[events.Handle] = []
        """The steps that wait for its thawing, in their order."""

    def spawn(self, main: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run it as (a part of) this process."""
        context = contextvars.Context()
        context.run(_FREEZER.set, self)
        return asyncio.get_running_loop().create_task(main, context=context)

    def freeze(self) -> None:
        """From now on nobody passes."""
        self.frozen = True
        self._open.clear()

    def thaw(self) -> None:
        """Let all who wait go on."""
        self.frozen = False
        self._open.set()
        parked, self.parked = self.parked, []
        loop = asyncio.get_running_loop()
        if parked and isinstance(loop, VirtualLoop):
            loop.resume(parked)

    async def passed(self) -> None:
        """Return at once, or when thawed."""
        while self.frozen:
            await self._open.wait()


_FREEZER: contextvars.ContextVar[Freezer | None] = contextvars.ContextVar("freezer", default=None)


class VirtualClock:
    """A `Clock` of the running event loop's time.

    Args:
        skew: seconds by which this machine's wall clock is fast.
        freezer: the process that this clock belongs to, where a test stops it: its sleeps end only when thawed.
    """

    def __init__(self, *, skew: float = 0.0, freezer: Freezer | None = None) -> None:
        self._skew = skew
        self._freezer = freezer

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back where negative; the monotonic one goes on."""
        self._skew += seconds

    def now(self) -> float:
        """Wall-clock seconds since the epoch."""
        return START + self._skew + self.monotonic()

    def monotonic(self) -> float:
        """The loop's virtual seconds, which go on for a frozen process too."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Sleep in virtual time."""
        await asyncio.sleep(max(0.0, seconds))
        if self._freezer is not None:
            await self._freezer.passed()
