"""Lives a plan to its end: a simulated cluster with two operators, who asks of it, and what breaks.

Everything follows from the plan, and what an attempt does only from the plan and its Job's scripts and number: so the
same plan is the same life every time.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from questline_operator.core.states import REASON_DELAY_SECONDS, State
from questline_operator.shell.api import CONFIG_MAPS, JOBS, LEASES, PODS, QUEUES, WORKERS, ApiError, Object, Resource
from questline_operator.shell.epoch import FENCE
from tests.simulation.apiserver import Cut
from tests.simulation.clock import run_simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue
from tests.simulation.faults import Fault, internal_error, too_many_requests
from tests.simulation.judge import Judge
from tests.simulation.plan import (
    Ask,
    Child,
    Compact,
    Deed,
    DeleteJob,
    EditJob,
    EditQueue,
    EditWorker,
    EndWatches,
    Freeze,
    JumpClock,
    Kill,
    Lag,
    LoseNode,
    Partition,
    Plan,
    Script,
    TakePod,
    Terminate,
    Trouble,
    Who,
)
from tests.simulation.policies import Fence, immutable, lineage, report
from tests.simulation.replica import NAMESPACE as SYSTEM
from tests.simulation.replica import Replica
from tests.simulation.sdk import (
    Attempt,
    Ended,
    FateUnknownError,
    canceled,
    exits,
    failed,
    fatal,
    retry,
    snoozed,
    succeeded,
)
from tests.simulation.store import Change

MENDING_SECONDS = 25.0
"""So long after the last fault an operator leads, and whatever was late or hung is over."""
SETTLING_SECONDS = 4_000.0
IDLE_SECONDS = 8.0
MOST_STEPS = 10_000
"""No plan needs so many: what makes more of them does not come to rest."""
CHILDREN = (3, 1)
"""So many children an attempt enqueues at most, by its Job's depth."""
LAST_SCRIPTED_ATTEMPT = 12
"""Later ones succeed: a script that always snoozes would never end."""
_RESOURCES: dict[str, Resource] = {resource.plural: resource for resource in (JOBS, PODS, QUEUES, WORKERS)}
_ENDS: dict[str, Callable[[], Ended]] = {
    "failed": failed,
    "crashed": lambda: exits(3),
    "retry": lambda: retry(2.0),
    "snoozed": lambda: snoozed(2.0),
    "fatal": fatal,
    "canceled": canceled,
}


class ReplicatedCluster(Cluster):
    """A cluster whose operator is two replicas that elect a leader, behind the chart's policies."""

    def __init__(self, plan: Plan, judged: Callable[[str], None], **kubelet: Any) -> None:
        super().__init__(**kubelet)
        self.note = judged
        self.epochs: list[int] = []
        """Of every leadership."""
        self.replicas = [
            Replica(self.server, name, skew=skew, note=self.note, led=self.epochs.append)
            for name, skew in zip("ab", plan.skews, strict=True)
        ]
        self.fence = Fence(self.server, namespace=SYSTEM, lag=plan.fence_lag)
        self.server.store.admission.extend([lineage, report, immutable, self.fence])

    def start_operator(self) -> None:
        """Start both."""
        for replica in self.replicas:
            replica.start()

    async def crash_operator(self) -> None:
        """Kill both; none comes back."""
        for replica in self.replicas:
            await replica.kill(seconds=float("inf"))


