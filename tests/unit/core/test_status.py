"""How a change of a status is applied, wherever that is done."""

from questline_operator.core.status import applied


def test_none_removes_a_field_and_a_null_result_is_kept() -> None:
    status = {"state": "Running", "reason": "Odd", "attempt": 2, "result": "old"}
    change = {"state": "Succeeded", "reason": None, "message": None, "result": None}
    assert applied(status, change) == {"state": "Succeeded", "attempt": 2, "result": None}
    assert status["reason"] == "Odd"
