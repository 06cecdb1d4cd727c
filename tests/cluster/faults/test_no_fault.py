"""The load of all fault runs where nothing goes wrong: what the others are compared with."""

from collections.abc import Callable

import pytest

from tests.cluster.faults.load import ATTEMPTS_PER_UNIT, JOBS_PER_UNIT, Kind, put_load
from tests.live import Live
from tests.verdict import Verdict

pytestmark = pytest.mark.cluster


async def test_without_a_fault_the_load_takes_no_attempt_too_many(
    fake: Live, records: Callable[[Verdict], None]
) -> None:
    records(await undisturbed(fake, "fake"))


@pytest.mark.long
async def test_without_a_fault_the_load_takes_no_attempt_too_many_on_the_kubelet(
    live: Live, records: Callable[[Verdict], None]
) -> None:
    records(await undisturbed(live, "real"))


async def undisturbed(live: Live, kind: Kind) -> Verdict:
    load = await put_load(live, kind=kind)
    await load.done(live.history)
    assert load.faults(live.history) == []
    verdict = Verdict.of(live.history, **load.limits)
    assert (verdict.jobs, verdict.attempts, verdict.gaps) == (JOBS_PER_UNIT, ATTEMPTS_PER_UNIT, 0)
    return verdict
