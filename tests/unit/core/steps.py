"""Asking for a Job's next step, and reading the answer."""

from typing import Any

from questline_operator.core.decide import Step, WriteStatus, next_step
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Queue, Worker
from tests.unit.core.builders import EPOCH, T0, a_job, a_queue, a_worker, a_world

RUNNING = a_job(state="Running", attempt=1)
Record = Job | Pod | Queue | Worker


def step(job: Job, *others: Record, now: float = 2.0, bare: bool = False) -> Step:
    """The Job's next step in a world of a ready Worker, a Queue of ten slots, and the other records."""
    standard: list[Record] = [] if bare else [a_queue(), a_worker()]
    return next_step(a_world(*standard, job, *others), job, T0 + now, epoch=EPOCH)


def written(found: Step) -> dict[str, Any]:
    assert isinstance(found, WriteStatus), found
    return dict(found.change)


def read_before(found: Step) -> Pod | Worker | None:
    """The record that is read again before the step writes."""
    assert isinstance(found, WriteStatus), found
    return found.because_of


def ends(found: Step) -> tuple[str, str | None]:
    """The state and the reason that the step writes."""
    change = written(found)
    return str(change["state"]), change["reason"]
