"""Time as the operator sees it: one protocol, so that a test can put a virtual clock in its place."""

import asyncio
import time
from typing import Protocol


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
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(max(0.0, seconds))
