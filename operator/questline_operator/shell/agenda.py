"""What the controller or the timekeeper has to look at next: what changed, and what becomes due."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Agenda(Generic[K]):
    """Keys to look at now, each once however often it was marked, and keys to look at later."""

    def __init__(self) -> None:
        self._now: dict[K, None] = {}
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._count = 0
        self._taken_at = float("-inf")

    def mark(self, key: K) -> None:
        """Look at it now."""
        self._now[key] = None

    def mark_at(self, key: K, when: float) -> None:
        """Look at it not later than ``when``, in seconds since the epoch."""
        if when < self._due.get(key, float("inf")):
            self._due[key] = when
            self._count += 1
            heapq.heappush(self._later, (when, self._count, key))
            self._compact()

    def forget(self, key: K) -> None:
        """Nothing is due of it any more; a mark stays."""
        if self._due.pop(key, None) is not None:
            self._compact()

    def take(self, now: float) -> list[K]:
        """Every key that is marked or due, first marked first; they are off the agenda then.

        Where the clock was set back, that is every key: nobody waits until that time comes again.
        """
        last_due = now if now >= self._taken_at else float("inf")
        self._taken_at = now
        while self._later and self._later[0][0] <= last_due:
            when, _, key = heapq.heappop(self._later)
            if self._due.get(key) == when:
                del self._due[key]
                self._now[key] = None
        taken = list(self._now)
        self._now.clear()
        return taken

    def next_due(self) -> float | None:
        """When the next key becomes due, in seconds since the epoch; None where none will."""
        while self._later and self._due.get(self._later[0][2]) != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def _compact(self) -> None:
        """Entries whose key is due at another time, or not at all, are passed over: drop them before they outnumber."""
        if len(self._later) > 2 * len(self._due) + 64:
            self._later = [entry for entry in self._later if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._later)

    def __bool__(self) -> bool:
        return bool(self._now)

    def __len__(self) -> int:
        return len(self._now) + len(self._due)
