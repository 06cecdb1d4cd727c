"""The Jobs of one queue that need only a slot, in the order in which they are to be claimed."""

import heapq

from questline_operator.core.admission import claim_order
from questline_operator.core.records import Job, Key

_Order = tuple[int, float, int, str]


class ReadyQueue:
    """A heap with lazy removal: an entry whose order is no longer the Job's is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[_Order, Key]] = []
        self._order: dict[Key, _Order] = {}

    def add(self, job: Job) -> bool:
        """Put the Job in its place; True where it was not there before."""
        order = claim_order(job)
        if self._order.get(job.key) == order:
            return False
        self._order[job.key] = order
        if len(self._heap) > 2 * len(self._order) + 64:
            self._heap = [(kept, key) for key, kept in self._order.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (order, job.key))
        return True

    def discard(self, key: Key) -> None:
        """Take the Job out, where it is in."""
        self._order.pop(key, None)

    def pop(self) -> Key | None:
        """The first Job, taken out; None where there is none."""
        while self._heap:
            order, key = heapq.heappop(self._heap)
            if self._order.get(key) == order:
                del self._order[key]
                return key
        return None

    def __len__(self) -> int:
        return len(self._order)
