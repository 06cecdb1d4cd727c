"""Two operators, of which one leads: it is told to go, is killed, crashes again and again, or is stopped and goes on.

Under load, with the Lease's default settings, and judged by an independent watcher.

Each test prints how long no Job was claimed, and leaves it in .cluster/records for docs/reliability.md.
"""

import asyncio
import contextlib
import json
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import PODS
from tests.e2e.flow import CONCURRENCY, Flow
from tests.e2e.operator_process import LEASE, NAMESPACE, LeadingOperator, ended, leading_operator
from tests.kube import Kube
from tests.live import Live
from tests.verdict import Verdict

pytestmark = pytest.mark.exclusive

RECORDS = Path(__file__).parents[2] / ".cluster" / "records"
TERM_SECONDS = 3.0
KILL_SECONDS = 20.0
LEAVE_SECONDS = 5.0
"""So soon after it goes on has a leader whose Lease is another's ended."""


class Rounds:
    """What was done to leaders, and how long it took until the next claim of a Job."""

    def __init__(self, live: Live, flow: Flow, kube: Kube, chance: random.Random) -> None:
        self.live = live
        self.flow = flow
        self.kube = kube
        self.chance = chance
        self.faults: dict[str, int] = {}
        self.seconds: dict[str, list[float]] = {}

    async def leader(self) -> LeadingOperator:
        """Who leads, at a random moment at which Jobs are claimed and another one stands by."""
        self.kube.kubectl("rollout", "status", f"deployment/{LEASE}", "-n", NAMESPACE, "--timeout=120s")
        await self.flow.claims()
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))  # what is random is the moment: nothing is waited for
        return await leading_operator(self.live.api)

    async def claimed_after(self, fault: str, leader: LeadingOperator, began: float, *, limit: float) -> float:
        """Note the fault, and the time until a later leader claims; that time, in seconds.

        Raises:
            AssertionError: it took longer than ``limit``.
        """
        self.faults[fault] = self.faults.get(fault, 0) + 1
        await self.flow.claims(epoch=leader.epoch + 1)
        taken = time.monotonic() - began
        self.note(f"{fault}, to the next claim", taken)
        assert taken <= limit, f"{fault}: the next claim came after {taken:.1f} s"
        return taken

    def note(self, what: str, seconds: float) -> None:
        """Keep a measured time."""
        self.seconds.setdefault(what, []).append(round(seconds, 2))

    def __str__(self) -> str:
        """One line for each kind of measured time."""
        return "\n".join(
            f"  {what}: p50 {statistics.median(all_):.2f} s, max {max(all_):.2f} s, of {len(all_)}"
            for what, all_ in self.seconds.items()
        )


