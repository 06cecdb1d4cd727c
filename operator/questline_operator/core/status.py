"""How a change of a status is applied, whoever does it: the API server by a JSON Patch, or the test kit in memory."""

from collections.abc import Mapping
from typing import Any

from questline_operator.core.records import Json


def removes(field: str, value: object) -> bool:
    """Whether a change takes the field out of the status. A result may be null: that is what the task returned."""
    return value is None and field != "result"


def applied(status: Json, change: Mapping[str, Any]) -> dict[str, Any]:
    """The status as it is once the change was written."""
    changed = {**status, **change}
    return {field: value for field, value in changed.items() if field not in change or not removes(field, value)}
