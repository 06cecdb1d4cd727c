"""Which of a queue's ready Jobs take its free slots, and when a queue whose pods are refused tries again (design 3)."""

from dataclasses import dataclass

from questline_operator.core.records import Job, Key
from questline_operator.core.world import World

MAX_REJECTION_DELAY_SECONDS = 30.0


def claim_order(job: Job) -> tuple[int, float, int, str]:
    """Higher priority first, then the order of creation."""
    return (-job.priority, *job.order)


def free_slots(world: World, queue: Key) -> int:
    """How many attempts may be claimed now; 0 where the queue is missing, paused or lowered below what runs."""
    record = world.queues.get(queue)
    if record is None or record.paused:
        return 0
    return max(0, record.concurrency - world.slots_held(queue))


@dataclass
class _Refusals:
    words: str = ""
    of: str = ""
    """The UID of the Job whose pod was refused in these words."""
    count: int = 0
    since: float = 0.0
    until: float = 0.0
    probing: bool = False

    def hold(self, now: float) -> bool:
        """Whether no probe is due yet. A clock that was set back behind the last refusal holds nobody up."""
        return self.since <= now < self.until


class Rejections:
    """The back-off of queues and Jobs whose pods the API server refuses: one Job of a queue probes at a time.

    A refused Job waits on its own beyond the queue's next probe, and probes behind those that were refused less often,
    so that those whose own spec is at fault let the others probe, be they of lower priority.
    """

    def __init__(self) -> None:
        self._queues: dict[Key, _Refusals] = {}
        self._jobs: dict[str, int] = {}

    def claims_allowed(self, queue: Key, now: float) -> int | None:
        """How many Jobs of the queue may be claimed: None for any number, 1 for a probe, 0 for none."""
        refusals = self._queues.get(queue)
        if refusals is None:
            return None
        return 0 if refusals.probing or refusals.hold(now) else 1

    def next_probe_at(self, queue: Key) -> float | None:
        """When the queue's next probe is due, in seconds since the epoch; None where none is."""
        refusals = self._queues.get(queue)
        return None if refusals is None or refusals.probing else refusals.until

    def words(self, queue: Key) -> str | None:
        """What the API server says to the queue's pods; None where it takes them, or has refused one and not the next
        yet: that one Job may be at fault, and not the queue. The words stay those of one Job while it is there, for the
        next ones name another pod."""
        refusals = self._queues.get(queue)
        return None if refusals is None or refusals.count < 2 else refusals.words

    def times_refused(self, job: Job) -> int:
        """How often its pods were refused since one of them was taken."""
        return self._jobs.get(job.uid, 0)

    def claimed(self, queue: Key) -> None:
        """A Job of the queue was claimed; while its pods are refused, that is the probe."""
        if queue in self._queues:
            self._queues[queue].probing = True

    def ended(self, queue: Key) -> None:
        """A claim came to nothing for another reason than a refused pod: the probe is free again."""
        if queue in self._queues:
            self._queues[queue].probing = False

    def accepted(self, job: Job) -> None:
        """A pod of the queue was taken: the trouble is over."""
        self._queues.pop(job.queue_key, None)
        self._jobs.pop(job.uid, None)

    def refused(self, job: Job, now: float, words: str) -> float:
        """A pod was refused, in these words; returns when its Job may try again, in seconds since the epoch."""
        refusals = self._queues.setdefault(job.queue_key, _Refusals())
        if refusals.of not in self._jobs:
            refusals.words, refusals.of = words, job.uid
        # Claims sent together are refused together: that is one refusal, not many.
        if not refusals.hold(now):
            refusals.count += 1
            refusals.since, refusals.until = now, now + _delay(refusals.count)
        refusals.probing = False
        self._jobs[job.uid] = self._jobs.get(job.uid, 0) + 1
        return refusals.until + _delay(self._jobs[job.uid])

    def forget(self, job: Job) -> None:
        """The Job is gone or has ended."""
        self._jobs.pop(job.uid, None)

    def forget_queue(self, queue: Key) -> None:
        """The queue is gone, and nobody probes for it."""
        self._queues.pop(queue, None)


def _delay(count: int) -> float:
    return min(2.0 ** min(count - 1, 16), MAX_REJECTION_DELAY_SECONDS)
