"""One seeded random life of a whole simulated cluster: what is asked of it, what breaks, and what its tasks do.

Everything is drawn from the seed, and what an attempt does only from the seed, its Job's name and its number: so a run
is the same every time, and a failure is replayed by its seed.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress

from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, PODS, QUEUES, WORKERS, ApiError, Object, Resource
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue
from tests.simulation.faults import Fault, internal_error, too_many_requests
from tests.simulation.judge import Judge
from tests.simulation.policies import immutable, lineage, report
from tests.simulation.sdk import Attempt, Ended, canceled, exits, failed, fatal, retry, snoozed, succeeded

QUEUES_OF_JOBS = ("default", "narrow", "wide")
CHAOS_SECONDS = 45.0


class Chaos:
    """A cluster, and who asks and breaks.

    Attributes:
        told: how the code of each pod ended by itself, by the pod's UID.
        log: what was done and when, for whoever looks for a cause.
        errors: errors of the operator that nobody foresaw.
        history: every change, as (type, plural, name, resourceVersion).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.told: dict[str, str] = {}
        self.log: list[str] = []
        self.errors: list[str] = []
        self._dice = random.Random(seed)
        starts = random.Random(f"starts/{seed}")
        self.cluster = Cluster(
            {"work": self._work, "once": self._once, "": self._once},
            seed=seed,
            start_seconds=lambda pod: starts.uniform(0.3, 1.5),
            notice_seconds=(starts.uniform(0.05, 2.0), starts.uniform(0.05, 2.0)),
        )
        self.judge = Judge(self.cluster.server)
        self.history: list[tuple[str, str, str, int]] = []
        self.cluster.server.store.admission.extend([lineage, report, immutable])
        self.cluster.server.store.observers.append(
            lambda change: self.history.append((change.type, change.resource.plural, change.key[1], change.version))
        )

    async def run(self) -> list[str]:
        """Live it to the end; what was broken."""
        catcher = _Errors(self.errors)
        logging.getLogger("questline_operator").addHandler(catcher)
        try:
            async with self.cluster:
                await self._ask()
                await self._break_things()
                await self._mend()
                with suppress(AssertionError):  # the judge says what of it is wrong
                    await self.cluster.until(self._settled, seconds=4000)
                await asyncio.sleep(100)
                before = self.cluster.writes(JOBS, QUEUES, WORKERS)
                await asyncio.sleep(60)
                idle = self.cluster.writes(JOBS, QUEUES, WORKERS) - before
                verdict = self.judge.verdict(self.cluster.kubelet.runs, self.told)
                if idle:
                    verdict.append(f"{idle} writes in a minute in which nothing happened")
        finally:
            logging.getLogger("questline_operator").removeHandler(catcher)
        return verdict + self.errors

    def _note(self, what: str) -> None:
        self.log.append(f"{self.cluster.clock.monotonic():8.3f} {what}")

    # What attempts do

    async def _work(self, attempt: Attempt) -> Ended:
        """Some work, some children, and an end that is drawn too."""
        dice = random.Random(f"{self.seed}/{attempt.job}/{attempt.number}")
        attempt.handles_sigterm = dice.random() < 0.2
        await attempt.work(dice.uniform(0.0, 3.0))
        for _ in range(dice.choice((0, 0, 1, 1, 2, 3)) if attempt.payload["job"]["depth"] < 2 else 0):
            await self._enqueue(attempt, dice)
            await attempt.work(dice.choice((0.0, dice.uniform(0.0, 1.0))))
        return self._ends(attempt, dice)

    async def _once(self, attempt: Attempt) -> Ended:
        """Work without children."""
        dice = random.Random(f"{self.seed}/{attempt.job}/{attempt.number}")
        await attempt.work(dice.uniform(0.0, 5.0))
        if not attempt.task:
            code = dice.choice((0, 0, 0, 3))
            self.told[attempt.pod_uid] = "Failed" if code else "Succeeded"
            return exits(code, '{"rows": 3}')
        return self._ends(attempt, dice)

    async def _enqueue(self, attempt: Attempt, dice: random.Random) -> None:
        queue, staged = dice.choice(QUEUES_OF_JOBS), dice.random() < 0.8
        if dice.random() < 0.3:
            unique = {"key": dice.choice("ab")}
            await attempt.enqueue("tasks:once", unique=unique, staged=staged, queue=queue)
        else:
            await attempt.enqueue("tasks:work", staged=staged, queue=queue, maxAttempts=dice.choice((1, 2, 5)))

    def _ends(self, attempt: Attempt, dice: random.Random) -> Ended:
        ends: dict[Callable[[], Ended], float] = {
            succeeded: 14,
            failed: 4,
            lambda: exits(3): 1,
            lambda: retry(2.0): 1,
            lambda: snoozed(2.0): 1,
            fatal: 0.5,
            canceled: 0.5,
        }
        ended = dice.choices(list(ends), list(ends.values()))[0]()
        self.told[attempt.pod_uid] = str(ended.outcome["outcome"]) if ended.outcome else "Failed"
        return ended.unreported() if dice.random() < 0.2 else ended

    # What is asked

    async def _ask(self) -> None:
        dice = self._dice
        await self.cluster.apply(a_queue("narrow", concurrency=dice.choice((1, 2))), a_queue("wide", concurrency=4))
        names: list[str] = []
        for number in range(dice.randint(6, 14)):
            await self._ask_one(f"job-{number:02}", names)
            names.append(f"job-{number:02}")
            await asyncio.sleep(dice.choice((0.0, 0.0, dice.uniform(0.0, 1.0))))

    async def _ask_one(self, name: str, names: list[str]) -> None:
        dice = self._dice
        spec: Object = {"queue": dice.choice(QUEUES_OF_JOBS), "maxAttempts": dice.choice((1, 3, 5))}
        spec["backoff"] = {"baseSeconds": dice.choice((0, 1, 2))}
        spec["priority"] = dice.choice((0, 0, 0, 5, -5))
        kind = dice.choice(("task", "task", "task", "unique", "unique", "command"))
        if kind == "unique":
            spec["unique"] = {"key": dice.choice("ab")}
            if dice.random() < 0.3:
                spec["unique"] |= {"scope": "Window", "windowSeconds": dice.choice((5, 30))}
            spec["task"] = "tasks:once"
        elif kind == "command":
            spec |= {"command": ["load"], "image": "load:1"}
        if names and dice.random() < 0.4:
            spec["after"] = [{"job": one} for one in dice.sample(names, min(len(names), dice.randint(1, 2)))]
            spec["afterPolicy"] = dice.choice(("Succeeded", "Finished"))
        if dice.random() < 0.1:
            spec["suspend"] = True
        if dice.random() < 0.1:
            spec["ttlSecondsAfterFinished"] = 1
        with suppress(ApiError):
            self.cluster.server.store.create(JOBS, NAMESPACE, a_job(name, **spec))
            self._note(f"Job {name} {spec}")

    # What breaks

    async def _break_things(self) -> None:
        dice, clock = self._dice, self.cluster.clock
        deeds: dict[Callable[[], None], float] = {
            self._add_fault: 6,
            self._end_watches: 3,
            self._lag: 2,
            self._compact: 1,
            self._take_pod: 5,
            self._delete_job: 1.5,
            self._edit_job: 3,
            self._edit_queue: 1,
        }
        number = 0
        end = clock.monotonic() + CHAOS_SECONDS
        while clock.monotonic() < end:
            await asyncio.sleep(dice.expovariate(1.2))
            if dice.random() < 0.12:
                self._note("operator killed")
                await self.cluster.crash_operator()
                await asyncio.sleep(dice.choice((0.0, dice.uniform(0.0, 8.0))))
                self.cluster.start_operator()
                self._note("operator started")
            elif dice.random() < 0.1:
                number += 1
                await self._ask_one(f"late-{number}", [job.name for job in self.cluster.jobs()])
            else:
                dice.choices(list(deeds), list(deeds.values()))[0]()

    def _add_fault(self) -> None:
        dice = self._dice
        fault = Fault(
            client=dice.choice(("operator-", "operator-", "pod/")),
            verb=dice.choice((None, "patch", "create", "create", "delete", "get", "list", "watch")),
            resource=dice.choice((None, JOBS, PODS, PODS)),
            times=dice.randint(1, 6),
            probability=dice.choice((0.3, 1.0)),
        )
        kind = dice.choice(("request", "answer", "answer", "error", "slow"))
        if kind == "slow":
            fault.delay_seconds, fault.answer_delay_seconds = dice.uniform(0, 2), dice.uniform(0, 2)
        elif kind == "error":
            unavailable = ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request")
            fault.error = dice.choice((too_many_requests(dice.uniform(0.1, 3)), internal_error(), unavailable))
        else:
            fault.lose = "request" if kind == "request" else "answer"
            fault.hang_seconds = dice.choice((0.0, dice.uniform(0, 10)))
        self.cluster.server.faults.append(fault)
        self._note(f"{fault}")

    def _end_watches(self) -> None:
        resource, broken = self._dice.choice((None, JOBS, PODS)), self._dice.random() < 0.5
        self._note(f"watches of {resource.plural if resource else 'all kinds'} {'break' if broken else 'end'}")
        self.cluster.server.end_watches(resource, client="operator-", broken=broken)

    def _lag(self) -> None:
        slow = self._dice.choice((JOBS, PODS, QUEUES, None))
        seconds = self._dice.choice((0.05, 0.5, 3.0, 8.0))
        self._note(f"watches of {slow.plural if slow else 'nothing'} are {seconds} s late")

        def lag(client: str, resource: Resource) -> float:
            return seconds if resource == slow and client.startswith("operator-") else 0.0

        self.cluster.server.watch_lag = lag

    def _compact(self) -> None:
        self._note("history is compacted")
        self.cluster.server.compact()
        if self._dice.random() < 0.7:
            self._end_watches()

    def _take_pod(self) -> None:
        pods = [pod for pod in self.cluster.pods() if pod.phase in ("Pending", "Running")]
        if not pods:
            return
        pod = self._dice.choice(pods)
        kubelet, store = self.cluster.kubelet, self.cluster.server.store
        how = self._dice.choice(("evict", "pressure", "lose", "delete", "force"))
        self._note(f"pod {pod.name}: {how}")
        if how == "evict":
            kubelet.evict(NAMESPACE, pod.name)
        elif how == "pressure":
            kubelet.node_pressure(NAMESPACE, pod.name)
        elif how == "lose":
            kubelet.lose(NAMESPACE, pod.name)
        else:
            store.delete(PODS, NAMESPACE, pod.name, grace_seconds=0 if how == "force" else None)

    def _some_job(self) -> str | None:
        jobs = self.cluster.jobs()
        unfinished = [job for job in jobs if not job.terminal]
        jobs = unfinished if unfinished and self._dice.random() < 0.7 else jobs
        return self._dice.choice(jobs).name if jobs else None

    def _delete_job(self) -> None:
        name = self._some_job()
        if name is not None:
            self._note(f"Job {name} is deleted")
            self.judge.deleted_by_hand.add(self.cluster.job(name).uid)
            self.cluster.server.store.delete(JOBS, NAMESPACE, name)

    def _edit_job(self) -> None:
        name = self._some_job()
        if name is not None:
            dice = self._dice
            field, value = dice.choice(
                (("cancel", True), ("suspend", True), ("suspend", False), ("priority", dice.randint(-9, 9)))
            )
            self._set(JOBS, name, field, value)

    def _edit_queue(self) -> None:
        name, paused = self._dice.choice(("narrow", "wide")), self._dice.random() < 0.5
        self._set(QUEUES, name, "paused", paused)

    def _set(self, resource: Resource, name: str, field: str, value: object) -> None:
        self._note(f"{resource.plural} {name}: {field} = {value}")
        operations = [{"op": "add", "path": f"/spec/{field}", "value": value}]
        self.cluster.server.store.patch(resource, NAMESPACE, name, operations)

    # The end

    async def _mend(self) -> None:
        """Everything works again, and one more tree is cancelled while its Jobs wait; then nothing is held any more:
        from here on each Job must come to its end."""
        self.cluster.server.faults.clear()
        self.cluster.server.watch_lag = lambda client, resource: 0.0
        for queue in ("narrow", "wide"):
            self._set(QUEUES, queue, "paused", True)
        await asyncio.sleep(25.0)  # what was late or hung is over
        self.judge.calm_since = self.cluster.clock.monotonic()
        self._note("mended")
        held = {job.parent.name for job in self.cluster.jobs() if job.parent and job.state is State.WAITING}
        parents = sorted(job.name for job in self.cluster.jobs() if job.name in held)
        if parents:
            self._set(JOBS, self._dice.choice(parents), "cancel", True)
        await asyncio.sleep(2.0)
        for queue in ("narrow", "wide"):
            self._set(QUEUES, queue, "paused", False)
        for job in self.cluster.jobs():
            if job.suspend:
                self._set(JOBS, job.name, "suspend", False)

    def _settled(self) -> bool:
        return all(self._at_rest(raw) for raw in self.cluster.server.store.peek_all(JOBS))

    def _at_rest(self, raw: Object) -> bool:
        """Whether it is finished, or waits for a Job that is gone."""
        return "finishedAt" in raw["status"] or self.judge.waits_for_a_missing_job(raw)


class _Errors(logging.Handler):
    """Keeps what the operator logs as an error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._errors.append(f"logged: {record.getMessage()}: {error!r}")
