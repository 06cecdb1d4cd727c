"""The Jobs of one queue that need only a slot, in the order in which they are to be claimed."""

import heapq
from collections.abc import Callable

from questline_operator.core.admission import claim_order
from questline_operator.core.records import Job, Key

_Order = tuple[int, float, int, str]


class ReadyQueue:
    """One lane for each concurrency key and one for the Jobs without; the first of all lanes' heads is claimed next.

    A lane whose key is busy is parked: its Jobs are not looked at again until `unpark`, so that a thousand of them cost
    as little as one, and hold up no other key.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._lane_of: dict[Key, str] = {}
        self._heads: list[tuple[_Order, str]] = []
        self._parked: set[str] = set()

    def add(self, job: Job) -> bool:
        """Put the Job in its place; True where it was not there before."""
        name = job.concurrency_key
        if self._lane_of.get(job.key, name) != name:
            self.discard(job.key)  # a new Job of its name
        lane = self._lanes.setdefault(name, _Lane())
        head = lane.head
        if not lane.add(job):
            return False
        self._lane_of[job.key] = name
        if lane.head != head:
            self._show(name)
        return True

    def discard(self, key: Key) -> None:
        """Take the Job out, where it is in."""
        name = self._lane_of.pop(key, None)
        if name is not None:
            self._lanes[name].discard(key)
            self._drop_if_empty(name)

    def pop(self, busy: Callable[[str], bool] = lambda concurrency_key: False) -> Key | None:
        """The first Job whose key is not busy, taken out; None where there is none. What is busy is parked."""
        while self._heads:
            order, name = heapq.heappop(self._heads)
            lane = self._lanes.get(name)
            if lane is None or name in self._parked:
                continue
            if lane.head is None or lane.head[0] != order:
                self._show(name)  # its head has changed since
            elif busy(name):
                self._parked.add(name)
            else:
                key = lane.pop()
                del self._lane_of[key]
                self._show(name)
                self._drop_if_empty(name)
                return key
        return None

    def unpark(self, concurrency_key: str) -> None:
        """The slots of the key may have changed."""
        if concurrency_key in self._parked:
            self._parked.discard(concurrency_key)
            self._show(concurrency_key)

    def unpark_all(self) -> None:
        """So may those of every key."""
        for name in sorted(self._parked):
            self.unpark(name)

    def __len__(self) -> int:
        return len(self._lane_of)

    def _show(self, name: str) -> None:
        """Put the lane's head among the others'."""
        head = self._lanes[name].head
        if head is None or name in self._parked:
            return
        if len(self._heads) > 2 * len(self._lanes) + 64:
            shown = ((other, lane.head) for other, lane in self._lanes.items() if other not in self._parked)
            self._heads = [(first[0], other) for other, first in shown if first is not None]
            heapq.heapify(self._heads)
        else:
            heapq.heappush(self._heads, (head[0], name))

    def _drop_if_empty(self, name: str) -> None:
        if not len(self._lanes[name]):
            del self._lanes[name]
            self._parked.discard(name)


class _Lane:
    """A heap with lazy removal: an entry whose order is no longer the Job's is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[_Order, Key]] = []
        self._order: dict[Key, _Order] = {}

    @property
    def head(self) -> tuple[_Order, Key] | None:
        while self._heap and self._order.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def add(self, job: Job) -> bool:
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
        self._order.pop(key, None)

    def pop(self) -> Key:
        _, key = heapq.heappop(self._heap)
        del self._order[key]
        return key

    def __len__(self) -> int:
        return len(self._order)
