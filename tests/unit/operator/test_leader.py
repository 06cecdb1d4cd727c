"""In which order a new leader reads the cluster: the epoch first, then what former leaders wrote, then it acts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from questline_operator.shell.api import JOBS, NAMESPACES, PODS, QUEUES, SCHEDULES, WORKERS, Resource
from questline_operator.shell.epoch import IN_FORCE_SECONDS
from questline_operator.shell.leader import Leader
from questline_operator.shell.metrics import count_writes
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import VirtualClock, simulated
from tests.simulation.cluster import NAMESPACE, a_job, a_worker
from tests.simulation.faults import Fault

LATENCY = 0.004
OF_PEOPLE, OF_LEADERS = {NAMESPACES, QUEUES, WORKERS}, {SCHEDULES, JOBS, PODS}


@asynccontextmanager
async def led(server: ApiServer) -> AsyncIterator[Leader]:
    """A leader whose epoch was raised just now."""
    leader = Leader(
        server.client("operator-1"),
        server.clock,
        epoch=1,
        check_leading=lambda: None,
        writes=count_writes(CollectorRegistry()),
    )
    task = asyncio.create_task(leader.run())
    yield leader
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def listed(server: ApiServer) -> set[Resource]:
    """What was listed so far."""
    return {kind for kind in OF_PEOPLE | OF_LEADERS if server.calls["operator-1", "list", kind.plural, ""]}


@simulated
async def test_what_leaders_write_is_listed_once_the_epoch_is_in_force_and_all_else_meanwhile() -> None:
    server = ApiServer(VirtualClock(), latency=LATENCY)
    async with led(server) as leader:
        await asyncio.sleep(LATENCY)
        assert listed(server) == OF_PEOPLE
        await asyncio.sleep(IN_FORCE_SECONDS - LATENCY)
        assert listed(server) == OF_PEOPLE
        await asyncio.wait_for(leader.acting.wait(), 2 * LATENCY)
        assert listed(server) == OF_PEOPLE | OF_LEADERS


@simulated
async def test_a_leader_acts_once_every_kind_is_listed_however_late_one_is() -> None:
    server = ApiServer(VirtualClock(), latency=LATENCY)
    server.store.create(WORKERS, NAMESPACE, a_worker())
    server.store.create(JOBS, NAMESPACE, a_job("a"))
    server.faults.append(Fault(client="operator-1", verb="list", resource=QUEUES, answer_delay_seconds=3.0))
    async with led(server) as leader:
        await asyncio.sleep(2.9)
        assert not leader.acting.is_set()
        assert {verb for client, verb, _, _ in server.calls if client == "operator-1"} == {"list", "watch"}
        await asyncio.sleep(0.2)
        assert leader.acting.is_set()
