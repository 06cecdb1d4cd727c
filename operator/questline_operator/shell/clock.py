"""Time as the operator sees it: one protocol, so that a test can put a virtual clock in its place."""

import asyncio
import time
from typing import Protocol

_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's goes on while the machine is suspended: a leader that wakes up must not trust a Lease that ended long ago."""


class Clock(Protocol):
    """What the shell may ask about time. The core is handed plain numbers and asks nothing."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch, UTC: what is written to the cluster."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump: what leases and time-outs are measured by."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of this clock; at once when they are not positive."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment before the start, those of a suspended machine included."""
        return time.clock_gettime(_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(max(0.0, seconds))
