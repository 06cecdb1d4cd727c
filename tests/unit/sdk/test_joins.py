"""Groups and joins: what the SDK sends, counts and tells, and what a joined task is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from questline import (
    DefinitionError,
    EnqueueError,
    EnqueueRefused,
    NotInAttempt,
    OptionInvalid,
    fan_out,
    join,
)
from questline.attempt import Attempt
from questline.children import Children
from questline.envelope import ENVELOPE_LIMIT, RESULT_LIMIT, Ending, envelope_of
from questline.task import compact
from tests.unit.sdk.apiserver import ApiServer, Fault
from tests.unit.sdk.apps.shop import nothing, resize, send_email
from tests.unit.sdk.processes import Ended, payload

Spec = dict[str, Any]


def specs(server: ApiServer) -> dict[str, Spec]:
    return {name: job["spec"] for (_, name), job in server.jobs.items()}


def groups_of(server: ApiServer) -> list[str | None]:
    return [spec["parent"].get("group") for spec in specs(server).values()]


def test_what_follows_a_fan_out_waits_for_its_group(attempt: Attempt, in_pod: ApiServer) -> None:
    handle = fan_out(resize.call(str(n)) for n in range(3)).then(nothing.call())

    spec = specs(in_pod)[handle.name]
    assert groups_of(in_pod) == ["fan-out-1"] * 3 + [None]
    assert spec["after"] == [{"group": "fan-out-1"}]
    assert "afterPolicy" not in spec
    assert spec["parent"]["index"] == 3
    assert attempt._children.groups == {"fan-out-1": 3}


def test_each_fan_out_is_a_group_of_its_own_and_only_those_waited_for_are_told(
    attempt: Attempt, in_pod: ApiServer
) -> None:
    for _ in range(40):
        fan_out([resize.call("a")])
    last = fan_out([resize.call("b"), resize.call("c")])

    last.then(nothing.call(), policy="Finished")

    assert last.groups == ("fan-out-41",)
    assert attempt._children.groups == {"fan-out-41": 2}
    assert list(specs(in_pod).values())[-1]["afterPolicy"] == "Finished"


def test_a_group_of_the_tasks_own_is_not_that_of_a_fan_out(attempt: Attempt, in_pod: ApiServer) -> None:
    resize.options(group="fan-out-1").enqueue("a")

    handle = fan_out([resize.call("b")]).then(nothing.call())

    assert specs(in_pod)[handle.name]["after"] == [{"group": "fan-out-2"}]
    assert attempt._children.groups == {"fan-out-1": 1, "fan-out-2": 1}


def test_an_empty_fan_out_has_a_group_too(attempt: Attempt, in_pod: ApiServer) -> None:
    handle = fan_out([]).then(nothing.call())

    assert specs(in_pod)[handle.name]["after"] == [{"group": "fan-out-1"}]
    assert attempt._children.groups == {"fan-out-1": 0}


def test_a_group_of_a_name_takes_children_from_anywhere(attempt: Attempt, in_pod: ApiServer) -> None:
    mails = resize.options(group="mails")
    mails.enqueue("a")
    both = fan_out([mails.call("b"), resize.call("c")])

    handle = join(nothing.call(), "mails")
    other = both.then(nothing.call())

    assert specs(in_pod)[handle.name]["after"] == [{"group": "mails"}]
    assert specs(in_pod)[other.name]["after"] == [{"group": "mails"}, {"group": "fan-out-1"}]
    assert attempt._children.groups == {"mails": 2, "fan-out-1": 1}


def test_a_join_waits_for_jobs_and_trees_and_other_joins(attempt: Attempt, in_pod: ApiServer) -> None:
    first = resize.enqueue("a")
    left = fan_out([resize.call("b")]).then(nothing.options(group="joins").call())

    handle = join(nothing.call(), first, "joins", trees=[left], policy="Finished")

    assert specs(in_pod)[handle.name]["after"] == [{"job": first.name}, {"group": "joins"}, {"tree": left.name}]


def test_a_join_outside_an_attempt_waits_for_jobs_and_trees_alone(in_pod: ApiServer) -> None:
    first, second = resize.enqueue("a"), resize.enqueue("b")

    handle = join(nothing.call(), first, trees=[second])

    assert specs(in_pod)[handle.name]["after"] == [{"job": first.name}, {"tree": second.name}]
    with pytest.raises(NotInAttempt):
        join(nothing.call(), "mails")
    with pytest.raises(OptionInvalid, match="group is 'mails': groups are of an attempt's children"):
        resize.options(group="mails").enqueue("a")


def test_a_key_in_two_groups_is_two_jobs_and_in_one_is_one(attempt: Attempt, in_pod: ApiServer) -> None:
    """The operator lets one of them run; the other counts as that one."""
    twice = fan_out([send_email.call("m", "a"), send_email.call("m", "a")])
    again = fan_out([send_email.call("m", "a")])

    assert twice[0].name == twice[1].name != again[0].name
    again.then(nothing.call())
    twice.then(nothing.call())
    assert attempt._children.groups == {"fan-out-2": 1, "fan-out-1": 1}


def test_a_refused_child_is_of_no_group(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.append(Fault(status=422, reason="Invalid", message="no"))
    with pytest.raises(EnqueueRefused):
        resize.options(group="g").enqueue("a")

    assert attempt._children.groups == {"g": 0}


@pytest.mark.parametrize("name", ["", "Mails", "a b", "x" * 41, "-a", 3])
def test_a_group_has_a_name_that_fits_into_a_report(attempt: Attempt, in_pod: ApiServer, name: Any) -> None:
    with pytest.raises(OptionInvalid, match=r"group is .*: a name of a-z, 0-9 and '-' is needed, at most 40"):
        resize.options(group=name)
    if name != 3:
        with pytest.raises(OptionInvalid):
            join(nothing.call(), name)
    assert attempt._children.groups == {}


def test_a_join_of_nothing_or_of_too_much_is_refused(attempt: Attempt, in_pod: ApiServer) -> None:
    with pytest.raises(DefinitionError, match="join\\(\\) waits for 0 things, 1 to 64 are allowed"):
        join(nothing.call())
    with pytest.raises(DefinitionError, match="waits for 65 things"):
        join(nothing.call(), *[resize.enqueue("a")] * 65)
    with pytest.raises(OptionInvalid, match="policy is 'Always': Succeeded or Finished is needed"):
        join(nothing.call(), "g", policy="Always")  # type: ignore[arg-type]
    assert attempt._children.groups == {}


def test_a_seventeenth_group_is_refused_and_says_what_to_do() -> None:
    children = Children()
    children.tell_groups(f"g{n}" for n in range(16))
    children.tell_groups(["g3"])

    with pytest.raises(EnqueueError, match=r"16 groups of children .* 'one-more' would be one more: let each child"):
        children.tell_groups(["one-more"])

    assert len(children.groups) == 16


def test_the_largest_result_and_all_groups_fit_into_one_envelope() -> None:
    groups = {f"{n:02}" + "x" * 38: 10_000 for n in range(16)}
    result = "x" * (RESULT_LIMIT - 2)

    envelope = envelope_of(Ending("Succeeded", 0, result=result), 2**31 - 1, 10_000, groups)

    assert envelope["children"] == {"total": 10_000, "groups": groups}
    assert envelope["result"] == result
    assert len(compact(envelope)) <= ENVELOPE_LIMIT


def test_the_outcome_tells_how_many_each_group_has(run_task: Callable[..., Ended], api: ApiServer) -> None:
    ended = run_task("outcomes:joined", {"count": 5}, api=api)

    assert ended.envelope["children"] == {"total": 6, "groups": {"fan-out-1": 5}}


def test_a_joined_task_is_told_how_all_ended_and_the_results_by_task() -> None:
    jobs = [
        {"name": "a", "task": resize.name, "state": "Succeeded", "result": "a-320px"},
        {"name": "b", "task": resize.name, "state": "Failed", "result": None},
        {"name": "c", "task": "other:task", "state": "Succeeded", "result": 3},
        {"name": "d", "task": resize.name, "state": "Succeeded", "result": "d-320px"},
    ]
    summary = {"total": 4, "succeeded": 3, "failed": 1, "skipped": 0, "canceled": 0}
    inputs = {"summary": summary, "jobs": jobs, "truncated": False}

    attempt = Attempt(payload("x:y", inputs=inputs))

    assert attempt.inputs == inputs
    assert attempt.results(resize) == ["a-320px", "d-320px"]
    assert attempt.results(nothing) == []
    assert Attempt(payload("x:y")).results(resize) == []
