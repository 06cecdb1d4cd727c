"""What is written into a status: the condition Ready, and a change as whoever applies it understands it."""

from collections.abc import Mapping
from typing import Any

from questline_operator.core.times import format_whole_seconds

Change = Mapping[str, Any]
"""The fields of a status to set; None removes one."""
MESSAGE_LIMIT = 1_024
"""Characters of the API server's words that are kept: a webhook may say pages."""


def removes(field: str, value: object) -> bool:
    """Whether a change takes the field out of the status. A result may be null: that is what the task returned."""
    return value is None and field != "result"


def applied(status: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The status as it is once the change was written."""
    changed = {**status, **change}
    return {field: value for field, value in changed.items() if field not in change or not removes(field, value)}


def differs(status: Mapping[str, Any], change: Change) -> bool:
    """Whether the change is worth a write. A field that it removes may be absent already."""
    return any(status.get(field) != value for field, value in change.items())


def condition(
    kind: str, holds: bool, reason: str, message: str, *, generation: int, since: str | None
) -> dict[str, Any]:
    """An entry of status.conditions; ``since`` is when it last changed between True and False."""
    return {
        "type": kind,
        "status": str(holds),
        "reason": reason,
        "message": message[:MESSAGE_LIMIT],
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def ready_in(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition Ready of a status, or {} where nobody has written one."""
    return next((entry for entry in status.get("conditions", ()) if entry["type"] == "Ready"), {})


def with_ready(
    status: Mapping[str, Any], ready: bool, reason: str, message: str, *, generation: int, now: float
) -> dict[str, Any]:
    """The change that sets the condition Ready, beside whatever other conditions there are.

    Args:
        generation: the form of the spec that was looked at.
        now: seconds since the epoch; lastTransitionTime is that only where True has become False or the other way.
    """
    before = ready_in(status)
    same = before.get("status") == str(ready)
    since = (same and before.get("lastTransitionTime")) or format_whole_seconds(now)
    others = [entry for entry in status.get("conditions", ()) if entry["type"] != "Ready"]
    entry = condition("Ready", ready, reason, message, generation=generation, since=since)
    return {"conditions": [*others, entry], "observedGeneration": generation}
