"""An API server that is slow, refuses, drops connections, loses answers, fails or has no disk left.

The faults strike the operator's requests alone, its Lease's and kopf's included: so it may have to leave and come back.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cluster.faults.faulty_proxy import Fault, Phase, faulty_proxy, random_phases
from tests.cluster.faults.load import put_load
from tests.cluster.faults.operators import kept_operator, operators_kubeconfig
from tests.kube import Kube
from tests.live import Live
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed")]

LONG = pytest.mark.long
SEEDS = [
    pytest.param(1, 5, 2.0, id="ci"),
    *(pytest.param(seed, 12, 6.0, id=f"{seed}", marks=LONG) for seed in range(2, 8)),
]
"""Of the schedule, with its number of phases and the longest one's seconds."""


class Run:
    """The load under an operator behind the proxy."""

    def __init__(self, live: Live, kube: Kube, folder: Path, records: Callable[[Verdict], None]) -> None:
        self._live = live
        self._kube = kube
        self._folder = folder
        self._records = records

    async def under(self, phases: Sequence[Phase], *, seed: int, units: int) -> None:
        history, log = self._live.history, self._folder / "operator.log"
        async with faulty_proxy(self._kube, seed) as proxy:
            kubeconfig = operators_kubeconfig(self._kube, self._folder / "operator.kubeconfig", server=proxy.url)
            async with kept_operator(kubeconfig, log) as left:
                load = await put_load(self._live, units=units)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(proxy.run(phases))
                    await load.done(history, seconds=240)
        assert load.faults(history) == []
        assert "Traceback" not in log.read_text()
        self._records(Verdict.of(history, **load.limits, faults=proxy.faults + left))


@pytest.fixture
def run(fake: Live, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None]) -> Run:
    return Run(fake, kube, tmp_path, records)


@pytest.mark.parametrize(("seed", "phases", "longest"), SEEDS)
async def test_a_schedule_of_all_faults_of_the_api_loses_and_doubles_nothing(
    run: Run, seed: int, phases: int, longest: float
) -> None:
    await run.under(random_phases(seed, count=phases, longest=longest), seed=seed, units=max(2, phases // 3))


@LONG
@pytest.mark.parametrize("fault", list(Fault))
async def test_a_third_of_all_requests_struck_by_one_fault_loses_and_doubles_nothing(run: Run, fault: Fault) -> None:
    await run.under([Phase(20.0, {fault: 0.33})], seed=1, units=3)


@LONG
@pytest.mark.parametrize("seconds", [3.0, 13.0])
async def test_an_api_server_that_nobody_reaches_for_a_while_loses_and_doubles_nothing(
    run: Run, seconds: float
) -> None:
    """For longer than the Lease is trusted, too: the operator leaves, and the next one goes on."""
    await run.under([Phase(1.0), Phase(seconds, refuses=True)], seed=1, units=3)


@LONG
async def test_a_full_disk_for_twenty_seconds_loses_and_doubles_nothing(run: Run) -> None:
    """Every write is refused, the Lease's as well; it goes on once there is space again."""
    await run.under([Phase(1.0), Phase(20.0, {Fault.DISK_FULL: 1.0})], seed=1, units=3)
