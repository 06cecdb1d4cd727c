from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from questline import Backoff, OptionInvalid, job
from questline.options import Options
from tests.unit.sdk.apps.shop import nothing, resize, send_email


def spec(**values: Any) -> dict[str, Any]:
    return Options().replaced(values).spec()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"worker": "gpu.large"}, {"worker": "gpu.large"}),
        ({"image": "registry.example/a:1"}, {"image": "registry.example/a:1"}),
        ({"max_attempts": 7}, {"maxAttempts": 7}),
        ({"timeout": "1h30m"}, {"timeoutSeconds": 5400}),
        ({"priority": -3}, {"priority": -3}),
        ({"ttl": timedelta(days=1)}, {"ttlSecondsAfterFinished": 86_400}),
        ({"ttl": 0}, {"ttlSecondsAfterFinished": 0}),
        ({"max_attempts": None, "worker": None}, {}),
    ],
)
def test_an_option_becomes_its_field_of_the_spec(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert spec(**values) == {"queue": "default", **expected}


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (Backoff(base="2s", max="1m"), {"type": "Exponential", "baseSeconds": 2, "maxSeconds": 60, "jitter": 0.5}),
        (Backoff(type="Fixed", base=5, jitter=0), {"type": "Fixed", "baseSeconds": 5, "jitter": 0}),
        (Backoff(base="2h"), {"type": "Exponential", "baseSeconds": 7200, "maxSeconds": 7200, "jitter": 0.5}),
        ({"type": "Fixed", "baseSeconds": 1}, {"type": "Fixed", "baseSeconds": 1}),
        ("30s", {"baseSeconds": 30}),
    ],
)
def test_a_backoff_is_given_whole_as_a_mapping_or_as_its_first_delay(backoff: Any, expected: dict[str, Any]) -> None:
    assert spec(backoff=backoff)["backoff"] == expected


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("queue", "E-Mails", "a-z"),
        ("queue", "a" * 64, "63"),
        ("worker", "", "a Worker"),
        ("image", "not an image", "container image"),
        ("max_attempts", 0, "1 to 100"),
        ("max_attempts", 101, "1 to 100"),
        ("max_attempts", True, "1 to 100"),
        ("max_attempts", "3", "1 to 100"),
        ("timeout", "0s", "1 to"),
        ("timeout", "soon", "1h30m"),
        ("delay", -1, "0 to"),
        ("delay", "400d", "0 to"),
        ("run_at", "tomorrow", "datetime"),
        ("run_at", datetime(2030, 1, 1), "time zone"),  # noqa: DTZ001
        ("run_at", datetime(3000, 1, 1, tzinfo=UTC), "a year"),
        ("priority", 1001, "-1000 to 1000"),
        ("priority", 1.5, "an integer"),
        ("ttl", "-1s", "1h30m"),
        ("unique", (), "parameters"),
        ("unique", 3, "True"),
        ("window", "2y", "1h30m"),
        ("window", "366d", "1 to 31,536,000"),
        ("concurrency_key", "", "253"),
        ("concurrency_key", "k" * 254, "253"),
        ("name", "Upload", "a-z"),
        ("name", "a" * 51, "50"),
        ("stage", "no", "True or False"),
        ("backoff", Backoff(base="2d"), "0 to 86,400"),
        ("backoff", Backoff(base=10, max=5), "backoff.max"),
        ("backoff", Backoff(type="Linear"), "Exponential or Fixed"),
        ("backoff", Backoff(jitter=2), "0 to 1"),
        ("backoff", {"bas": 1}, "no such field"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_option_value_and_what_is(
    name: str, value: object, needed: str
) -> None:
    with pytest.raises(OptionInvalid) as refusal:
        Options().replaced({name: value})
    assert name in str(refusal.value)
    assert needed in str(refusal.value)


def test_bad_options_are_refused_where_the_task_is_decorated() -> None:
    with pytest.raises(OptionInvalid, match="timeout is 'soon'"):
        job(timeout="soon")(nothing.__wrapped__)
    with pytest.raises(OptionInvalid, match="there is no option 'que'; there are queue, worker"):
        job(que="x")(nothing.__wrapped__)  # type: ignore[call-overload]
    with pytest.raises(OptionInvalid, match=r"unique names 'mesage', which is no parameter .* message_id, recipient"):
        job(unique=("mesage",))(send_email.__wrapped__)
    with pytest.raises(OptionInvalid, match=r"retry_on is .*: a class of exceptions is needed"):
        job(retry_on=ValueError())(nothing.__wrapped__)  # type: ignore[call-overload]


def test_a_window_needs_unique() -> None:
    with pytest.raises(OptionInvalid, match="window is 86400 seconds: it needs unique"):
        nothing.options(window="1d")
    assert nothing.options(unique=True, window="1d").call().spec()["unique"] == {
        "scope": "Window",
        "windowSeconds": 86_400,
    }


def test_options_are_immutable_and_leave_the_task_as_it_was() -> None:
    urgent = resize.options(priority=100, queue="urgent")
    assert urgent.call("a").spec() == {**resize.call("a").spec(), "priority": 100, "queue": "urgent"}
    assert "priority" not in resize.call("a").spec()
    assert urgent.name == resize.name
    assert urgent("a") == "a-320"
    assert urgent.options(priority=None or 0).call("a").spec()["queue"] == "urgent"


def test_run_at_is_the_moment_in_utc_whatever_its_zone() -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert spec(run_at=moment)["runAt"] == "2030-01-02T01:04:05.000000Z"


def test_a_delay_counts_from_the_enqueue() -> None:
    call = nothing.options(delay="1h").call()
    before = datetime.now(UTC)
    run_at = datetime.fromisoformat(call.spec()["runAt"])
    assert timedelta(0) <= run_at - before - timedelta(hours=1) < timedelta(seconds=10)


def test_the_later_of_delay_and_run_at_takes_the_others_place() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(OptionInvalid, match="delay and run_at are both given"):
        nothing.options(delay=1, run_at=moment)
    assert nothing.options(delay=1).options(run_at=moment).call().spec()["runAt"].startswith("2030-01-01T00:00:00")
    assert not nothing.options(run_at=moment).options(delay=1).call().spec()["runAt"].startswith("2030-01-01")


def test_a_concurrency_key_is_the_jobs_key() -> None:
    assert nothing.options(concurrency_key="customer 7").call().spec()["key"] == "customer 7"
    assert "key" not in nothing.call().spec()


def test_every_bound_is_that_of_the_api() -> None:
    crd = yaml.safe_load((Path(__file__).parents[3] / "crds" / "questjobs.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    limits = {
        "max_attempts": schema["maxAttempts"],
        "timeout": schema["timeoutSeconds"],
        "ttl": schema["ttlSecondsAfterFinished"],
        "priority": schema["priority"],
        "window": schema["unique"]["properties"]["windowSeconds"],
    }
    for name, bounds in limits.items():
        for value in (bounds["minimum"], bounds["maximum"]):
            Options().replaced({name: value, "unique": True})
        for value in (bounds["minimum"] - 1, bounds["maximum"] + 1):
            with pytest.raises(OptionInvalid, match=name):
                Options().replaced({name: value, "unique": True})
    assert set(
        spec(run_at=datetime.now(UTC), worker="w", image="i", max_attempts=1, backoff=1, timeout=1, ttl=1)
    ) <= set(schema)
