"""Two operators and what becomes of the one that leads: moments that random lives have found, each as a small plan."""

import asyncio

import pytest

from questline_operator.shell.api import CONFIG_MAPS, WORKERS
from questline_operator.shell.epoch import FENCE
from tests.simulation.chaos import live
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_worker
from tests.simulation.plan import Ask, Deed, EditJob, Freeze, Kill, Partition, Plan, Script, Terminate
from tests.simulation.policies import Fence
from tests.simulation.replica import NAMESPACE as SYSTEM

LONG = (Script(work=6.0),)
IN_FLIGHT = 0.001
"""Seconds after a Job was seen, at which its claim is on its way."""


def unbroken(plan: Plan) -> list[str]:
    """Nothing, or what broke and when."""
    life, broken = live(plan)
    return [*broken, *life.log] if broken else []


@pytest.mark.parametrize("late", [0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.008, 0.1, 1.0])
def test_a_claim_that_arrives_around_the_moment_of_the_new_epoch_overfills_no_queue(late: float) -> None:
    deeds = (
        Ask(),
        Ask(pause=3.0, queue="narrow"),
        Ask(queue="narrow"),
        Freeze(pause=IN_FLIGHT, seconds=17.0, hold=late),
        EditJob(pause=1.0, job=2, what="priority", value=9),
    )
    assert unbroken(Plan(fence_lag=0.005, rest=40.0, scripts=LONG, deeds=deeds)) == []


@pytest.mark.parametrize("seconds", [8.0, 9.99, 14.9, 15.1, 16.0, 30.0])
def test_a_leader_frozen_under_load_and_thawed_does_no_harm(seconds: float) -> None:
    deeds: tuple[Deed, ...] = (
        *(Ask(queue=queue, scripts=(0, 1)) for queue in ("narrow", "wide", "narrow", "default", "wide")),
        Freeze(pause=2.0, seconds=seconds),
        *(Ask(pause=1.0, queue="narrow", unique="a") for _ in range(3)),
    )
    assert unbroken(Plan(rest=20.0, scripts=(*LONG, Script(work=2.0)), deeds=deeds)) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 9))
def test_a_leader_that_dies_at_any_write_of_a_job_loses_nothing(write: int, after: bool) -> None:
    deeds = (Ask(), Kill(pause=3.0, write=write, after=after), Ask(queue="narrow", max_attempts=3), Ask(queue="narrow"))
    assert unbroken(Plan(rest=40.0, scripts=(Script(work=1.0, end="failed"), Script()), deeds=deeds)) == []


@pytest.mark.parametrize("answers", [False, True], ids=["requests lost", "answers lost"])
def test_a_leader_that_is_cut_off_while_another_takes_over_does_no_harm(answers: bool) -> None:
    deeds: tuple[Deed, ...] = (
        *(Ask(queue="narrow", scripts=(0, 1)) for _ in range(3)),
        Partition(pause=2.0, seconds=20.0, answers=answers),
        Terminate(pause=30.0),
    )
    assert unbroken(Plan(rest=5.0, scripts=(*LONG, Script(work=2.0)), deeds=deeds)) == []


@simulated
async def test_a_leader_whose_check_of_a_worker_is_fenced_off_leaves_and_says_nothing_of_that_worker() -> None:
    async with Cluster() as cluster:
        cluster.server.store.admission.append(Fence(cluster.server, namespace=SYSTEM, lag=0.0))
        await cluster.server.create(CONFIG_MAPS, SYSTEM, {"metadata": {"name": FENCE}, "data": {"epoch": "2"}})
        await cluster.apply(a_worker("other"))
        old = cluster._operator
        assert old is not None
        await asyncio.wait((old,), timeout=10.0)
        assert "LeadershipLostError" in repr(old.exception())
        assert "status" not in cluster.server.store.get(WORKERS, NAMESPACE, "other")
        cluster.start_operator()
        await cluster.until(lambda: "status" in cluster.server.store.get(WORKERS, NAMESPACE, "other"), seconds=10.0)
