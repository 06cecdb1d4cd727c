"""Who of all that are ready is claimed next: slots, keys, rates, refusals and the operator's own limit together."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from questline_operator.core.admission import Rejections, claim_order, free_slots
from questline_operator.core.limits import Starts, key_is_busy, why_unclaimed
from questline_operator.core.lineage import Hold
from questline_operator.core.ready_queue import ReadyQueue
from questline_operator.core.records import Job, Key
from questline_operator.core.world import World

Uncounted = Mapping[tuple[Key, str], int]
"""By queue and concurrency key, how many pods may come to be though no record counts for them."""


class Turnstile:
    """The ready Jobs of every queue, and what lets them through.

    Args:
        max_running_pods: how many pods of attempts may run at once in all queues together; None for any number.
    """

    def __init__(self, world: World, *, max_running_pods: int | None = None) -> None:
        self.rejections = Rejections()
        self.starts = Starts()
        self._world = world
        self._max_running_pods = max_running_pods
        self._ready: defaultdict[Key, ReadyQueue] = defaultdict(ReadyQueue)

    def add(self, job: Job) -> bool:
        """The Job is ready; True where it was not before, or had another place."""
        return self._ready[job.queue_key].add(job)

    def discard(self, job: Job) -> None:
        """It is not, or no more."""
        if job.queue_key in self._ready:
            self._ready[job.queue_key].discard(job.key)

    def slots_changed(self, queue: Key, concurrency_key: str) -> None:
        """A slot of that key was taken or is free."""
        if queue in self._ready:
            self._ready[queue].unpark(concurrency_key)

    def queue_changed(self, queue: Key) -> None:
        """Its spec, or whether it exists."""
        if queue in self._ready:
            self._ready[queue].unpark_all()
        if queue not in self._world.queues:
            self.rejections.forget_queue(queue)
            self.starts.forget(queue)

    def why(self, job: Job, now: float) -> Hold:
        """What a ready Job waits for, with its numbers."""
        return why_unclaimed(self._world, job, self.starts, now, max_running_pods=self._max_running_pods)

    def refusal(self, queue: Key) -> str | None:
        """The API server's words where it refuses the queue's pods; None where it does not, or has refused those of no
        Job that is left."""
        words = self.rejections.words(queue)
        if words is None or not any(map(self.rejections.times_refused, self._world.unfinished_of_queue(queue))):
            return None
        return words

    def passing(
        self, queues: Iterable[Key], now: float, *, uncounted: Uncounted, still_ready: Callable[[Key], Job | None]
    ) -> Iterator[Job]:
        """The Jobs to claim now, in order; each has to count in the world before the next is asked for.

        Args:
            queues: what has changed since the last time. Where the operator's own limit binds, a pod that ends in one
                queue lets a Job of any other start: of all of them the queue of the highest priority goes first, then
                the first Job.
            still_ready: the Job as it is now, or None where it cannot be claimed any more.
        """
        room = float("inf")
        if self._max_running_pods is not None:
            room = self._max_running_pods - self._world.running_pods() - sum(uncounted.values())
            queues = dict.fromkeys([*queues, *self._ready])
        if room <= 0:
            return
        offers: list[tuple[int, tuple[int, float, int, str], Key, Job, Iterator[Job]]] = []

        def offer(queue: Key, jobs: Iterator[Job]) -> None:
            job = next(jobs, None)
            if job is not None:
                heapq.heappush(offers, (-self._world.queues[queue].priority, claim_order(job), queue, job, jobs))

        for queue in queues:
            offer(queue, self._passing_of_queue(queue, now, uncounted, still_ready))
        claims = 0
        while offers and room > 0:
            _, _, queue, job, jobs = heapq.heappop(offers)
            # What was claimed since it was found ready may hold it up: the first of its unique key, say.
            now_ready = job if not claims else still_ready(job.key)
            if now_ready is not None:
                claims += 1
                room -= 1
                yield now_ready
            offer(queue, jobs)
        for _, _, queue, job, _ in offers:
            self._ready[queue].add(job)

    def next_due(self, queue: Key, now: float) -> float | None:
        """When its next probe or start is due, in seconds since the epoch; None where time alone changes nothing."""
        record = self._world.queues.get(queue)
        if not self._ready.get(queue):
            self._ready.pop(queue, None)
            return None
        dues = (
            self.rejections.next_probe_at(queue),
            None if record is None else self.starts.next_at(self._world, record, now),
        )
        return max((due for due in dues if due is not None and due > now), default=None)

    def _passing_of_queue(
        self, queue: Key, now: float, uncounted: Uncounted, still_ready: Callable[[Key], Job | None]
    ) -> Iterator[Job]:
        record, ready = self._world.queues.get(queue), self._ready.get(queue)
        if record is None or not ready:
            return

        def busy(concurrency_key: str) -> bool:
            extra = uncounted.get((queue, concurrency_key), 0)
            return key_is_busy(self._world, queue, concurrency_key, uncounted=extra)

        free = free_slots(self._world, queue) - sum(count for (key, _), count in uncounted.items() if key == queue)
        allowed = self.rejections.claims_allowed(queue, now)
        for bound in (allowed, self.starts.allowed(self._world, record, now)):
            free = free if bound is None else min(free, bound)
        if allowed is not None:
            probe = self._probe_of(ready, busy, still_ready) if free > 0 else None
            if probe is not None:
                yield probe
            return
        while free > 0:
            key = ready.pop(busy)
            if key is None:
                return
            job = still_ready(key)
            if job is not None:
                free -= 1
                yield job

    def _probe_of(
        self, ready: ReadyQueue, busy: Callable[[str], bool], still_ready: Callable[[Key], Job | None]
    ) -> Job | None:
        """While pods are refused, the first of the Jobs that were refused least often: those whose own spec is at fault
        would else take every probe from the ones behind them."""
        while True:
            popped: list[Job] = []
            while not popped or self.rejections.times_refused(popped[-1]):
                key = ready.pop(busy)
                if key is None:
                    break
                if key in self._world.jobs:
                    popped.append(self._world.jobs[key])
            if not popped:
                return None
            probe: Job | None = None
            for job in sorted(popped, key=self.rejections.times_refused):
                if probe is None:
                    probe = still_ready(job.key)
                else:
                    ready.add(job)
            if probe is not None:
                return probe
