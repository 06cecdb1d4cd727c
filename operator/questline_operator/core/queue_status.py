"""What a Queue's status says: how many of its Jobs stand where, and whether it lets any start (design 2)."""

from collections import Counter

from questline_operator.core.records import Queue
from questline_operator.core.states import State
from questline_operator.core.status import Change, with_ready
from questline_operator.core.world import World

ADMITTING = "Admitting"
PAUSED = "Paused"
POD_REJECTED = "PodRejected"


def queue_status(world: World, queue: Queue, refusal: str | None, now: float) -> Change:
    """The status as it should be; most of it stands there already.

    Args:
        refusal: the API server's words where it refuses the queue's pods. They should be the same ones for as long as
            it does: words that change from try to try would cost a write each.
        now: seconds since the epoch.
    """
    ended = Counter(job.state for job in world.finished_of_queue(queue.key))
    ready, reason, message = _ready(queue, refusal)
    known, generation = queue.raw.get("status", {}), queue.raw["metadata"].get("generation", 1)
    return {
        "running": world.slots_held(queue.key),
        "waiting": sum(not job.active for job in world.unfinished_of_queue(queue.key)),
        "totals": {
            "succeeded": ended[State.SUCCEEDED],
            "failed": ended[State.FAILED],
            "canceled": ended[State.CANCELED],
            "skipped": ended[State.SKIPPED],
        },
        **with_ready(known, ready, reason, message, generation=generation, now=now),
    }


def _ready(queue: Queue, refusal: str | None) -> tuple[bool, str, str]:
    """Status, reason and message of the condition Ready."""
    if queue.paused:
        return False, PAUSED, "spec.paused is true: nothing starts"
    if queue.concurrency == 0:
        return False, PAUSED, "spec.concurrency is 0: nothing starts"
    if refusal is not None:
        return False, POD_REJECTED, refusal
    return True, ADMITTING, ""
