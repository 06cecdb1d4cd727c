"""Schedules in a test: the core's own ticks, in the cluster's time."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from questline import MissingDependency, OptionInvalid, Schedule, schedule, schedules
from questline import testing as kit
from tests.unit.testing import shop
from tests.unit.testing.conftest import START


def test_every_tick_makes_one_job(cluster: kit.Cluster) -> None:
    cluster.schedule("report", "*/15 * * * *", shop.nothing.call("x"))
    cluster.advance("1h1m")
    assert shop.log == ["x"] * 4
    first = cluster.jobs()[0]
    assert first.created_at == START + timedelta(minutes=15)
    assert first.manifest["metadata"]["labels"] == {"questline.dev/schedule": "report"}
    assert cluster.now == START + timedelta(minutes=61)


def test_a_schedule_is_no_reason_for_drain_to_go_on_and_ticks_while_others_are(cluster: kit.Cluster) -> None:
    cluster.schedule("report", "* * * * *", shop.nothing)
    assert cluster.drain() == []
    assert cluster.now == START
    shop.echo.options(delay="150s").enqueue(1)
    cluster.drain()
    assert len(cluster.jobs(shop.nothing)) == 2


def test_no_tick_is_passed_over_where_a_queue_is_made_at_its_first_need() -> None:
    with kit.cluster(now=START, max_running_pods=1) as cluster:
        cluster.schedule("report", "*/10 * * * *", shop.nothing)
        shop.takes.options(timeout="2h").enqueue("1h")
        shop.echo.options(queue="new", delay="15m").enqueue(1)
        cluster.advance("2h")
        made = [job.created_at for job in cluster.jobs(shop.nothing)]
        assert made == [START + timedelta(minutes=10 * n) for n in range(1, 13)]


def test_a_time_zone_is_kept() -> None:
    with kit.cluster(now=datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin"))) as cluster:
        cluster.schedule("report", "30 2 * * *", shop.nothing, time_zone="Europe/Berlin")
        cluster.advance("3d")
        made = [job.created_at.astimezone(ZoneInfo("Europe/Berlin")).strftime("%d %H:%M") for job in cluster.jobs()]
        assert made == ["29 03:00", "30 02:30", "31 02:30"]


@pytest.mark.parametrize(
    ("overlap", "states"),
    [
        ("Allow", ["Succeeded", "Succeeded", "Succeeded", "Running"]),
        ("Forbid", ["Succeeded", "Succeeded"]),
        ("Replace", ["Canceled", "Canceled", "Canceled", "Running"]),
    ],
)
def test_overlap_is_what_the_schedule_says(cluster: kit.Cluster, overlap: str, states: list[str]) -> None:
    cluster.schedule("report", "*/10 * * * *", shop.takes.options(timeout="1h").call("11m"), overlap=overlap)
    cluster.advance("42m")
    assert [job.state for job in cluster.jobs()] == states
    assert {job.reason for job in cluster.jobs(state="Canceled")} <= {"Replaced"}


def test_a_suspended_schedule_makes_none_and_goes_on_when_it_is_no_more(cluster: kit.Cluster) -> None:
    cluster.schedule("report", "*/10 * * * *", shop.nothing, suspend=True)
    cluster.advance("1h")
    assert cluster.jobs() == []
    cluster.schedule("report", "*/10 * * * *", shop.nothing)
    cluster.advance("10m")
    assert len(cluster.jobs()) == 1


def test_a_manifest_of_a_schedule_ticks(cluster: kit.Cluster) -> None:
    spec: dict[str, Any] = {"cron": "0 9 * * *", "job": {"task": shop.nothing.name, "args": {"label": "daily"}}}
    cluster.apply({"kind": "Schedule", "metadata": {"name": "daily"}, "spec": spec})
    cluster.advance("2d")
    assert shop.log == ["daily"] * 2


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("61 * * * *", "UTC", "Schedule report: spec.cron '61 .*' cannot be read"),
        ("0 0 31 2 *", "UTC", "Schedule report: .*"),
    ],
)
def test_a_line_that_cannot_tick_is_refused(cluster: kit.Cluster, cron: str, zone: str, said: str) -> None:
    with pytest.raises(kit.KitError, match=said):
        cluster.schedule("report", cron, shop.nothing, time_zone=zone)
    cluster.advance("1h")
    assert cluster.jobs() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlap": "Never"}, "overlap is 'Never': Allow, Forbid or Replace is needed"),
        ({"name": "Report"}, "schedule's name is 'Report'"),
        ({"cron": "* * *"}, r"cron is '\* \* \*': five fields are needed"),
        ({"cron": None}, "cron is None: five fields are needed"),
        ({"time_zone": "Europe/Atlantis"}, "time_zone is 'Europe/Atlantis': the IANA database has none"),
        ({"catch_up": "8d"}, "catch_up is '8d': 0 to 604,800 seconds are allowed"),
        ({"suspend": "yes"}, "suspend is 'yes': True or False is needed"),
        ({"what": shop.nothing.options(delay=1)}, "delay of .*nothing is 1.*: the cron line says when it runs"),
        ({"what": print}, "job is <built-in function print>: the call of a task is needed"),
    ],
)
def test_what_a_declared_schedule_cannot_be_is_refused_here_too(
    cluster: kit.Cluster, settings: dict[str, Any], said: str
) -> None:
    schedule: Any = cluster.schedule
    with pytest.raises(OptionInvalid, match=said):
        schedule(**{"name": "report", "cron": "* * * * *", "what": shop.nothing, **settings})
    cluster.advance("1h")
    assert cluster.jobs() == []


@pytest.fixture
def nightly(monkeypatch: pytest.MonkeyPatch) -> Schedule:
    monkeypatch.setattr(schedules, "_declared", [])
    call = shop.nothing.options(priority=3).call("nightly")
    return schedule("nightly", cron="30 2 * * *", job=call, time_zone="Europe/Berlin", catch_up="1h")


def test_a_declared_schedule_ticks_as_it_is_declared(cluster: kit.Cluster, nightly: Schedule) -> None:
    cluster.schedule(nightly)
    cluster.advance("2d")
    assert [(job.created_at.strftime("%H:%M"), job.args, job.priority) for job in cluster.jobs()] == [
        ("01:30", {"label": "nightly"}, 3)
    ] * 2


def test_a_declared_schedule_is_taken_as_it_is(cluster: kit.Cluster, nightly: Schedule) -> None:
    define: Any = cluster.schedule
    with pytest.raises(OptionInvalid, match="schedule nightly is declared with all it has: leave cron out"):
        define(nightly, "* * * * *")
    with pytest.raises(OptionInvalid, match="leave overlap out"):
        define(nightly, overlap="Forbid")


def test_a_schedule_of_the_kit_is_not_declared_for_apply(cluster: kit.Cluster, nightly: Schedule) -> None:
    cluster.schedule("report", "* * * * *", shop.nothing)
    assert schedules.declared() == [nightly]


def test_without_cronsim_it_says_what_to_install(cluster: kit.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    monkeypatch.delitem(sys.modules, "questline_operator.cron", raising=False)
    with pytest.raises(MissingDependency, match=r"Schedules need cronsim, .*: pip install 'questline\[testing\]'"):
        cluster.schedule("report", "* * * * *", shop.nothing)
    shop.nothing.enqueue("the rest works")
    assert len(cluster.drain()) == 1
