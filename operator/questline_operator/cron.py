"""The ticks of a cron line, by cronsim and the time zones of the tzdata package or the system."""

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from questline_operator.core.schedule import CalendarError


def next_tick(cron: str, time_zone: str, after: float) -> float | None:
    """The first tick after that moment, both in seconds since the epoch; None where there is none in 50 years.

    As Debian's cron does it: a line with fixed times makes up for a time that a change of clocks leaves out, at the end
    of the gap, and takes one that comes twice once. Where minute or hour begins with a star, elapsed time counts.

    Raises:
        CalendarError: the line or the zone cannot be read.
    """
    moment = (
        datetime.fromtimestamp(after, _zone(time_zone)) if time_zone != "UTC" else datetime.fromtimestamp(after, UTC)
    )
    if len(cron.split()) != 5:
        raise CalendarError("CronInvalid", f"spec.cron {cron!r} has {len(cron.split())} fields, five are needed")
    try:
        for tick in CronSim(cron, moment):
            # An hour that comes twice: what lies in its first round may come out for a moment of its second.
            if tick.timestamp() > after:
                return tick.timestamp()
    except CronSimError as error:
        raise CalendarError("CronInvalid", f"spec.cron {cron!r} cannot be read: {error}") from None
    return None


@lru_cache(maxsize=1_000)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CalendarError("TimeZoneUnknown", f"spec.timeZone {name!r} is no time zone of the IANA database") from None
