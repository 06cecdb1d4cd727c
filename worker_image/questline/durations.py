"""Durations: a number of seconds, "1h30m", or a timedelta."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    from datetime import timedelta

Duration: TypeAlias = Union[int, float, str, "timedelta"]
"""Seconds, a text such as "90s", "1h30m" or "2d", or a timedelta."""

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds_of(value: Duration, field: str, *, minimum: float = 0, maximum: float = float("inf")) -> float:
    """The duration in seconds.

    Args:
        field: what an error calls it.
        minimum: the least that is allowed, in seconds.
        maximum: the most that is allowed, in seconds.

    Raises:
        OptionInvalid: it is no duration or out of bounds.
    """
    seconds = _parse(value)
    if seconds is None:
        raise _invalid(
            f'{field} is {_shown(value)}: give seconds, a text like "1h30m" (w, d, h, m, s, ms), or a timedelta'
        )
    if not minimum <= seconds <= maximum:
        bounds = f"{minimum:,g} or more" if maximum == float("inf") else f"{minimum:,.10g} to {maximum:,.10g}"
        raise _invalid(f"{field} is {_shown(value)}: {bounds} seconds are allowed")
    return seconds


def whole_seconds_of(value: Duration, field: str, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    """The same for a field of the API that counts whole seconds.

    Raises:
        OptionInvalid: it is no duration, out of bounds or not whole.
    """
    seconds = seconds_of(value, field, minimum=minimum, maximum=maximum)
    if seconds != int(seconds):
        raise _invalid(f"{field} is {value!r}: it counts whole seconds")
    return int(seconds)


def _parse(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return None if value != value else float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    if isinstance(value, str):
        return _parse_text(value.strip())
    total = getattr(value, "total_seconds", None)  # a timedelta, without importing datetime for it
    return float(total()) if callable(total) else None


def _parse_text(text: str) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[wdhms])\s*", text, re.ASCII)
    order = [list(_UNITS).index(unit) for _, unit in parts]
    if not parts or order != sorted(set(order)):
        return None
    if re.fullmatch(r"(\d+(\.\d+)?(ms|[wdhms])\s*)+", text, re.ASCII) is None:
        return None
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts), 6)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers beyond 4,300 digits
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _invalid(message: str) -> Exception:
    from questline.errors import OptionInvalid  # errors.py needs this module for Retry

    return OptionInvalid(message)
