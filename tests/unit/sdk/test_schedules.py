"""`questline.schedule`: what a declaration becomes, and what it refuses."""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import questline
from questline import Backoff, OptionInvalid, Schedule, job, schedules
from questline.task import Call
from tests.unit.sdk.apiserver import ApiServer
from tests.unit.sdk.apps.shop import nothing, resize, send_email

CRD = Path(__file__).parents[3] / "crds" / "questschedules.yaml"


@pytest.fixture(autouse=True)
def _no_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "_declared", [])


def declare(name: str = "nightly", /, **values: Any) -> Schedule:
    return questline.schedule(name, **{"cron": "30 2 * * *", "job": nothing.call(), **values})


def test_a_declaration_is_a_spec_of_the_api() -> None:
    declared = declare(
        "nightly-report",
        cron="30 2 * * MON-FRI",
        time_zone="Europe/Berlin",
        overlap="Forbid",
        catch_up="1h",
        suspend=True,
        job=resize.options(priority=3).call("p1", width=64),
    )
    assert declared.name == "nightly-report"
    assert declared.spec == {
        "cron": "30 2 * * MON-FRI",
        "timeZone": "Europe/Berlin",
        "overlap": "Forbid",
        "catchUpSeconds": 3_600,
        "suspend": True,
        "job": {
            "task": "tests.unit.sdk.apps.shop:resize",
            "queue": "media",
            "maxAttempts": 3,
            "timeoutSeconds": 600,
            "priority": 3,
            "args": {"picture": "p1", "width": 64},
        },
    }


def test_what_is_not_declared_has_the_apis_defaults_and_suspend_is_left_alone() -> None:
    assert declare().spec | {"job": {}} == {
        "cron": "30 2 * * *",
        "timeZone": "UTC",
        "overlap": "Allow",
        "catchUpSeconds": 0,
        "job": {},
    }


@pytest.mark.parametrize(
    "call",
    [
        nothing.call(),
        resize.options(worker="big", image="registry/app:1", ttl="1h", concurrency_key="k").call("p1"),
        send_email.call("m:1", "r"),
        resize.options(unique=True, backoff=Backoff(base="30s", jitter=0.0)).call("ä", width=2**40),
    ],
    ids=lambda call: call.task.__name__,
)
def test_the_job_is_what_an_enqueue_outside_an_attempt_sends(in_pod: ApiServer, call: Call[Any]) -> None:
    declared = declare(job=call)
    questline.enqueue_many([call])
    (sent,) = in_pod.posts()
    assert json.dumps(declared.spec["job"]) == json.dumps(sent.body["spec"])


def test_the_crd_knows_every_field_that_a_declaration_can_have() -> None:
    """The API server would drop the others without a word."""
    full = resize.options(
        worker="big",
        image="registry/app:1",
        max_attempts=3,
        backoff=Backoff(base=1, max=2),
        timeout=1,
        priority=1,
        ttl=1,
        unique=("picture",),
        window=1,
        concurrency_key="k",
    )
    spec = declare(suspend=False, job=full.call("p")).spec
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
        if isinstance(value, dict) and "properties" in schema:
            for name, part in value.items():
                if name not in schema["properties"]:
                    yield f"{path}.{name}"
                else:
                    yield from unknown(part, schema["properties"][name], f"{path}.{name}")

    assert list(unknown(spec, schema["properties"]["spec"], "spec")) == []
    assert {"unique", "key", "backoff", "image", "worker"} <= set(spec["job"])


def test_a_schedule_is_of_the_module_and_line_that_declare_it() -> None:
    first, second = questline.schedule("a", cron="* * * * *", job=nothing.call()), declare("b")
    assert (first.module, second.module) == (__name__, __name__)
    assert first.line != second.line
    assert schedules.declared() == [first, second]
    assert repr(first) == f"<schedule a of {__name__}, line {first.line}>"


def test_spaces_between_the_fields_are_one_each() -> None:
    assert declare(cron=" 30  2 *\t* * ").spec["cron"] == "30 2 * * *"


