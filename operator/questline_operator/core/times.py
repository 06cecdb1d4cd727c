"""RFC 3339 times and the seconds since the epoch that the core computes with."""

from datetime import UTC, datetime


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time with any offset and up to microseconds.

    Raises:
        ValueError: the text is no such time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset: write it as 2026-01-31T08:00:00Z")
    return moment.timestamp()


def optional_time(text: str | None) -> float | None:
    """The same of a field that may be absent or null: None then."""
    return parse_time(text) if text else None


def format_time(seconds: float) -> str:
    """The moment as RFC 3339 in UTC with microseconds, as ``2026-01-31T08:00:00.250000Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_whole_seconds(seconds: float) -> str:
    """The moment as the API server writes its own times: RFC 3339 in UTC, whole seconds, ``2026-01-31T08:00:00Z``."""
    return format_time(seconds)[:19] + "Z"
