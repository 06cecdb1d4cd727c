"""The process's end and its readiness, as functions; its life is tested in tests/e2e/test_failover.py."""

import asyncio
import sys
from typing import Any

import pytest

from questline_operator import main as process
from questline_operator.main import _exit_status, unready
from questline_operator.shell.api import LEASES, ApiError
from questline_operator.shell.lease import Elector, LeadershipLostError
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import VirtualClock, simulated
from tests.simulation.faults import Fault, internal_error


def test_a_lost_leadership_is_one_line_in_the_log_however_deep_it_lay(caplog: pytest.LogCaptureFixture) -> None:
    lost = LeadershipLostError("Lease x/y is held by z now")
    assert _exit_status([ExceptionGroup("lead", [ExceptionGroup("run", [lost])])]) == 1
    assert [record.message for record in caplog.records] == ["leaving: Lease x/y is held by z now"]


def test_an_end_that_was_asked_for_is_a_success() -> None:
    assert _exit_status([]) == 0


def test_any_other_error_is_raised_even_beside_a_lost_leadership() -> None:
    errors = [ExceptionGroup("lead", [LeadershipLostError("lost"), KeyError("surprise")])]
    with pytest.raises(ExceptionGroup) as died:
        _exit_status(errors)
    assert died.value.subgroup(KeyError) is not None
    assert died.value.subgroup(LeadershipLostError) is None


@pytest.mark.parametrize(
    ("given", "limit"), [([], None), (["--max-running-pods", "0"], None), (["--max-running-pods", "7"], 7)]
)
def test_the_limit_of_running_pods_is_none_unless_given(
    monkeypatch: pytest.MonkeyPatch, given: list[str], limit: int | None
) -> None:
    asked: list[Any] = []

    async def operate(connection: object, **options: Any) -> int:
        asked.append(options["max_running_pods"])
        return 0

    monkeypatch.setattr(process, "connect", lambda: object())
    monkeypatch.setattr(sys, "setrecursionlimit", lambda limit: None)
    monkeypatch.setattr(process, "operate", operate)
    assert process.main(given) == 0
    assert process.main(["run", *given]) == 0
    assert asked == [limit, limit]


@pytest.mark.parametrize("given", ["-1", "many", "1.5"])
def test_a_limit_of_running_pods_that_is_no_number_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        process.main(["--max-running-pods", given])
    assert f"argument --max-running-pods: {given!r}: a whole number, 0 for no limit" in capsys.readouterr().err


@simulated
async def test_a_standby_is_ready_while_it_can_read_the_lease() -> None:
    server = ApiServer(VirtualClock(), latency=0.01)
    first = Elector(server.client("first"), VirtualClock(), "questline-system", "questline-operator", "first")
    await first.acquire()
    second = Elector(server.client("second"), VirtualClock(), "questline-system", "questline-operator", "second")
    assert unready(second, None) == "the Lease was not read yet"
    standing_by = asyncio.create_task(second.acquire())
    renewing = asyncio.create_task(first.run())
    await asyncio.sleep(60)
    assert unready(second, None) is None
    forbidden = ApiError(403, "Forbidden", "leases is forbidden")
    server.faults += [Fault(client="second", resource=LEASES, error=e, times=9) for e in (internal_error(), forbidden)]
    await asyncio.sleep(32)
    assert unready(second, None) == "the Lease could not be read for 32 s"
    await asyncio.sleep(10)
    assert unready(second, None) is None
    for task in (standing_by, renewing):
        task.cancel()
    await asyncio.gather(standing_by, renewing, return_exceptions=True)
