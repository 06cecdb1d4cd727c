"""The API server and etcd killed under load, and started again some seconds later."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.faults.daemons import Daemons
from tests.cluster.faults.load import Kind, put_load
from tests.cluster.faults.operators import kept_operator, operators_kubeconfig
from tests.kube import Kube
from tests.live import Live
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed")]

LONG = pytest.mark.long
SIZES = [pytest.param(1, 2, id="ci"), pytest.param(4, 4, id="full", marks=LONG)]
"""Rounds of the fault, and units of load for each."""


class Run:
    """What every test here does: the load, the fault in its midst, the cluster healed, and so on."""

    def __init__(
        self, live: Live, kube: Kube, daemons: Daemons, folder: Path, records: Callable[[Verdict], None]
    ) -> None:
        self._live = live
        self._kube = kube
        self._daemons = daemons
        self._folder = folder
        self._records = records

    async def killed_under_load(self, daemon: str, *, rounds: int, units: int, kind: Kind) -> None:
        history, log = self._live.history, self._folder / "operator.log"
        kubeconfig = operators_kubeconfig(self._kube, self._folder / "operator.kubeconfig")
        faults: Counter[str] = Counter()
        async with kept_operator(kubeconfig, log) as left:
            loads = []
            for number in range(rounds):
                load = await put_load(self._live, units=units, kind=kind, prefix=f"{number}-" if number else "")
                loads.append(load)
                ended = sum(job.terminal for job in history.jobs())
                some = ended + len(load.roots) // 3
                await history.until(lambda some=some: sum(job.terminal for job in history.jobs()) >= some)  # type: ignore[misc]
                self._daemons.kill(daemon)
                if kind == "fake":
                    # It gives a pod up whose start it could not write, where a kubelet tries again: let it list anew.
                    self._daemons.kill("kwok")
                faults[f"{daemon} killed"] += 1
                await self._daemons.heal()
            for load in loads:
                await load.done(history, seconds=240)
        assert [fault for load in loads for fault in load.faults(history)] == []
        assert "Traceback" not in log.read_text()
        self._records(Verdict.of(history, **loads[0].limits, faults=faults + left))


@pytest.fixture
def run(fake: Live, kube: Kube, daemons: Daemons, tmp_path: Path, records: Callable[[Verdict], None]) -> Run:
    return Run(fake, kube, daemons, tmp_path, records)


@pytest.fixture
def run_on_kubelet(live: Live, kube: Kube, daemons: Daemons, tmp_path: Path, records: Callable[[Verdict], None]) -> Run:
    return Run(live, kube, daemons, tmp_path, records)


@pytest.mark.parametrize(("rounds", "units"), SIZES)
async def test_api_server_restarted_under_load_loses_and_doubles_nothing(run: Run, rounds: int, units: int) -> None:
    await run.killed_under_load("kube-apiserver", rounds=rounds, units=units, kind="fake")


@pytest.mark.parametrize(("rounds", "units"), SIZES)
async def test_etcd_restarted_under_load_loses_and_doubles_nothing(run: Run, rounds: int, units: int) -> None:
    await run.killed_under_load("etcd", rounds=rounds, units=units, kind="fake")


@LONG
@pytest.mark.parametrize("daemon", ["kube-apiserver", "etcd"])
async def test_running_tasks_outlive_a_restart_of_the_control_plane(run_on_kubelet: Run, daemon: str) -> None:
    await run_on_kubelet.killed_under_load(daemon, rounds=2, units=1, kind="real")