@contextlib.asynccontextmanager
async def rounds(live: Live, kube: Kube, request: pytest.FixtureRequest) -> AsyncIterator[Rounds]:
    """A load to play rounds under; judged at its end."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    async with Flow(live) as flow:
        played = Rounds(live, flow, kube, random.Random(seed))
        yield played
    verdict = Verdict.of(live.history, concurrency=CONCURRENCY, faults=played.faults)
    name: str = request.node.name
    with request.getfixturevalue("capsys").disabled():
        print(f"\n{name}: {verdict}\n{played}")
    RECORDS.mkdir(parents=True, exist_ok=True)
    record = {**asdict(verdict), "seed": seed, "seconds": played.seconds}
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    assert verdict.violations == ()
    jobs = live.history.jobs()
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert all(job.finishes == 1 for job in jobs), "a Job ended twice"
    assert all(job.failures == 0 for job in jobs), "a change of leaders cost a Job a failure"


async def replace(live: Live, operator: LeadingOperator) -> None:
    """Have its pod replaced by a new one, whose start no former crash delays; returns once that is asked for.

    By the test's own client: the start of a kubectl would take its share of the time that is measured, and of the CPU.
    """
    await live.api.delete(PODS, NAMESPACE, operator.pod, uid=operator.uid)


async def log_to_its_end(pod: str) -> str:
    """What the pod's container says from now until it ends."""
    follower = await asyncio.create_subprocess_exec(
        *("kubectl", "logs", "--follow", "--since=1s", pod, "-n", NAMESPACE), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await follower.communicate()
    return out.decode()


async def play_deletions(play: Rounds, count: int) -> None:
    for _ in range(count):
        leader = await play.leader()
        began = time.monotonic()
        await replace(play.live, leader)
        await play.claimed_after("leader's pod deleted", leader, began, limit=TERM_SECONDS)


async def play_rollouts(play: Rounds, count: int) -> None:
    """Both are replaced, one after the other, and Jobs are claimed all the time."""
    deployment = (f"deployment/{LEASE}", "-n", NAMESPACE)
    for _ in range(count):
        leader = await play.leader()
        play.kube.kubectl("rollout", "restart", *deployment)
        rollout = asyncio.create_task(
            asyncio.to_thread(play.kube.kubectl, "rollout", "status", *deployment, "--timeout=120s")
        )
        longest = 0.0
        while not rollout.done():
            began = time.monotonic()
            await play.flow.claims()
            longest = max(longest, time.monotonic() - began)
        await rollout
        play.faults["rollout"] = play.faults.get("rollout", 0) + 1
        play.note("rollout, longest time between two claims", longest)
        assert longest <= 2 * TERM_SECONDS, "both may lead in turn before the new one does"
        await play.flow.claims(epoch=leader.epoch + 1)


async def play_kills(play: Rounds, count: int) -> None:
    """Its container is started again, with the same name in the Lease, and leads on."""
    for _ in range(count):
        leader = await play.leader()
        began = time.monotonic()
        leader.kill()
        await play.claimed_after("leader killed", leader, began, limit=KILL_SECONDS)
        await replace(play.live, await leading_operator(play.live.api))


async def play_crash_loops(play: Rounds, count: int) -> None:
    """Its container is killed whenever it starts again, until the other has led."""
    for _ in range(count):
        leader = await play.leader()
        began = time.monotonic()
        leader.kill()
        crashes = asyncio.create_task(killed_whenever_it_starts(leader))
        try:
            await play.claimed_after("leader killed over and over", leader, began, limit=KILL_SECONDS)
            successor = await leading_operator(play.live.api)
            assert successor.uid != leader.uid
        finally:
            crashes.cancel()
        await replace(play.live, leader)


async def killed_whenever_it_starts(leader: LeadingOperator) -> None:
    while True:
        if leader.pids():
            leader.kill()
        await asyncio.sleep(0.1)  # much less than a start takes; a container's start can't be awaited from outside


async def play_stops(play: Rounds, count: int) -> None:
    """It stands still until another has claimed, and for a random time more; then it goes on where it was."""
    for _ in range(count):
        leader = await play.leader()
        log = asyncio.create_task(log_to_its_end(leader.pod))
        began = time.monotonic()
        with leader.stopped() as pids:
            await play.claimed_after("leader stopped", leader, began, limit=KILL_SECONDS)
            await asyncio.sleep(play.chance.uniform(0.0, 2.0))
            thawed = time.monotonic()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await ended(pids)
        except TimeoutError:
            raise AssertionError(f"{leader.pod} has not left {LEAVE_SECONDS:g} s after it went on") from None
        play.note("leader that goes on, to its end", time.monotonic() - thawed)
        said = [line for line in (await log).splitlines() if "leaving: " in line]
        assert len(said) == 1, said
        await replace(play.live, leader)


async def test_after_sigterm_the_next_leader_claims_within_three_seconds(
    live: Live, kube: Kube, request: pytest.FixtureRequest
) -> None:
    async with rounds(live, kube, request) as play:
        await play_deletions(play, 5)


async def test_while_a_rollout_replaces_both_operators_jobs_are_claimed(
    live: Live, kube: Kube, request: pytest.FixtureRequest
) -> None:
    async with rounds(live, kube, request) as play:
        await play_rollouts(play, 1)


async def test_after_sigkill_jobs_are_claimed_within_twenty_seconds_restarted_or_by_the_other(
    live: Live, kube: Kube, request: pytest.FixtureRequest
) -> None:
    async with rounds(live, kube, request) as play:
        await play_kills(play, 2)
        await play_crash_loops(play, 1)


async def test_a_stopped_leader_that_goes_on_beside_its_successor_breaks_nothing_and_leaves(
    live: Live, kube: Kube, request: pytest.FixtureRequest
) -> None:
    async with rounds(live, kube, request) as play:
        await play_stops(play, 5)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_thirty_stopped_leaders_that_go_on_break_nothing_and_leave(
    live: Live, kube: Kube, request: pytest.FixtureRequest
) -> None:
    async with rounds(live, kube, request) as play:
        await play_stops(play, 30)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_thirty_deletions_twenty_kills_and_five_rollouts_keep_the_limits(
    live: Live, kube: Kube, request: pytest.FixtureRequest
) -> None:
    async with rounds(live, kube, request) as play:
        await play_deletions(play, 30)
        await play_rollouts(play, 5)
        await play_kills(play, 10)
        await play_crash_loops(play, 10)
