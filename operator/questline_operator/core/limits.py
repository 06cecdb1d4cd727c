"""What bounds the starts of a queue besides its slots: its keys, its rate, the operator's limit of pods (design 2).

A ready Job that one of them holds back blocks nobody behind it but the Jobs of its own key.
"""

from collections import deque
from collections.abc import Iterator

from questline_operator.core.lineage import Hold
from questline_operator.core.records import Job, Key, Queue, RateLimit
from questline_operator.core.states import Reason
from questline_operator.core.times import format_time, parse_time
from questline_operator.core.world import World

WAITS_FOR_A_START = frozenset({Reason.KEY_BUSY, Reason.AT_CONCURRENCY_LIMIT, Reason.RATE_LIMITED})
"""Reasons of a Job that could run, which change from one to the other while it waits."""


def key_is_busy(world: World, queue: Key, concurrency_key: str, *, uncounted: int = 0) -> bool:
    """Whether the key has as many attempts as its queue lets it have.

    Args:
        uncounted: pods of the key that may come to be though no record counts for them.
    """
    record = world.queues.get(queue)
    if record is None or record.per_key_concurrency is None or not concurrency_key:
        return False
    return world.slots_of_key(queue, concurrency_key) + uncounted >= record.per_key_concurrency


class Starts:
    """When the attempts of rate-limited queues were claimed: for each a window that slides with the time.

    The claims of this process are remembered to the microsecond. Those of another are read from the records when a
    queue is first asked about: what a deleted Job, or the eleventh last attempt of one, took of the window is not among
    them, so that a change of leader lets through at most twice the count in one period.
    """

    def __init__(self) -> None:
        self._windows: dict[Key, _Window] = {}

    def allowed(self, world: World, queue: Queue, now: float) -> int | None:
        """How many attempts of the queue may be claimed now; None for any number."""
        limit = queue.rate_limit
        return None if limit is None else max(0, limit.count - len(self._window(world, queue, limit, now)))

    def next_at(self, world: World, queue: Queue, now: float) -> float | None:
        """When the next attempt may be claimed, in seconds since the epoch; None where one may now."""
        limit = queue.rate_limit
        if limit is None:
            return None
        claims = self._window(world, queue, limit, now)
        # The claim that has to leave the window first: not the oldest, where the count was lowered below what it holds.
        return None if len(claims) < limit.count else claims[-limit.count] + limit.period_seconds

    def claimed(self, queue: Key, when: float) -> None:
        """An attempt of the queue was claimed."""
        if queue in self._windows:
            self._windows[queue].claims.append(when)
            self._windows[queue].slide(when)

    def undone(self, queue: Key, when: float) -> None:
        """The claim of that moment came to nothing: its start is given back."""
        window = self._windows.get(queue)
        if window is not None and when in window.claims:
            window.claims.remove(when)

    def forget(self, queue: Key) -> None:
        """The queue is gone; one of its name would begin with what the records tell."""
        self._windows.pop(queue, None)

    def _window(self, world: World, queue: Queue, limit: RateLimit, now: float) -> "deque[float]":
        window = self._windows.get(queue.key)
        if window is None:
            window = self._windows[queue.key] = _Window(limit, now - limit.period_seconds)
            window.claims.extend(_recorded_claims(world, queue.key, since=window.since, until=now))
        elif window.limit.period_seconds < limit.period_seconds:
            recorded = _recorded_claims(world, queue.key, since=now - limit.period_seconds, until=now)
            window.claims.extendleft(reversed([claim for claim in recorded if claim <= window.since]))
        window.limit = limit
        window.slide(now)
        return window.claims


class _Window:
    """The claims since ``since``, the oldest first."""

    def __init__(self, limit: RateLimit, since: float) -> None:
        self.limit = limit
        self.since = since
        self.claims: deque[float] = deque()

    def slide(self, now: float) -> None:
        if self.claims and self.claims[-1] > now + 1.0:
            # The clock was set back: whatever seems to lie ahead has happened by now.
            self.claims = deque(min(claim, now) for claim in self.claims)
        self.since = now - self.limit.period_seconds
        while self.claims and self.claims[0] <= self.since:
            self.claims.popleft()


def _recorded_claims(world: World, queue: Key, *, since: float, until: float) -> list[float]:
    """The moments after ``since`` and not after ``until`` at which attempts of the queue started, in order."""
    jobs = [*world.unfinished_of_queue(queue), *world.finished_of_queue(queue)]
    return sorted(min(start, until) for job in jobs for start in _starts_of(job) if start > since)


def _starts_of(job: Job) -> Iterator[float]:
    for entry in job.status.get("attempts", ()):
        if "startedAt" in entry:
            yield parse_time(entry["startedAt"])
    if job.active:
        yield job.started_at or job.created_at


def waits_for_slot(world: World, job: Job) -> str:
    """What a Job that needs nothing but a slot waits for."""
    queue = world.queues[job.queue_key]
    return f"waits for a slot: queue {job.queue} runs {world.slots_held(job.queue_key)} of {queue.concurrency}"


def why_unclaimed(world: World, job: Job, starts: Starts, now: float, *, max_running_pods: int | None) -> Hold:
    """What a Job that could run waits for, with its numbers.

    Args:
        max_running_pods: the operator's own limit, or None.
    """
    queue = world.queues[job.queue_key]
    key = job.concurrency_key
    if key_is_busy(world, queue.key, key):
        running = world.slots_of_key(queue.key, key)
        message = f"waits for its key: queue {queue.name} runs {running} of {queue.per_key_concurrency} of key {key!r}"
        return Hold(Reason.KEY_BUSY, message)
    held = world.slots_held(queue.key)
    next_at = starts.next_at(world, queue, now)
    if held < queue.concurrency and next_at is not None and queue.rate_limit is not None:
        limit = queue.rate_limit
        message = (
            f"waits for the rate of queue {queue.name}, {limit.count} starts in {limit.period_seconds:g} s: "
            f"the next one at {format_time(next_at)}"
        )
        return Hold(Reason.RATE_LIMITED, message, next_at)
    if held < queue.concurrency and max_running_pods is not None and world.running_pods() >= max_running_pods:
        message = f"waits for a pod: the operator runs {world.running_pods()} of {max_running_pods} (maxRunningPods)"
        return Hold(Reason.AT_CONCURRENCY_LIMIT, message)
    return Hold(Reason.AT_CONCURRENCY_LIMIT, waits_for_slot(world, job))
