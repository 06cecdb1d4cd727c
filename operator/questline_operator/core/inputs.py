"""What a Job waited for, as its attempts are told it: how all of it ended, and the first results (design 4)."""

from collections import Counter
from typing import Any

from questline_operator.core.canonical import compact_size
from questline_operator.core.dependencies import deleted_of_group, members_of
from questline_operator.core.records import Job, Json
from questline_operator.core.states import State
from questline_operator.core.world import World

MAX_JOBS = 50
MAX_BYTES = 64 * 1024
"""Of compact UTF-8 JSON, the whole of it."""
_SUMMARY = {
    State.SUCCEEDED: "succeeded",
    State.SKIPPED: "skipped",
    State.CANCELED: "canceled",
}


def inputs_of(world: World, job: Job) -> Json | None:
    """``{summary, jobs, truncated}``, or None for a Job that waits for nothing.

    Each Job counts once, in the order of `after`; a Duplicate has its original's state and result; one that was deleted
    counts as canceled and is not among the jobs. ``truncated``: jobs has the first ones alone, because of its bounds.
    """
    if not job.after:
        return None
    members: dict[str, Job] = {}
    deleted = 0
    for dependency in job.after:
        named = members_of(world, job, dependency)
        members.update((member.uid, member) for member in named)
        missing = int(dependency.kind == "job" and not named)
        deleted += missing or deleted_of_group(world, job, dependency)
    ended = Counter(_SUMMARY.get(_state(world, member), "failed") for member in members.values())
    summary = {
        "total": len(members) + deleted,
        "succeeded": ended["succeeded"],
        "failed": ended["failed"],
        "skipped": ended["skipped"],
        "canceled": ended["canceled"] + deleted,
    }
    inputs: dict[str, Any] = {"summary": summary, "jobs": [], "truncated": False}
    room = MAX_BYTES - compact_size(inputs)
    for member in members.values():
        entry = _entry(world, member)
        room -= compact_size(entry) + 1
        if room < 0 or len(inputs["jobs"]) == MAX_JOBS:
            inputs["truncated"] = True
            break
        inputs["jobs"].append(entry)
    return inputs


def _state(world: World, member: Job) -> State:
    original = world.original_of(member)
    return State.SUCCEEDED if original.succeeded_attempts else original.state


def _entry(world: World, member: Job) -> Json:
    original = world.original_of(member)
    state = _state(world, member)
    result = original.status.get("result") if state is State.SUCCEEDED else None
    return {"name": member.name, "task": member.spec.get("task"), "state": state, "result": result}
