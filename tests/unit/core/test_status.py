"""What is written into a status, and how a change of it is applied wherever that is done."""

from questline_operator.core.status import MESSAGE_LIMIT, applied, differs, ready_in, with_ready
from tests.unit.core.builders import T0, whole_time_of


def test_none_removes_a_field_and_a_null_result_is_kept() -> None:
    status = {"state": "Running", "reason": "Odd", "attempt": 2, "result": "old"}
    change = {"state": "Succeeded", "reason": None, "message": None, "result": None}
    assert applied(status, change) == {"state": "Succeeded", "attempt": 2, "result": None}
    assert status["reason"] == "Odd"


def test_ready_keeps_the_moment_of_its_last_change_and_the_conditions_of_others() -> None:
    theirs = {"type": "Audited", "status": "True"}
    first = applied({"conditions": [theirs]}, with_ready({"conditions": [theirs]}, True, "A", "", generation=1, now=T0))
    same = applied(first, with_ready(first, True, "B", "x" * 2 * MESSAGE_LIMIT, generation=2, now=T0 + 60))
    other = applied(same, with_ready(same, False, "C", "", generation=3, now=T0 + 90))
    assert [ready_in(status)["lastTransitionTime"] for status in (first, same, other)] == [
        whole_time_of(0),
        whole_time_of(0),
        whole_time_of(90),
    ]
    assert (other["observedGeneration"], other["conditions"][0]) == (3, theirs)
    assert len(ready_in(same)["message"]) == MESSAGE_LIMIT


def test_a_change_that_says_what_stands_there_is_not_worth_a_write() -> None:
    status = with_ready({}, True, "PodAccepted", "", generation=1, now=T0)
    assert not differs(status, with_ready(status, True, "PodAccepted", "", generation=1, now=T0 + 60))
    assert differs(status, with_ready(status, True, "PodAccepted", "", generation=2, now=T0 + 60))
