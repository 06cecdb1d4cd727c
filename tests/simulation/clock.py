"""Virtual time: an event loop that jumps to its next timer whenever nothing is left to run, and a `Clock` on it.

An hour of a simulation takes milliseconds, and the same program makes the same steps in the same order every time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

START = 1_769_846_400.0
"""The wall clock's seconds at virtual time 0: 2026-01-31T08:00:00Z."""


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set: the program waits for an event that nobody can bring about any more."""


class _JumpingSelector(selectors.SelectSelector):
    """A selector that never blocks: the time that it should have waited is added to the virtual time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise DeadlockError("the simulation waits for an event that cannot come: no timer is set")
        self.time += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` starts at 0 and jumps. Only for programs without sockets and threads."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # What asyncio takes for "due now": far below any delay of a model, far above the rounding of 10^8 seconds.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.time


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
    """Stops a simulated process as SIGSTOP would: whoever asks to pass waits until it is thawed."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    @property
    def frozen(self) -> bool:
        """Whether the process stands still."""
        return not self._open.is_set()

    def freeze(self) -> None:
        """From now on nobody passes."""
        self._open.clear()

    def thaw(self) -> None:
        """Let all who wait go on."""
        self._open.set()

    async def passed(self) -> None:
        """Return at once, or when thawed."""
        while self.frozen:
            await self._open.wait()


class VirtualClock:
    """A `Clock` of the running event loop's time.

    Args:
        skew: seconds by which this machine's wall clock is fast.
        freezer: the process that this clock belongs to, where a test stops it: its sleeps end only when thawed.
    """

    def __init__(self, *, skew: float = 0.0, freezer: Freezer | None = None) -> None:
        self._skew = skew
        self._freezer = freezer

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