class Life:
    """One run of a plan.

    Attributes:
        told: how the code of each pod ended by itself, by the pod's UID.
        log: what was done and when, for whoever looks for a cause.
        history: every change, as (type, plural, name, resourceVersion).
        faults: how often each kind of fault was injected.
        actions: how many deeds of the plan found something to act on.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.told: dict[str, str] = {}
        self.log: list[str] = []
        self.history: list[tuple[str, str, str, int]] = []
        self.faults: Counter[str] = Counter()
        self.actions = 0
        self._errors: list[str] = []
        self._living: asyncio.Task[list[str]] | None = None
        self._scripts_of: dict[str, Sequence[int]] = {}
        self._asked: list[str] = []
        self._held: set[str] = set()
        self._troubles: list[tuple[str, Fault]] = []
        starts = random.Random(plan.seed)
        self.cluster = ReplicatedCluster(
            plan,
            self._note,
            behaviours={"work": self._work, "": self._work},
            seed=plan.seed,
            start_seconds=lambda pod: starts.uniform(0.3, 1.5),
            notice_seconds=plan.notice,
            nodes=3,
        )
        self.judge = Judge(self.cluster.server)
        self.judge.leading = lambda: [replica.name for replica in self.cluster.replicas if replica.leads]
        self.judge.clock_error = max(map(abs, plan.skews))
        self.cluster.server.store.observers.append(self._see)

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
                narrow, wide = self.plan.concurrency
                await self.cluster.apply(a_queue("narrow", concurrency=narrow), a_queue("wide", concurrency=wide))
                for deed in self.plan.deeds:
                    await asyncio.sleep(deed.pause)
                    await self._do(deed)
                await asyncio.sleep(self.plan.rest)
                await self._mend()
                with suppress(AssertionError):  # the judge says what of it is wrong
                    await self.cluster.until(self._settled, seconds=SETTLING_SECONDS)
                waiting = any("finishedAt" not in raw["status"] for raw in self.cluster.server.store.peek_all(JOBS))
                # Those that wait for a Job that is gone are yet told so.
                await asyncio.sleep(IDLE_SECONDS + (2 * REASON_DELAY_SECONDS if waiting else 0.0))
                before = self._writes()
                await asyncio.sleep(IDLE_SECONDS)
                if idle := self._writes() - before:
                    self._errors.append(f"{idle} writes in {IDLE_SECONDS:g} seconds in which nothing happened")
                if len(set(self.cluster.epochs)) < len(self.cluster.epochs):
                    self._errors.append(f"two leaderships had one epoch: {self.cluster.epochs}")
                verdict = self.judge.verdict(self.cluster.kubelet.runs, self.told)
        finally:
            logging.getLogger("questline_operator").removeHandler(catcher)
        for kind, fault in self._troubles:
            self.faults[kind] += fault.hits
        self.faults["refused by the fence"] += self.cluster.fence.refused
        return verdict + self._errors

    def _writes(self) -> int:
        """What operators wrote, but for what retention deletes, and the counts of queues, which change by that."""
        return sum(
            number
            for (client, verb, plural, _), number in self.cluster.server.calls.items()
            if client.startswith("operator-")
            and verb in ("create", "patch")
            and plural in ("questjobs", "questworkers")
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
        self.log.append(f"{self.cluster.clock.monotonic():8.3f} {what}")

    # What attempts do

    async def _work(self, attempt: Attempt) -> Ended:
        numbers = self._scripts_of.get(attempt.job) or attempt.args.get("scripts") or (0,)
        number = numbers[(attempt.number - 1) % len(numbers)]
        script = self.plan.scripts[number % len(self.plan.scripts)]
        attempt.handles_sigterm = script.deaf
        await attempt.work(script.work)
        if not attempt.task:
            code = 0 if script.end == "succeeded" or attempt.number > LAST_SCRIPTED_ATTEMPT else 3
            self.told[attempt.pod_uid] = "Failed" if code else "Succeeded"
            return exits(code, '{"rows": 3}')
        depth = attempt.payload["job"]["depth"]
        if depth < len(CHILDREN):
            try:
                for child in script.children[: CHILDREN[depth]]:
                    await self._enqueue(attempt, child)
            except (ApiError, FateUnknownError) as error:
                self.told[attempt.pod_uid] = "Failed"
                return failed(str(error), error=type(error).__name__)
            if script.stray:
                attempt.enqueue_unseen("tasks:work", args={"scripts": [0]})
        return self._end(attempt, script)

    async def _enqueue(self, attempt: Attempt, child: Child) -> None:
        await attempt.work(child.pause)
        await attempt.enqueue(
            "tasks:work",
            unique=_unique(child.unique),
            staged=child.staged,
            queue=child.queue,
            maxAttempts=child.max_attempts,
            args={"scripts": list(child.scripts)},
        )

    def _end(self, attempt: Attempt, script: Script) -> Ended:
        if script.end == "succeeded" or attempt.number > LAST_SCRIPTED_ATTEMPT:
            ended = succeeded({"by": attempt.pod_uid})
        else:
            ended = _ENDS[script.end]()
        self.told[attempt.pod_uid] = str(ended.outcome["outcome"]) if ended.outcome else "Failed"
        return ended if script.reports else ended.unreported()

    # What is asked, and what breaks

    async def _do(self, deed: Deed) -> None:
        self._note(f"{deed}")
        done = True
        match deed:
            case Ask():
                done = self._ask(deed)
            case EditJob() | DeleteJob():
                done = self._edit_job(deed)
            case EditQueue():
                self._edit_queue(deed)
            case EditWorker():
                operations = [{"op": "add", "path": "/spec/image", "value": f"w:{len(self.log)}"}]
                self.cluster.server.store.patch(WORKERS, NAMESPACE, "default", operations)
            case TakePod() | LoseNode():
                done = self._take(deed)
            case Trouble():
                self._trouble(deed)
            case EndWatches(resource=plural, how=how):
                ended = self.cluster.server.end_watches(
                    _RESOURCES.get(plural or ""), client="operator-", broken=how == "break", expired=how == "expire"
                )
                self.faults[f"watches: {how}"] += ended
            case Lag(resource=plural, seconds=seconds):
                self._lag(plural, seconds)
            case Compact(ended=ended):
                self.faults["history compacted"] += 1
                self.cluster.server.compact()
                if ended:
                    self.cluster.server.end_watches(client="operator-", broken=True)
            case Kill() | Terminate() | Freeze() | Partition() | JumpClock():
                done = await self._hurt(deed)
        self.actions += done

    def _ask(self, ask: Ask) -> bool:
        name = f"job-{len(self._asked):02}"
        spec: Object = {
            "queue": ask.queue,
            "maxAttempts": ask.max_attempts,
            "backoff": {"baseSeconds": ask.base_seconds},
            "priority": ask.priority,
        }
        if ask.command:
            spec |= {"command": ["load"], "image": "load:1"}
        else:
            spec |= {"task": "tasks:work", "args": {"scripts": list(ask.scripts)}}
        if ask.unique is not None:
            spec["unique"] = _unique(ask.unique)
            if ask.window:
                spec["unique"] |= {"scope": "Window", "windowSeconds": ask.window}
        if ask.after and self._asked:
            after = dict.fromkeys(self._asked[place % len(self._asked)] for place in ask.after)
            spec |= {
                "after": [{"job": one} for one in after],
                "afterPolicy": "Finished" if ask.finished else "Succeeded",
            }
        if ask.suspend:
            spec["suspend"] = True
        if ask.ttl is not None:
            spec["ttlSecondsAfterFinished"] = ask.ttl
        if ask.run_at:
            spec["runAt"] = self.cluster.server.store.timestamp(ask.run_at)
        self._asked.append(name)
        self._scripts_of[name] = ask.scripts
        self.cluster.server.store.create(JOBS, NAMESPACE, a_job(name, **spec))
        return True

    def _edit_job(self, deed: EditJob | DeleteJob) -> bool:
        jobs = self.cluster.jobs()
        # The unfinished ones first: whatever is done to a finished Job is soon told.
        jobs.sort(key=lambda job: (job.terminal, job.name))
        if not jobs:
            return False
        job = jobs[deed.job % len(jobs)]
        self._note(f"  it is {job.name}, {job.state}")
        if isinstance(deed, DeleteJob):
            self.faults["Job deleted"] += 1
            self.judge.deleted_by_hand.add(job.uid)
            self.cluster.server.store.delete(JOBS, NAMESPACE, job.name)
        elif deed.what == "touch":
            operations = [{"op": "add", "path": "/metadata/annotations", "value": {"touched": str(len(self.log))}}]
            self.cluster.server.store.patch(JOBS, NAMESPACE, job.name, operations)
        elif deed.what == "priority":
            self._set(JOBS, job.name, "priority", deed.value)
        else:
            field, value = {"cancel": ("cancel", True), "suspend": ("suspend", True), "resume": ("suspend", False)}[
                deed.what
            ]
            self._set(JOBS, job.name, field, value)
        return True

    def _edit_queue(self, deed: EditQueue) -> None:
        if deed.concurrency is not None:
            self._set(QUEUES, deed.queue, "concurrency", deed.concurrency)
        else:
            self._set(QUEUES, deed.queue, "paused", deed.paused)

    def _set(self, resource: Resource, name: str, field: str, value: object) -> None:
        operations = [{"op": "add", "path": f"/spec/{field}", "value": value}]
        self.cluster.server.store.patch(resource, NAMESPACE, name, operations)

    def _take(self, deed: TakePod | LoseNode) -> bool:
        pods = [pod for pod in self.cluster.pods() if pod.phase in ("Pending", "Running")]
        kubelet, store = self.cluster.kubelet, self.cluster.server.store
        if not pods:
            return False
        if isinstance(deed, LoseNode):
            self.faults["node lost"] += 1
            kubelet.lose_node(deed.node)
            return True
        pod = pods[deed.pod % len(pods)]
        self._note(f"  it is {pod.name}")
        self.faults[f"pod: {deed.how}"] += 1
        if deed.how == "evict":
            kubelet.evict(NAMESPACE, pod.name)
        elif deed.how == "pressure":
            kubelet.node_pressure(NAMESPACE, pod.name)
        elif deed.how == "lose":
            kubelet.lose(NAMESPACE, pod.name)
        else:
            store.delete(PODS, NAMESPACE, pod.name, grace_seconds=0 if deed.how == "force" else None)
        return True

    def _trouble(self, deed: Trouble) -> None:
        verb, plural = deed.what
        fault = Fault(
            client=deed.who,
            verb=verb,  # type: ignore[arg-type]
            resource=_RESOURCES.get(plural or ""),
            times=deed.times,
        )
        match deed.kind:
            case "request" | "answer":
                fault.lose, fault.hang_seconds = deed.kind, deed.seconds
            case "slow":
                fault.delay_seconds = deed.seconds
            case "late answer":
                fault.answer_delay_seconds = deed.seconds
            case "429":
                fault.error = too_many_requests(deed.seconds)
            case "500":
                fault.error = internal_error()
            case "503":
                fault.error = ApiError(
                    503, "ServiceUnavailable", "the server is currently unable to handle the request"
                )
            case "quota":
                fault.client, fault.verb, fault.resource = "operator-", "create", PODS
                fault.error = ApiError(403, "Forbidden", "exceeded quota: pods, requested: pods=1")
            case "stale":
                fault.client, fault.verb, fault.stale_versions = "operator-", "list", deed.times * 3
                if verb == "watch":
                    fault.verb = "watch"
        self._troubles.append((f"request: {deed.kind}", fault))
        self.cluster.server.faults.append(fault)

    def _lag(self, plural: str | None, seconds: float) -> None:
        self.faults["watches late"] += seconds > 0

        def lag(client: str, resource: Resource) -> float:
            return seconds if resource.plural == plural and client.startswith("operator-") else 0.0

        self.cluster.server.watch_lag = lag

    def _replica(self, who: Who) -> Replica:
        first, second = self.cluster.replicas
        leads = second if second.leads else first
        return leads if who == "leader" else (second if leads is first else first)

    async def _hurt(self, deed: Kill | Terminate | Freeze | Partition | JumpClock) -> bool:
        replica, loop = self._replica(deed.who), asyncio.get_running_loop()
        self._note(f"  it is {replica.name}, {replica.client or 'ended'}{', frozen' if replica.frozen else ''}")
        if isinstance(deed, JumpClock):
            self.faults["clock jump"] += 1
            replica.clock.jump(deed.seconds)
            self.judge.clock_error += abs(deed.seconds)
            return True
        if not replica.client:
            return False
        match deed:
            case Kill(write=0):
                self.faults["operator killed"] += 1
                await replica.kill(seconds=deed.down, new_pod=deed.new_pod)
            case Kill():
                where: Cut = "after" if deed.after else "before"
                self.faults[f"operator killed {where} a write"] += 1
                replica.kill_at_write(deed.write, where, seconds=deed.down, new_pod=deed.new_pod)
            case Terminate():
                self.faults["operator terminated"] += 1
                replica.terminate(seconds=deed.down)
            case Freeze():
                self.faults["operator frozen"] += 1
                if deed.hold is not None:
                    self._hold(replica.client, deed.hold)
                replica.freeze()
                loop.call_later(deed.seconds, replica.thaw)
            case Partition():
                self.faults["operator cut off"] += 1
                lose = "answer" if deed.answers else "request"
                fault = Fault(client=replica.client, times=None, lose=lose, hang_seconds=1.0)  # type: ignore[arg-type]
                self.cluster.server.faults.insert(0, fault)
                self.cluster.server.end_watches(client=replica.client, broken=True)
                loop.call_later(deed.seconds, self._heal, fault)
        return True

    def _heal(self, fault: Fault) -> None:
        if fault in self.cluster.server.faults:
            self.cluster.server.faults.remove(fault)

    def _hold(self, client: str, seconds: float) -> None:
        """Keep the client's requests on their way until some time after the epoch is raised, or all is mended."""
        server, loop = self.cluster.server, asyncio.get_running_loop()
        server.hold(client)
        self._held.add(client)

        def raised(change: Change) -> None:
            if change.resource == CONFIG_MAPS and change.key[1] == FENCE:
                server.store.observers.remove(raised)
                loop.call_later(seconds, server.let_go, client)

        server.store.observers.append(raised)

    # The end

    async def _mend(self) -> None:
        """Everything works again, and one more tree is cancelled while its Jobs wait; then nothing is held any more:
        from here on each Job must come to its end."""
        server = self.cluster.server
        server.faults.clear()
        server.watch_lag = lambda client, resource: 0.0
        for client in self._held:
            server.let_go(client)
        for replica in self.cluster.replicas:
            replica.mend()
        for queue in ("narrow", "wide"):
            self._set(QUEUES, queue, "paused", True)
            self._set(QUEUES, queue, "concurrency", 2)
        self._note("mended")
        await asyncio.sleep(MENDING_SECONDS)
        self.judge.calm_since = self.cluster.clock.monotonic()
        self._note("calm")
        held = {job.parent.name for job in self.cluster.jobs() if job.parent and job.state is State.WAITING}
        parents = sorted(job.name for job in self.cluster.jobs() if job.name in held)
        if parents:
            self._set(JOBS, parents[self.plan.seed % len(parents)], "cancel", True)
        await asyncio.sleep(2.0)
        await self.cluster.apply(a_queue("later", concurrency=3))
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


def live(plan: Plan) -> tuple[Life, list[str]]:
    """The whole life of that plan, and what was broken in it."""
    lives: list[Life] = []

    async def main() -> list[str]:
        lives.append(Life(plan))
        return await lives[0].run()

    broken = run_simulated(main())
    return lives[0], broken


def _unique(key: str | None) -> dict[str, Any] | None:
    return None if key is None else {"key": key} if key else {}


class _Errors(logging.Handler):
    """Keeps what the operator logs as an error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._errors.append(f"logged: {record.getMessage()}: {error!r}")
