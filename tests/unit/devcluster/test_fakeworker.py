"""The stand-in for the SDK says what the SDK would say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from devcluster.fakeworker import Behaviour, Ending, child_manifest, ended_status, ending, slug

PAYLOAD = {
    "v": 1,
    "job": {"namespace": "ns", "name": "parent", "uid": "u-1", "queue": "default", "task": "app.tasks:Send_It"},
    "attempt": 2,
}


def test_a_job_that_says_nothing_succeeds_at_once() -> None:
    behaviour = Behaviour.parse({})
    assert behaviour.seconds == 0
    assert ending(behaviour, 1, 0) == Ending(
        {"v": 1, "attempt": 1, "outcome": "Succeeded", "result": None, "children": {"total": 0, "groups": {}}}, 0
    )


def test_the_first_attempts_fail_as_often_as_asked_and_then_the_outcome_comes() -> None:
    behaviour = Behaviour.parse({"fake": {"failures": 2, "result": 5}})
    outcomes = [ending(behaviour, attempt, 0) for attempt in (1, 2, 3)]
    assert [(end.envelope or {})["outcome"] for end in outcomes] == ["Failed", "Failed", "Succeeded"]
    assert [end.exit_code for end in outcomes] == [1, 1, 0]
    assert (outcomes[0].envelope or {})["reason"] == "TaskError"
    assert "result" not in (outcomes[0].envelope or {})


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("Succeeded", 0), ("Failed", 1), ("Fatal", 1), ("Canceled", 1), ("Retry", 75), ("Snoozed", 75)],
)
def test_exit_codes_are_the_sdks(outcome: str, code: int) -> None:
    assert ending(Behaviour.parse({"fake": {"outcome": outcome}}), 1, 0).exit_code == code


def test_a_null_outcome_leaves_no_envelope() -> None:
    assert ending(Behaviour.parse({"fake": {"outcome": None, "exitCode": 3}}), 1, 0) == Ending(None, 3)


def test_a_result_that_fits_no_termination_message_is_fatal() -> None:
    end = ending(Behaviour.parse({"fake": {"result": "x" * 5000}}), 1, 0)
    assert (end.envelope or {})["reason"] == "ResultInvalid"
    assert end.exit_code == 1


@pytest.mark.parametrize(
    ("fake", "named"),
    [
        ({"secnods": 1}, "args.fake.secnods"),
        ({"seconds": -1}, "args.fake.seconds"),
        ({"children": "3"}, "args.fake.children"),
        ({"children": True}, "args.fake.children"),
        ({"outcome": "Fine"}, "args.fake.outcome"),
        (7, "args.fake"),
    ],
)
def test_a_wrong_key_is_named(fake: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Behaviour.parse({"fake": fake})


def test_a_child_has_the_name_and_the_parent_that_policies_ask_for() -> None:
    behaviour = Behaviour.parse({"fake": {"children": 3, "child": {"queue": "emails"}}})
    child = child_manifest(PAYLOAD, "0123abcd-ffff", 2, behaviour)
    assert child["metadata"] == {"name": "send-it-0123abcd-2", "namespace": "ns"}
    assert child["spec"] == {
        "task": "app.tasks:Send_It",
        "queue": "emails",
        "args": {},
        "parent": {"name": "parent", "uid": "u-1", "attempt": 2, "podUID": "0123abcd-ffff", "index": 2},
    }
    loose = child_manifest(PAYLOAD, "0123abcd-ffff", 0, Behaviour.parse({"fake": {"staged": False}}))
    assert loose["spec"]["parent"]["staged"] is False


def test_a_group_and_what_comes_after_it_are_as_the_sdks() -> None:
    fake = {"children": 2, "group": "g", "then": {"task": "m:join", "afterPolicy": "Finished"}}
    behaviour = Behaviour.parse({"fake": fake})
    specs = [child_manifest(PAYLOAD, "0123abcd-ffff", index, behaviour)["spec"] for index in range(3)]
    assert [spec["parent"].get("group") for spec in specs] == ["g", "g", None]
    assert (specs[2]["task"], specs[2]["after"], specs[2]["afterPolicy"]) == ("m:join", [{"group": "g"}], "Finished")
    assert "after" not in specs[0]
    assert (ending(behaviour, 1, 3).envelope or {})["children"] == {"total": 3, "groups": {"g": 2}}


@pytest.mark.parametrize(
    ("task", "expected"),
    [("m:send_email", "send-email"), ("m:" + "a" * 23 + "_b", "a" * 23), ("m:_x_", "x"), ("m:__", "job")],
)
def test_a_slug_is_a_dns_label_of_at_most_24_characters(task: str, expected: str) -> None:
    assert slug(task) == expected


def test_the_pod_ends_with_the_envelope_as_the_message_of_container_worker_only() -> None:
    pod = {
        "spec": {"containers": [{"name": "worker", "image": "a"}, {"name": "side", "image": "b"}]},
        "status": {"startTime": "2026-01-01T00:00:00Z"},
    }
    end = ending(Behaviour(), 1, 0)
    status = ended_status(pod, end, datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC))["status"]
    worker, side = (container["state"]["terminated"] for container in status["containerStatuses"])
    assert status["phase"] == "Succeeded"
    assert worker["message"].startswith('{"v":1,"attempt":1,"outcome":"Succeeded"')
    assert "message" not in side
    assert (worker["startedAt"], worker["finishedAt"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z")
