"""The ticks of a cron line, by cronsim and the time zones of the tzdata package or the system."""

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from questline_operator.core.schedule import CalendarError

DAY_SECONDS = 86_400.0
HORIZON_SECONDS = 50 * 366 * DAY_SECONDS


def next_tick(cron: str, time_zone: str, after: float) -> float | None:
    """The first tick after that moment, both in seconds since the epoch; None where there is none in 50 years.

    As Debian's cron does it: a line with fixed times makes up for a time that a change of clocks leaves out, at the end
    of the gap, and takes one that comes twice once. Where minute or hour begins with a star, elapsed time counts.

    Raises:
        CalendarError: the line or the zone cannot be read.
    """
    zone = _zone(time_zone)
    fields = cron.split()
    if len(fields) != 5:
        raise CalendarError("CronInvalid", f"spec.cron {cron!r} has {len(fields)} fields, five are needed")
    try:
        if zone is not UTC and (fields[0].startswith("*") or fields[1].startswith("*")):
            return _by_elapsed_time(cron, zone, after)
        return _first(cron, zone, after)
    except CronSimError as error:
        raise CalendarError("CronInvalid", f"spec.cron {cron!r} cannot be read: {error}") from None


def _first(cron: str, zone: tzinfo, after: float) -> float | None:
    for tick in CronSim(cron, datetime.fromtimestamp(after, zone)):
        # An hour that comes twice: what lies in its first round may come out for a moment of its second.
        if tick.timestamp() > after:
            return tick.timestamp()
    return None


def _by_elapsed_time(cron: str, zone: tzinfo, after: float) -> float | None:
    """The first moment that a clock of the zone shows and the line means.

    cronsim steps by whole hours from the full one, so that it passes by a tick where clocks change by half an hour, and
    it takes the midnight that some changes leave out for a time. So it is asked about one offset from UTC at a time.
    """
    since, horizon = after, after + HORIZON_SECONDS
    while since < horizon:
        tick = _first(cron, timezone(_offset(zone, since)), after)
        change = None if tick is None else _change(zone, since, tick)
        if change is None:
            return tick
        since, after = change, change - 1.0  # a tick may lie at the change
    return None


def _change(zone: tzinfo, since: float, until: float) -> float | None:
    """The first second after ``since``, and not after ``until``, that has another offset from UTC than ``since``."""
    offset, low = _offset(zone, since), math.floor(since)
    while low < until:
        high = math.floor(min(low + DAY_SECONDS, until))
        if _offset(zone, high) != offset:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == offset else (low, middle)
            return float(high)
        low = high
    return None


def _offset(zone: tzinfo, moment: float) -> timedelta:
    return datetime.fromtimestamp(moment, zone).utcoffset() or timedelta(0)


@lru_cache(maxsize=1_000)
def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CalendarError("TimeZoneUnknown", f"spec.timeZone {name!r} is no time zone of the IANA database") from None
