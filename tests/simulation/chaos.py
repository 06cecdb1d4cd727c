"""Lives a plan to its end: a simulated cluster with two operators, who asks of it, and what breaks.

Everything follows from the plan, and what an attempt does only from the plan and its Job's scripts and number: so the
same plan is the same life every time.
"""

import asyncio
import logging
import random
from collections import Counter
from contextlib import suppress

from questline_operator.core.states import REASON_DELAY_SECONDS
from questline_operator.shell.api import JOBS, LEASES, Object
from tests.simulation import chaos_people
from tests.simulation.chaos_faults import UNREAD_ROLES, Breakage
from tests.simulation.chaos_people import People
from tests.simulation.chaos_scene import ReplicatedCluster, Scene
from tests.simulation.chaos_tasks import Tasks
from tests.simulation.clock import run_simulated
from tests.simulation.cluster import a_queue
from tests.simulation.judge import Judge
from tests.simulation.plan import CRONS, Deed, Plan
from tests.simulation.sdk import Attempt, Ended
from tests.simulation.store import Change

MENDING_SECONDS = 25.0
"""So long after the last fault an operator leads, and whatever was late or hung is over."""
SETTLING_SECONDS = 4_000.0
IDLE_SECONDS = 8.0
MOST_STEPS = 10_000
"""No plan needs so many: what makes more of them does not come to rest."""


