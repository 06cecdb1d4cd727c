"""Virtual time: it goes on by itself only while the cluster runs, and jumps from event to event."""

from __future__ import annotations

from datetime import UTC, datetime


class Clock:
    """The wall clock of a cluster of the kit.

    Attributes:
        now: seconds since the epoch, of the cluster.
        ahead: by how many seconds the code of the attempt that runs at this moment is ahead of it.
    """

    def __init__(self, start: float) -> None:
        self.now = start
        self.ahead = 0.0

    def time(self) -> float:
        """Seconds since the epoch as the code that runs at this moment has it."""
        return self.now + self.ahead


def datetime_of(seconds: float) -> datetime:
    """The moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
