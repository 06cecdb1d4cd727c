"""The ticks of a cron line: its forms, its time zone, and both changes of clocks."""

import random
from datetime import datetime, timedelta
from itertools import pairwise
from time import process_time
from zoneinfo import ZoneInfo

import pytest

from questline_operator.core.schedule import CalendarError
from questline_operator.cron import next_tick

BERLIN = "Europe/Berlin"


def moment(text: str) -> float:
    """An RFC 3339 time as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def ticks(cron: str, zone: str, since: str, until: str) -> list[str]:
    """All ticks between the two, as local times."""
    found, after = [], moment(since)
    while (tick := next_tick(cron, zone, after)) is not None and tick <= moment(until):
        assert tick > after
        found.append(datetime.fromtimestamp(tick, ZoneInfo(zone)).isoformat())
        after = tick
    return found


@pytest.mark.parametrize(
    ("cron", "following"),
    [
        ("* * * * *", "2026-01-31T08:01:00Z"),
        ("*/15 * * * *", "2026-01-31T08:15:00Z"),
        ("0 0 * * *", "2026-02-01T00:00:00Z"),
        ("30 2 * * MON-FRI", "2026-02-02T02:30:00Z"),
        ("0 9 1 * *", "2026-02-01T09:00:00Z"),
        ("0 9 L * *", "2026-01-31T09:00:00Z"),
        ("0 9 LW * *", "2026-02-27T09:00:00Z"),
        ("0 9 * * MON#2", "2026-02-09T09:00:00Z"),
        ("0 9 * * 5L", "2026-02-27T09:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 0 13 * 5", "2026-02-06T00:00:00Z"),
        ("0 0 1 jan *", "2027-01-01T00:00:00Z"),
        ("0 0 * * 7", "2026-02-01T00:00:00Z"),
    ],
)
def test_a_line_ticks_next_when_it_says(cron: str, following: str) -> None:
    assert next_tick(cron, "UTC", moment("2026-01-31T08:00:30Z")) == moment(following)


def test_a_tick_is_after_the_moment_never_at_it() -> None:
    at = moment("2026-01-31T08:00:00Z")
    assert next_tick("0 8 * * *", "UTC", at) == at + 86_400
    assert next_tick("0 8 * * *", "UTC", at - 0.001) == at


def test_a_time_that_the_clocks_leave_out_is_made_up_for_at_the_end_of_the_gap() -> None:
    day = ("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z")
    assert ticks("30 2 * * *", BERLIN, *day) == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    assert ticks("0,30 2 * * *", BERLIN, *day)[0] == "2026-03-29T03:00:00+02:00"
    assert len(ticks("0,30 2 * * *", BERLIN, *day)) == 3, "two times in the gap are one tick"


def test_a_time_that_comes_twice_is_one_tick() -> None:
    day = ("2026-10-24T12:00:00Z", "2026-10-26T00:30:00Z")
    assert ticks("30 2 * * *", BERLIN, *day) == ["2026-10-25T02:30:00+02:00"]
    in_the_second_round = "2026-10-25T01:10:00Z"
    assert ticks("30 2 * * *", BERLIN, in_the_second_round, day[1]) == []


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-07-01", 24)])
def test_a_line_of_every_hour_goes_by_elapsed_time_through_a_change_of_clocks(day: str, hours: int) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(BERLIN))
    end = midnight + timedelta(days=1)
    found = ticks("0 * * * *", BERLIN, (midnight - timedelta(seconds=1)).isoformat(), end.isoformat())
    assert len(found) - 1 == hours
    stamps = [moment(text) for text in found]
    assert {later - earlier for earlier, later in pairwise(stamps)} == {3600.0}


def test_a_gap_of_half_an_hour_and_one_of_a_whole_day_are_gaps_like_any_other() -> None:
    assert ticks("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-04T00:00:00Z") == [
        "2026-10-04T02:30:00+11:00"
    ]
    assert ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z")[:2] == [
        "2011-12-29T12:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
    ]


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Asia/Kolkata", "UTC", "America/St_Johns"])
def test_a_daily_line_ticks_once_a_day_for_years(zone: str) -> None:
    """Through every change of clocks; by the local date, so that nothing here repeats what cronsim computes."""
    for time in ("0 0", "30 1", "30 2", "59 23"):
        found = ticks(f"{time} * * *", zone, "2025-12-31T12:00:00Z", "2028-01-02T12:00:00Z")
        dates = [text[:10] for text in found]
        assert len(set(dates)) == len(dates)
        first, last = datetime.fromisoformat(dates[0]), datetime.fromisoformat(dates[-1])
        assert (last - first).days + 1 == len(dates)


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "UTC"])
def test_from_any_moment_the_next_tick_is_the_same_as_by_going_on(zone: str) -> None:
    draw = random.Random(7)
    for cron in ("*/20 * * * *", "30 2 * * *", "15 1-3 * * *", "0 */3 * * SUN", "0 3 29 * *"):
        stamps = [moment(text) for text in ticks(cron, zone, "2026-03-20T00:00:00Z", "2026-04-05T00:00:00Z")]
        for _ in range(100):
            at = draw.uniform(stamps[0] - 1, stamps[-1] - 1)
            assert next_tick(cron, zone, at) == next(stamp for stamp in stamps if stamp > at), (cron, at)


@pytest.mark.parametrize("cron", ["61 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "* * * *"])
def test_a_wrong_line_is_told_with_its_value(cron: str) -> None:
    with pytest.raises(CalendarError) as refused:
        next_tick(cron, "UTC", 0.0)
    assert refused.value.reason == "CronInvalid"
    assert repr(cron) in refused.value.message


@pytest.mark.parametrize("cron", ["0 22-4 * * *", "0 0 * * FRI-MON", "0 0 31 2 *", "0 0 0 * * *", "x * * * *", ""])
def test_what_the_crd_cannot_see_is_told_as_well(cron: str) -> None:
    with pytest.raises(CalendarError):
        next_tick(cron, "UTC", 0.0)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "europe/nowhere", ""])
def test_an_unknown_time_zone_is_told_with_its_value(zone: str) -> None:
    with pytest.raises(CalendarError) as refused:
        next_tick("* * * * *", zone, 0.0)
    assert refused.value.reason == "TimeZoneUnknown"
    assert repr(zone) in refused.value.message


def test_a_line_that_never_comes_has_no_tick() -> None:
    """The last weekday of a month is no Sunday."""
    assert next_tick("0 0 LW * */7", "Europe/Berlin", 0.0) is None


CHANGES = [
    (BERLIN, "2026-03-29T01:00:00Z"),
    (BERLIN, "2026-10-25T01:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),  # by half an hour
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("America/Havana", "2026-03-08T05:00:00Z"),  # at midnight
    ("America/Havana", "2026-11-01T05:00:00Z"),
    ("Asia/Beirut", "2026-10-24T21:00:00Z"),
    ("Antarctica/Troll", "2026-03-29T01:00:00Z"),  # by two hours
    ("Antarctica/Troll", "2026-10-25T01:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),  # by a day
]


@pytest.mark.parametrize(("zone", "change"), CHANGES)
@pytest.mark.parametrize("cron", ["*/20 * * * *", "*/30 2 * * *", "*/20 0 * * *", "7 */3 * * *", "0 */2 * * SUN"])
def test_a_line_with_a_star_ticks_whenever_a_clock_of_the_zone_shows_what_it_means(
    zone: str, change: str, cron: str
) -> None:
    """Each minute of three days is looked at on a clock of the zone."""
    minutes, hours, _, _, days = cron.split()
    steps = [int(field.removeprefix("*/")) if "/" in field else None for field in (minutes, hours)]

    def is_meant(at: datetime) -> bool:
        shown = zip((at.minute, at.hour), (minutes, hours), steps, strict=True)
        fits = (value % step == 0 if step else field in ("*", str(value)) for value, field, step in shown)
        return all(fits) and (days == "*" or at.isoweekday() == 7)

    begin = moment(change) - 129_600
    clock = (datetime.fromtimestamp(begin + 60 * n, ZoneInfo(zone)) for n in range(1, 4_320))
    expected = [at.isoformat() for at in clock if is_meant(at)]
    since, until = (datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat() for at in (begin, begin + 60 * 4_319))
    assert ticks(cron, zone, since, until) == expected
    draw = random.Random(7)
    for _ in range(20):
        at = draw.uniform(begin, begin + 172_800)
        first = next((text for text in expected if moment(text) > at), None)
        assert first is None or next_tick(cron, zone, at) == moment(first), at


@pytest.mark.parametrize(("line", "zone"), [("* 2 * 3 SUN#2", "America/New_York"), ("*/15 2 * 3 0L", "Europe/Berlin")])
def test_a_line_that_means_only_the_hour_that_clocks_leave_out_is_soon_known_to_have_no_tick(
    line: str, zone: str
) -> None:
    began = process_time()
    assert next_tick(line, zone, moment("2026-01-31T08:00:00Z")) is None
    assert process_time() - began < 0.5
