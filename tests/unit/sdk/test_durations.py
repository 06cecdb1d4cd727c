from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from questline import OptionInvalid
from questline.durations import seconds_of, whole_seconds_of


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("250ms", 0.25),
        ("1.5h", 5400),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_seconds_a_text_or_a_timedelta(value: object, seconds: float) -> None:
    assert seconds_of(value, "timeout") == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["", "abc", "1x", "30m1h", "1h1h", "-5s", "1h30", "h", True, None, float("nan"), [], "１h"]
)
def test_what_is_no_duration_is_refused_by_name_and_value(value: object) -> None:
    with pytest.raises(OptionInvalid, match="timeout is ") as refusal:
        seconds_of(value, "timeout")  # type: ignore[arg-type]
    assert repr(value) in str(refusal.value)
    assert "1h30m" in str(refusal.value)


@pytest.mark.parametrize("value", [-1, 0, "61s", float("inf")])
def test_a_duration_out_of_bounds_is_refused_with_the_bounds(value: object) -> None:
    with pytest.raises(OptionInvalid, match=r"ttl is .*: 1 to 60 seconds are allowed"):
        seconds_of(value, "ttl", minimum=1, maximum=60)  # type: ignore[arg-type]


def test_a_field_of_whole_seconds_refuses_a_part_of_one() -> None:
    assert whole_seconds_of("2m", "timeout") == 120
    with pytest.raises(OptionInvalid, match=r"timeout is '1.5s': it counts whole seconds"):
        whole_seconds_of("1.5s", "timeout")


@given(st.integers(0, 50), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_text_means_what_the_timedelta_of_its_parts_means(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    delta = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert seconds_of(text, "delay") == seconds_of(delta, "delay")
