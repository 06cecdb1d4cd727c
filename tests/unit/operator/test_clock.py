"""The machine's clocks, as the operator reads them."""

import time

import pytest

from questline_operator.shell.clock import SystemClock


def test_the_time_of_a_suspended_machine_counts_for_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {time.CLOCK_MONOTONIC: 100.0, time.CLOCK_BOOTTIME: 3700.0}
    monkeypatch.setattr(time, "clock_gettime", seconds.__getitem__)
    monkeypatch.setattr(time, "monotonic", lambda: seconds[time.CLOCK_MONOTONIC])
    assert SystemClock().monotonic() == 3700.0
