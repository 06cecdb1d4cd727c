"""The process's start, its end and its readiness; its whole life is tested in tests/e2e/test_failover.py."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, NoReturn

import kopf
import pytest

from questline_operator import main as process
from questline_operator.main import FIRST_CLAIMS_SECONDS, LEASE, _exit_status, operate, unready
from questline_operator.shell.api import JOBS, LEASES, WORKERS, ApiError
from questline_operator.shell.epoch import IN_FORCE_SECONDS
from questline_operator.shell.http_api import HttpApi
from questline_operator.shell.leader import Leader
from questline_operator.shell.lease import LOOK_SECONDS, Elector, LeadershipLostError
from tests.simulation.apiserver import ApiServer, Client
from tests.simulation.clock import VirtualClock, simulated
from tests.simulation.cluster import NAMESPACE, a_job, a_worker
from tests.simulation.faults import Fault, internal_error
from tests.simulation.store import Change

SYSTEM = "questline-system"
LATENCY = 0.004


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


# From the start to kopf's


class Life:
    """An operator's process in virtual time, with a Job to claim, and with a kopf that does nothing but run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = ApiServer(VirtualClock(), latency=LATENCY)
        self.server.store.create(WORKERS, NAMESPACE, a_worker())
        self.server.store.create(JOBS, NAMESPACE, a_job("first"))
        self.claimed_at: list[float] = []
        self.kopf_started_at: list[float] = []
        self.told = asyncio.Event()
        """SIGTERM."""
        self.server.store.observers.append(self._see)

        @asynccontextmanager
        async def connected(connection: object) -> AsyncIterator[Client]:
            yield self.server.client("operator-1")

        async def spawn_tasks(**options: object) -> tuple[()]:
            self.kopf_started_at.append(now())
            return ()

        async def run_tasks(tasks: object, *, ignored: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(HttpApi, "connect", connected)
        monkeypatch.setattr(process, "SystemClock", VirtualClock)
        monkeypatch.setattr(process, "Probes", lambda *arguments, **options: nullcontext())
        monkeypatch.setattr(process, "_on_signals", self._listen)
        monkeypatch.setattr(kopf, "spawn_tasks", spawn_tasks)
        monkeypatch.setattr(kopf, "run_tasks", run_tasks)

    async def live(self) -> int:
        """Its exit status, once it has ended."""
        return await operate(kopf.ConnectionInfo(server="http://simulated"), namespace=SYSTEM, probes_port=0)

    def _listen(self, told: asyncio.Event) -> None:
        self.told = told

    def _see(self, change: Change) -> None:
        if change.resource == JOBS and change.object.get("status", {}).get("state") == "Starting":
            self.claimed_at.append(now())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_kopf_starts_once_the_first_claims_had_the_process_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    @simulated
    async def play() -> None:
        life = Life(monkeypatch)
        living = asyncio.create_task(life.live())
        await asyncio.sleep(60)
        claimed, (started,) = life.claimed_at[0], life.kopf_started_at
        assert FIRST_CLAIMS_SECONDS - 0.1 < started - claimed < FIRST_CLAIMS_SECONDS
        life.told.set()
        assert await living == 0

    play()


def test_a_standby_claims_soon_after_the_lease_is_released_and_starts_no_kopf_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @simulated
    async def play() -> None:
        life = Life(monkeypatch)
        former = Elector(life.server.client("former"), VirtualClock(), SYSTEM, LEASE, "former")
        await former.acquire()
        living = asyncio.create_task(life.live())
        renewing = asyncio.create_task(former.run())
        await asyncio.sleep(60)
        renewing.cancel()
        await former.release()
        released = now()
        await asyncio.sleep(1)
        assert life.claimed_at[0] - released < LOOK_SECONDS + IN_FORCE_SECONDS + 0.1
        assert life.kopf_started_at == []
        life.told.set()
        assert await living == 0

    play()


def test_a_process_that_is_told_to_go_before_kopf_runs_gives_its_lease_back_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @simulated
    async def play() -> None:
        life = Life(monkeypatch)
        living = asyncio.create_task(life.live())
        await asyncio.sleep(1)
        life.told.set()
        assert await asyncio.wait_for(living, 0.1) == 0
        assert life.server.store.get(LEASES, SYSTEM, LEASE)["spec"]["holderIdentity"] == ""
        assert life.kopf_started_at == []

    play()


def test_a_leader_that_dies_before_kopf_runs_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doomed(Leader):
        async def run(self) -> NoReturn:
            self.acting.set()
            await asyncio.sleep(FIRST_CLAIMS_SECONDS / 2)
            raise KeyError("surprise")

    @simulated
    async def play() -> None:
        monkeypatch.setattr(process, "Leader", Doomed)
        life = Life(monkeypatch)
        with pytest.raises(ExceptionGroup) as died:
            await asyncio.wait_for(life.live(), FIRST_CLAIMS_SECONDS)
        assert died.value.subgroup(KeyError) is not None
        assert life.kopf_started_at == []

    play()


def test_a_leadership_that_is_lost_before_kopf_runs_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    @simulated
    async def play() -> None:
        life = Life(monkeypatch)
        living = asyncio.create_task(life.live())
        await asyncio.sleep(1)
        lease = life.server.store.get(LEASES, SYSTEM, LEASE)
        life.server.store.replace(
            LEASES, SYSTEM, LEASE, {**lease, "spec": {**lease["spec"], "holderIdentity": "another"}}
        )
        assert await asyncio.wait_for(living, FIRST_CLAIMS_SECONDS) == 1
        assert life.kopf_started_at == []

    play()
