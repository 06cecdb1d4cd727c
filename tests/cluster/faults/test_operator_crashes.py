"""The operator killed between any two of its writes; its successor goes on from what stands in the cluster.

Operators follow one another at once, as containers of one pod do: they share the identity that the Lease names. The
first write of each raises the epoch, so one that dies before its second has done nothing for any Job.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from tests.cluster.faults.crashing_operator import Moment
from tests.cluster.faults.load import Load, put_load
from tests.cluster.faults.operators import SAME_POD, OperatorProcess, operators_kubeconfig
from tests.kube import Kube
from tests.live import Live
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed")]

CRASHING = "tests.cluster.faults.crashing_operator"
Crash = tuple[int, Moment]

FEW: list[Crash] = [(n, moment) for n in (1, 2, 3, 5, 8, 13) for moment in ("before", "after")]
"""As many writes, counted from its start, as each operator makes before it dies."""


async def test_an_operator_killed_at_twelve_of_its_writes_loses_and_doubles_nothing(
    fake: Live, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None]
) -> None:
    records(await crashed(fake, kube, tmp_path, FEW))


EACH = range(2, 21)
"""The second write of an operator is its first for a Job."""
AFTER_THAT = 15
BACK_OFF_SECONDS = 400.0
"""Longer than a Job waits that was disrupted again and again."""


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "writes",
    [
        pytest.param(EACH, id="more-and-more"),
        pytest.param(EACH[::-1], id="fewer-and-fewer"),
        pytest.param((), id=f"always-at-{AFTER_THAT}"),
    ],
)
async def test_an_operator_killed_at_each_of_its_writes_in_turn_loses_and_doubles_nothing(
    fake: Live, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None], writes: Sequence[int], moment: Moment
) -> None:
    """Each life ends at the next number of writes, and those after that at one by which much is done.

    Lives of two writes alone would bring no Job to its end: a claim and its pod are two, and the next operator gives a
    claim without a pod up.
    """
    crashes = [(at, moment) for at in (*writes, *[AFTER_THAT] * 200)]
    records(await crashed(fake, kube, tmp_path, crashes, units=2, seconds=BACK_OFF_SECONDS))


async def crashed(
    live: Live, kube: Kube, folder: Path, crashes: Iterable[Crash], *, units: int = 1, seconds: float = 120.0
) -> Verdict:
    """The load under one operator after another that dies so, and a last one that does not."""
    kubeconfig = operators_kubeconfig(kube, folder / "operator.kubeconfig")
    log = folder / "operator.log"
    load = await put_load(live, units=units)
    died: Counter[str] = Counter()
    for at, moment in crashes:
        operator = OperatorProcess(kubeconfig, log, str(at), moment, module=CRASHING, environment=SAME_POD)
        async with operator:
            if not await dies_before_the_end(operator, load, live, seconds):
                break
        died[f"operator killed {moment} a write"] += 1
    async with OperatorProcess(kubeconfig, log, environment=SAME_POD) as last:
        await last.leads()
        await load.done(live.history, seconds=seconds)
        assert await last.terminate() == 0
    assert load.faults(live.history) == []
    assert "Traceback" not in log.read_text()
    return Verdict.of(live.history, **load.limits, faults=died)


async def dies_before_the_end(operator: OperatorProcess, load: Load, live: Live, seconds: float) -> bool:
    """Whether the operator kills itself before the load is done."""
    death = asyncio.create_task(operator.ended())
    done = asyncio.create_task(load.done(live.history, seconds=seconds))
    try:
        await asyncio.wait((death, done), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            done.result()
            return False
        assert death.result() == -signal.SIGKILL, operator.output
        return True
    finally:
        death.cancel()
        done.cancel()