class Strange:
    def __repr__(self) -> str:
        return "<strange>"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cron": "* * *"}, "schedule nightly: cron is '* * *': five fields are needed"),
        ({"cron": "0 0 0 * * *"}, "schedule nightly: cron is '0 0 0 * * *': five fields are needed"),
        ({"cron": "@daily"}, "schedule nightly: cron is '@daily': five fields are needed"),
        ({"cron": f"{'1,' * 70}1 * * * *"}, "five fields are needed, at most 128 characters"),
        ({"cron": 5}, "schedule nightly: cron is 5: five fields are needed"),
        ({"time_zone": "Europe Berlin"}, "time_zone is 'Europe Berlin': the name of an IANA time zone is needed"),
        ({"time_zone": "+01:00"}, "time_zone is '+01:00': the name of an IANA time zone is needed"),
        ({"time_zone": None}, "time_zone is None: the name of an IANA time zone is needed"),
        ({"time_zone": "Mars/Olympus"}, "time_zone is 'Mars/Olympus': the IANA database has none of that name"),
        ({"time_zone": "Europe"}, "time_zone is 'Europe': the IANA database has none of that name"),
        ({"overlap": "forbid"}, "schedule nightly: overlap is 'forbid': Allow, Forbid or Replace is needed"),
        ({"overlap": ["Allow"]}, "schedule nightly: overlap is ['Allow']: Allow, Forbid or Replace is needed"),
        ({"catch_up": "soon"}, "schedule nightly: catch_up is 'soon': give seconds, a text like \"1h30m\""),
        ({"catch_up": "8d"}, "schedule nightly: catch_up is '8d': 0 to 604,800 seconds are allowed"),
        ({"catch_up": 1.5}, "schedule nightly: catch_up is 1.5: it counts whole seconds"),
        ({"suspend": 1}, "schedule nightly: suspend is 1: True or False is needed, or leave it out"),
        ({"job": nothing}, "schedule nightly: job is <task tests.unit.sdk.apps.shop:nothing>: the call of a task"),
        (
            {"job": Strange()},
            "schedule nightly: job is <strange>: the call of a task is needed, as write_report.call()",
        ),
        (
            {"job": nothing.options(delay="1h").call()},
            "schedule nightly: delay of tests.unit.sdk.apps.shop:nothing is 3600.0: the cron line says when it runs; "
            "take it back with .options(delay=None)",
        ),
        ({"job": nothing.options(delay=0).call()}, "delay of tests.unit.sdk.apps.shop:nothing is 0.0"),
        (
            {"job": nothing.options(run_at=datetime(2030, 1, 1, tzinfo=UTC)).call()},
            "take it back with .options(run_at=",
        ),
        ({"job": nothing.options(name="one").call()}, "each tick's Job has a name of its own"),
        ({"job": nothing.options(group="g").call()}, "groups are of an attempt's children"),
        ({"job": nothing.options(stage=False).call()}, "take it back with .options(stage=True)"),
    ],
)
def test_what_is_wrong_is_told_where_it_is_declared_and_not_kept(values: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionInvalid) as refused:
        declare(**values)
    assert said in str(refused.value)
    assert schedules.declared() == []


@pytest.mark.parametrize("name", ["Nightly", "night_ly", "-n", "n-", "", "n" * 64, "a.b", 3])
def test_a_name_that_the_api_would_refuse_is_told(name: Any) -> None:
    with pytest.raises(OptionInvalid, match="a name of a-z, 0-9 and '-' is needed, at most 63 characters"):
        declare(name)
    assert declare("n" * 63).name == "n" * 63


def test_a_duration_is_as_everywhere() -> None:
    assert declare(catch_up=timedelta(minutes=5)).spec["catchUpSeconds"] == 300
    assert declare(catch_up=90).spec["catchUpSeconds"] == 90


def test_where_there_are_no_time_zones_or_a_task_runs_the_operator_is_left_to_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image with older time zones must not fail its tasks."""
    monkeypatch.setenv("QUESTLINE_PAYLOAD", "/questline/job.json")
    assert declare(time_zone="Mars/Olympus").spec["timeZone"] == "Mars/Olympus"
    monkeypatch.delenv("QUESTLINE_PAYLOAD")

    def none(name: str) -> Any:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", none)
    assert declare(time_zone="Mars/Olympus").spec["timeZone"] == "Mars/Olympus"


@job(delay="1h")
def later() -> None: ...


def test_an_option_of_the_decorator_counts_and_can_be_taken_back() -> None:
    with pytest.raises(OptionInvalid, match="delay of"):
        declare(job=later.call())
    assert "runAt" not in declare(job=later.options(delay=None).call()).spec["job"]