class Life:
    """One run of a plan.

    Attributes:
        log: what was done and when, for whoever looks for a cause.
        history: every change, as (type, plural, name, resourceVersion).
        faults: how often each kind of fault was injected.
        actions: how many deeds of the plan found something to act on.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log: list[str] = []
        self.history: list[tuple[str, str, str, int]] = []
        self.actions = 0
        self._errors: list[str] = []
        self._living: asyncio.Task[list[str]] | None = None
        self._starts = random.Random(plan.seed)
        self.cluster = ReplicatedCluster(
            plan,
            self._note,
            behaviours={"work": self._work, "": self._work},
            seed=plan.seed,
            start_seconds=self._start_seconds,
            notice_seconds=plan.notice,
            nodes=3,
        )
        self.judge = Judge(self.cluster.server, max_running_pods=plan.max_running_pods)
        self.judge.leading = lambda: [replica.name for replica in self.cluster.replicas if replica.leads]
        self.judge.clock_error = max(map(abs, plan.skews))
        self.cluster.server.store.observers.append(self._see)
        self._scene = Scene(plan, self.cluster, self.judge, self.log)
        self._tasks = Tasks(self._scene)
        self._people = People(self._scene, self._tasks)
        self._breakage = Breakage(self._scene)

    def _start_seconds(self, pod: Object) -> float:
        slow = self.plan.slow_starts and self._starts.randrange(self.plan.slow_starts) == 0
        return self._starts.uniform(8.0, 20.0) if slow else self._starts.uniform(0.3, 1.5)

    @property
    def faults(self) -> Counter[str]:
        """How often each kind of fault was injected."""
        return self._scene.faults

    async def run(self) -> list[str]:
        """Live it to the end; what was broken."""
        living = self._living = asyncio.create_task(self._run())
        try:
            return await living
        except asyncio.CancelledError:
            return self.judge.violations + self._errors

    async def _run(self) -> list[str]:
        catcher = _Errors(self._errors)
        logging.getLogger("questline_operator").addHandler(catcher)
        try:
            async with self.cluster:
                await self._people.make_queues()
                for deed in self.plan.deeds:
                    await asyncio.sleep(deed.pause)
                    await self._do(deed)
                await asyncio.sleep(self.plan.rest)
                await self._mend()
                await self._settle()
                if self._people.kept:
                    self.judge.judge_kept()
                    self._note("all are let go")
                    self._people.let_all_go()
                    await self._settle()
                waiting = any(self.judge.waits(raw) for raw in self.cluster.server.store.peek_all(JOBS))
                # Those that wait for a Job that is gone are yet told so.
                await asyncio.sleep(IDLE_SECONDS + (2 * REASON_DELAY_SECONDS if waiting else 0.0))
                before = self._writes()
                await asyncio.sleep(IDLE_SECONDS)
                if idle := self._writes() - before:
                    self._errors.append(f"{idle} writes in {IDLE_SECONDS:g} seconds in which nothing happened")
                if len(set(self.cluster.epochs)) < len(self.cluster.epochs):
                    self._errors.append(f"two leaderships had one epoch: {self.cluster.epochs}")
                verdict = self.judge.verdict(self.cluster.kubelet.runs, self._tasks.told)
        finally:
            logging.getLogger("questline_operator").removeHandler(catcher)
        self._breakage.count()
        return verdict + self._errors

    async def _settle(self) -> None:
        """Until all have come to rest; where they do not, the judge says what of it is wrong."""
        with suppress(AssertionError):
            await self.cluster.until(self._settled, seconds=SETTLING_SECONDS)

    def _writes(self) -> int:
        """What operators wrote, but for what retention deletes, and the counts of queues, which change by that."""
        return sum(
            number
            for (client, verb, plural, _), number in self.cluster.server.calls.items()
            if client.startswith("operator-")
            and verb in ("create", "patch")
            and plural in ("questjobs", "questworkers", "questschedules")
        )

    @property
    def steps(self) -> int:
        """Changes that were applied to the API server; renewals of the Lease do not count."""
        return len(self.history)

    def _see(self, change: Change) -> None:
        if len(self.history) == MOST_STEPS and self._living is not None:
            self._errors.append(f"{MOST_STEPS} steps, and it does not come to rest; the last: {self.history[-8:]}")
            self._living.cancel()
            self._living = None
        if change.resource != LEASES:
            self.history.append((change.type, change.resource.plural, change.key[1], change.version))

    def _note(self, what: str) -> None:
        self._scene.note(what)

    async def _work(self, attempt: Attempt) -> Ended:
        return await self._tasks.work(attempt)

    async def _do(self, deed: Deed) -> None:
        self._note(f"{deed}")
        if isinstance(deed, chaos_people.Deed):
            self.actions += await self._people.do(deed)
        else:
            self.actions += await self._breakage.do(deed)

    # The end

    async def _mend(self) -> None:
        """Everything works again; while Jobs wait, one more tree is canceled, or one Job deleted, and one runs again;
        then nothing is held any more: from here on each Job must come to its end."""
        people = self._people
        self._breakage.mend()
        people.set_queues(paused=True, concurrency=2)
        people.limit_again()
        people.set_schedules(suspend=False, cron=CRONS[0])
        self._note("mended")
        await asyncio.sleep(MENDING_SECONDS)
        self.judge.calm_since = self.cluster.clock.monotonic()
        self._note("calm")
        if self.plan.seed % 2:
            people.delete_of_a_group()
        else:
            people.cancel_a_tree()
        people.run_one_again()
        for ask in self.plan.last:
            await people.do(ask)
        await asyncio.sleep(2.0)
        await self.cluster.apply(a_queue("later", concurrency=3))
        people.set_queues(paused=False)
        people.resume_jobs()
        if self.plan.let_go:
            people.let_all_go()
        if people.schedules:
            await self._see_ticks()

    async def _see_ticks(self) -> None:
        """One tick of each Schedule comes, one passes while they are suspended, and they stay suspended."""
        people = self._people
        await people.await_tick(3.0)
        people.set_schedules(suspend=True)
        await people.await_tick(1.0)
        people.set_schedules(suspend=False)
        await asyncio.sleep(2.0)
        people.set_schedules(suspend=True)

    def _settled(self) -> bool:
        jobs = self.cluster.server.store.peek_all(JOBS)
        return not self.judge.slots.live_pods and all(self.judge.is_at_rest(raw) for raw in jobs)


def live(plan: Plan) -> tuple[Life, list[str]]:
    """The whole life of that plan, and what was broken in it."""
    lives: list[Life] = []

    async def main() -> list[str]:
        lives.append(Life(plan))
        return await lives[0].run()

    broken = run_simulated(main())
    return lives[0], broken


class _Errors(logging.Handler):
    """Keeps what the operator logs as an error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if UNREAD_ROLES in record.getMessage():
            return  # a right that is missing is told as an error, whoever may have to give it
        self._errors.append(f"logged: {record.getMessage()}: {error!r}")
