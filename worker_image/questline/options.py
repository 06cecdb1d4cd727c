"""Options of a Job, as `@job(...)` and `.options(...)` take them, and what they are in a Job's spec.

Each value is checked when it is given. Options are values of the moment of enqueue: YAML does not see them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict, Union

from questline.durations import Duration, seconds_of, whole_seconds_of
from questline.errors import OptionInvalid

if TYPE_CHECKING:
    from datetime import datetime

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_MAX_JOB_NAME = 50
_MAX_GROUP_NAME = 40
_MAX_DELAY_SECONDS = 366 * 86_400
_MAX_WINDOW_SECONDS = 365 * 86_400

now: Callable[[], float] = time.time
"""Seconds since the epoch, from which a delay counts; the test kit puts its virtual clock here."""


class Backoff(NamedTuple):
    """The delay before the attempt after a failure: min(max, base * 2^(failures-1)) * U(1-jitter, 1+jitter).

    Args:
        base: the first delay in whole seconds, "30s" or a timedelta, at most a day.
        max: the longest, at most 30 days; without it an hour, or base where that is longer.
        jitter: the share that is left to chance, 0 to 1.
        type: ``Exponential`` doubles the delay with each failure, ``Fixed`` keeps it.
    """

    base: Duration = 1
    max: Duration | None = None
    jitter: float = 0.5
    type: str = "Exponential"


UniqueNames: TypeAlias = Union[bool, str, "Sequence[str]"]
Unique: TypeAlias = Union[UniqueNames, "Callable[..., str]"]
"""True (all args), names of parameters, or a function of the same parameters that returns the key."""


class PlainOptionValues(TypedDict, total=False):
    """What `@job(...)` and `.options(...)` take but `unique`, for type checkers."""

    queue: str
    worker: str | None
    image: str | None
    max_attempts: int | None
    backoff: Backoff | Mapping[str, Any] | Duration | None
    timeout: Duration | None
    delay: Duration | None
    run_at: datetime | None
    priority: int
    ttl: Duration | None
    window: Duration | None
    concurrency_key: str | None
    group: str | None
    name: str | None
    stage: bool


class OptionValues(PlainOptionValues, total=False):
    """What `.options(...)` takes, for type checkers."""

    unique: Unique


class Options(NamedTuple):
    """Checked options. Durations are in seconds, `backoff` is as in the spec."""

    queue: str = "default"
    worker: str | None = None
    image: str | None = None
    max_attempts: int | None = None
    backoff: dict[str, Any] | None = None
    timeout: int | None = None
    delay: float | None = None
    run_at: datetime | None = None
    priority: int = 0
    ttl: int | None = None
    unique: bool | tuple[str, ...] | Callable[..., str] = False
    window: int | None = None
    concurrency_key: str | None = None
    group: str | None = None
    name: str | None = None
    stage: bool = True

    def replaced(self, values: Mapping[str, Any]) -> Options:
        """These options with others in their place; None takes a value back to its default.

        Raises:
            OptionInvalid: an option is unknown or its value not allowed.
        """
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in self._fields:
                raise OptionInvalid(f"there is no option {name!r}; there are {', '.join(self._fields)}")
            default = self._field_defaults[name]
            checked[name] = default if value is None else _CHECKS[name](name, value)
        options = Options(**{**self._asdict(), **checked})
        if options.window is not None and options.unique is False:
            raise OptionInvalid(f"window is {options.window} seconds: it needs unique, which says what it is about")
        if options.delay is not None and options.run_at is not None:
            if "delay" in checked and "run_at" in checked:
                raise OptionInvalid("delay and run_at are both given: leave one of them out")
            options = options._replace(run_at=None) if "delay" in checked else options._replace(delay=None)
        return options

    def spec(self) -> dict[str, Any]:
        """The part of a Job's spec that does not depend on its args."""
        fields = {
            "queue": self.queue,
            "worker": self.worker,
            "image": self.image,
            "maxAttempts": self.max_attempts,
            "backoff": self.backoff,
            "timeoutSeconds": self.timeout,
            "priority": self.priority or None,
            "key": self.concurrency_key,
            "ttlSecondsAfterFinished": self.ttl,
            "runAt": self._run_at(),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _run_at(self) -> str | None:
        if self.run_at is None and self.delay is None:
            return None
        from datetime import UTC, datetime

        moment = self.run_at or datetime.fromtimestamp(now() + (self.delay or 0), UTC)
        return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _invalid(name: str, value: object, allowed: str) -> OptionInvalid:
    return OptionInvalid(f"{name} is {value!r}: {allowed}")


def _dns_label(longest: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest or not re.fullmatch(_LABEL, value):
            raise _invalid(name, value, f"a name of a-z, 0-9 and '-' is needed, at most {longest} characters")
        return value

    return check


def _worker(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 253 or not re.fullmatch(_LABEL.replace("-a-z", "-.a-z"), value):
        raise _invalid(name, value, "the name of a Worker is needed: a-z, 0-9, '-' and '.', at most 253 characters")
    return value


def _image(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 1024 or value.split() != [value]:
        raise _invalid(name, value, "the name of a container image is needed")
    return value


def _integer(least: int, most: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _invalid(name, value, f"an integer from {least} to {most} is needed")
        return value

    return check


def _seconds(least: int, most: int) -> Callable[[str, Any], int]:
    return lambda name, value: whole_seconds_of(value, name, minimum=least, maximum=most)


def _delay(name: str, value: Any) -> float:
    return seconds_of(value, name, maximum=_MAX_DELAY_SECONDS)


def _run_at(name: str, value: Any) -> Any:
    from datetime import datetime

    if not isinstance(value, datetime):
        raise _invalid(name, value, "a datetime is needed; for a duration use delay")
    if value.tzinfo is None or value.utcoffset() is None:
        raise _invalid(name, value, "it has no time zone; give one, such as datetime.now(UTC)")
    if not 1000 < value.year < 2999:
        raise _invalid(name, value, "a year from 1001 to 2998 is needed")
    return value


def _backoff(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Backoff):
        given: dict[str, Any] = value._asdict()
    elif isinstance(value, Mapping):
        given = {{"baseSeconds": "base", "maxSeconds": "max"}.get(key, str(key)): value[key] for key in value}
    else:
        given = {"base": value}
    unknown = [key for key in given if key not in Backoff._fields]
    if unknown:
        raise _invalid(f"{name}.{unknown[0]}", given[unknown[0]], f"there is no such field; {Backoff._fields} are")
    backoff: dict[str, Any] = {}
    if "type" in given:
        if given["type"] not in ("Exponential", "Fixed"):
            raise _invalid(f"{name}.type", given["type"], "Exponential or Fixed is needed")
        backoff["type"] = given["type"]
    if "base" in given:
        backoff["baseSeconds"] = whole_seconds_of(given["base"], f"{name}.base", maximum=86_400)
    if given.get("max") is not None:
        backoff["maxSeconds"] = whole_seconds_of(given["max"], f"{name}.max", minimum=1, maximum=2_592_000)
    if backoff.get("baseSeconds", 1) > backoff.get("maxSeconds", 3600):
        if given.get("max") is not None:
            raise _invalid(f"{name}.base", given.get("base", 1), f"it must not be over {name}.max, {given['max']!r}")
        backoff["maxSeconds"] = backoff["baseSeconds"]
    if "jitter" in given:
        jitter = given["jitter"]
        if not isinstance(jitter, int | float) or isinstance(jitter, bool) or not 0 <= jitter <= 1:
            raise _invalid(f"{name}.jitter", jitter, "a number from 0 to 1 is needed")
        backoff["jitter"] = jitter
    return backoff


def _unique(name: str, value: Any) -> bool | tuple[str, ...] | Callable[..., str]:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return (value,)
    if callable(value):
        function: Callable[..., str] = value
        return function
    if isinstance(value, Sequence) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _invalid(name, value, "True, a tuple of parameters' names, or a function of the same parameters is needed")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 253 or not is_utf8(value):
        raise _invalid(name, value, "a text of at most 253 characters is needed")
    return value


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold it, which lone surrogates are beyond, such as those of a file's undecodable name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, value, "True or False is needed")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "queue": _dns_label(63),
    "worker": _worker,
    "image": _image,
    "max_attempts": _integer(1, 100),
    "backoff": _backoff,
    "timeout": _seconds(1, 2**31 - 1),
    "delay": _delay,
    "run_at": _run_at,
    "priority": _integer(-1000, 1000),
    "ttl": _seconds(0, 2**31 - 1),
    "unique": _unique,
    "window": _seconds(1, _MAX_WINDOW_SECONDS),
    "concurrency_key": _text,
    "group": _dns_label(_MAX_GROUP_NAME),
    "name": _dns_label(_MAX_JOB_NAME),
    "stage": _flag,
}
