"""What people do in a life: ask for Jobs, and change or delete Jobs, queues, Workers and Schedules."""

import asyncio
from collections.abc import Callable, Sequence

from questline_operator.core.records import Job
from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, QUEUES, SCHEDULES, WORKERS, Object, Resource
from tests.simulation.chaos_scene import Scene
from tests.simulation.chaos_tasks import Tasks, limits, unique
from tests.simulation.clock import START
from tests.simulation.cluster import NAMESPACE, a_job, a_queue, a_schedule
from tests.simulation.plan import (
    CATCH_UPS,
    CRONS,
    EDITED,
    OVERLAPS,
    RATES,
    Ask,
    AwaitTick,
    DeleteJob,
    DeleteSchedule,
    EditJob,
    EditQueue,
    EditSchedule,
    EditWorker,
    MakeSchedule,
    Of,
    Scheduled,
)

MINUTE = 60.0
FINALIZER = "example.com/audit"
"""What people put on a Job that is not to go before they have looked at it."""
Deed = Ask | EditJob | DeleteJob | EditQueue | EditWorker | MakeSchedule | EditSchedule | DeleteSchedule | AwaitTick
"""What people do."""


class People:
    """Whoever uses the cluster."""

    def __init__(self, scene: Scene, tasks: Tasks) -> None:
        self._scene = scene
        self._tasks = tasks
        self._store = scene.cluster.server.store
        self._asked: list[str] = []
        self._last = ""
        """The Job that was deleted or changed last."""

    async def make_queues(self) -> None:
        """Those that there are from the beginning; and what the Worker is as."""
        plan = self._scene.plan
        self._set(WORKERS, "default", startTimeoutSeconds=plan.start_timeout)
        for name, concurrency, priority in zip(("narrow", "wide"), plan.concurrency, plan.priorities, strict=True):
            defaults: Object = {}
            if name == "wide" and plan.timeout is not None:
                defaults["timeoutSeconds"] = plan.timeout
            if name == "wide" and plan.pod_ttls is not None:
                defaults["podTTLSeconds"], defaults["failedPodTTLSeconds"] = plan.pod_ttls
            spec = {"concurrency": concurrency, "priority": priority, **({"defaults": defaults} if defaults else {})}
            await self._scene.cluster.apply(a_queue(name, **spec))
        await self._scene.cluster.apply(
            a_queue("keyed", concurrency=4, perKeyConcurrency=plan.per_key),
            a_queue("rated", concurrency=4, rateLimit=_rate(plan.rate)),
        )

    async def do(self, deed: Deed) -> bool:
        """Do it; whether it found something to act on."""
        match deed:
            case Ask():
                self._ask(deed)
            case EditJob() | DeleteJob():
                return self._edit_job(deed)
            case EditQueue():
                self._edit_queue(deed)
            case EditWorker():
                operations = [{"op": "add", "path": "/spec/image", "value": f"w:{len(self._scene.log)}"}]
                self._store.patch(WORKERS, NAMESPACE, "default", operations)
            case MakeSchedule():
                return self._make_schedule(deed)
            case EditSchedule():
                return self._edit_schedule(deed)
            case DeleteSchedule():
                if self._store.peek(SCHEDULES, NAMESPACE, deed.name) is None:
                    return False
                self._store.delete(SCHEDULES, NAMESPACE, deed.name)
            case AwaitTick():
                await self.await_tick(deed.offset)
        return True

    # Jobs

    def _ask(self, ask: Ask) -> None:
        name = f"job-{len(self._asked):02}"
        spec: Object = {
            "queue": ask.queue,
            "backoff": {"baseSeconds": ask.base_seconds},
            "priority": ask.priority,
            **limits(ask),
        }
        if ask.command:
            spec |= {"command": ["load"], "image": "load:1"}
        else:
            spec |= {"task": "tasks:work", "args": {"scripts": list(ask.scripts)}}
        if ask.unique is not None:
            spec["unique"] = unique(ask.unique)
            if ask.window:
                spec["unique"] |= {"scope": "Window", "windowSeconds": ask.window}
        if ask.key is not None:
            spec["key"] = ask.key
        self._asked.append(name)
        if ask.after:
            # Itself and one more: whoever waits for these waits in a cycle, or for a Job that does not exist yet.
            names = [*self._asked, f"job-{len(self._asked):02}"]
            after = dict.fromkeys(names[place % len(names)] for place in ask.after)
            spec |= {
                "after": [{"tree" if ask.tree else "job": one} for one in after],
                "afterPolicy": "Finished" if ask.finished else "Succeeded",
            }
        if ask.suspend:
            spec["suspend"] = True
        if ask.run_at:
            spec["runAt"] = self._store.timestamp(ask.run_at)
        self._tasks.scripts_of[name] = ask.scripts
        manifest = a_job(name, **spec)
        if ask.kept:
            manifest["metadata"]["finalizers"] = [FINALIZER]
        self._store.create(JOBS, NAMESPACE, manifest)

    def _edit_job(self, deed: EditJob | DeleteJob) -> bool:
        jobs = self._jobs_of(deed)
        if not jobs:
            return False
        job = jobs[deed.job % len(jobs)]
        self._last = job.name
        self._scene.note(f"  it is {job.name}, {job.state}")
        if isinstance(deed, DeleteJob):
            self._scene.judge.deleted_by_hand.add(job.uid)
            self._store.delete(JOBS, NAMESPACE, job.name)
            kept = self._store.peek(JOBS, NAMESPACE, job.name) is not None
            self._scene.faults["Job deleted, and kept by a finalizer" if kept else "Job deleted"] += 1
            if deed.anew and job.parent is None and job.tick is None and not kept:
                spec = {**job.spec, "queue": "narrow" if job.queue == "wide" else "wide"}
                self._store.create(JOBS, NAMESPACE, a_job(job.name, **spec))
            return True
        match deed.what:
            case "touch":
                note = {**job.raw["metadata"].get("annotations", {}), "touched": str(len(self._scene.log))}
                operations = [{"op": "add", "path": "/metadata/annotations", "value": note}]
                self._store.patch(JOBS, NAMESPACE, job.name, operations)
            case "priority":
                self._set(JOBS, job.name, priority=deed.value)
            case "rerun":
                self._rerun(job)
            case "cancel":
                self._set(JOBS, job.name, cancel=True)
            case "suspend" | "resume":
                self._set(JOBS, job.name, suspend=deed.what == "suspend")
            case "keep":
                if not job.deleting:
                    self._keep(job.name)
            case "let go":
                self._let_go(job.name)
        return True

    def _keep(self, name: str) -> None:
        operations = [{"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]
        self._store.patch(JOBS, NAMESPACE, name, operations)

    def _let_go(self, name: str) -> None:
        """One that is being deleted is gone then."""
        if "finalizers" in self._store.get(JOBS, NAMESPACE, name)["metadata"]:
            self._store.patch(JOBS, NAMESPACE, name, [{"op": "remove", "path": "/metadata/finalizers"}])

    @property
    def kept(self) -> list[Job]:
        """The Jobs that are being deleted and that a finalizer keeps."""
        return [job for job in self._scene.cluster.jobs() if job.deleting]

    def let_all_go(self) -> None:
        """No finalizer keeps any of them."""
        for job in self._scene.cluster.jobs():
            self._let_go(job.name)

    def _jobs_of(self, deed: EditJob | DeleteJob) -> list[Job]:
        """Those that it may be about, in the order in which its number counts them."""
        jobs = self._scene.cluster.jobs()
        # The unfinished ones first: whatever is done to a finished Job is soon told, but for a rerun.
        ended_first = isinstance(deed, EditJob) and deed.ended
        jobs.sort(key=lambda job: (job.terminal != ended_first, job.name))
        parents = {job.parent.uid for job in jobs if job.parent and not job.terminal}
        meant: dict[Of, Callable[[Job], bool]] = {
            "any": lambda _job: True,
            "same": lambda job: job.name == self._last,
            "running": lambda job: job.active,
            "grouped": lambda job: job.group is not None and not job.terminal,
            "parent": lambda job: job.uid in parents,
            "unique": lambda job: job.unique is not None and not job.terminal,
            "tick": lambda job: job.tick is not None and not job.terminal,
            "kept": lambda job: job.deleting,
        }
        return [job for job in jobs if meant[deed.of](job)] or jobs

    def _rerun(self, job: Job) -> None:
        taken_back = {"cancel": False} if job.cancel else {}
        self._set(JOBS, job.name, rerun=job.rerun + 1, **taken_back)

    def cancel_a_tree(self) -> None:
        """One whose Jobs wait."""
        held = {job.parent.name for job in self._scene.cluster.jobs() if job.parent and job.state is State.WAITING}
        parent = self._one([job.name for job in self._scene.cluster.jobs() if job.name in held])
        if parent:
            self._set(JOBS, parent, cancel=True)

    def delete_of_a_group(self) -> None:
        """A Job that waits and that others may wait for."""
        jobs = self._scene.cluster.jobs()
        waiting = {job.name: job.uid for job in jobs if job.group is not None and job.state is State.WAITING}
        name = self._one(list(waiting))
        if name:
            self._scene.judge.deleted_by_hand.add(waiting[name])
            self._store.delete(JOBS, NAMESPACE, name)

    def run_one_again(self) -> None:
        """One that has not succeeded, and that others may have been skipped for."""
        ended = {
            job.name: job for job in self._scene.cluster.jobs() if job.terminal and job.state is not State.SUCCEEDED
        }
        failed = [name for name, job in ended.items() if job.state is State.FAILED]
        name = self._one(failed or list(ended))
        if name:
            self._rerun(ended[name])

    def _one(self, names: Sequence[str]) -> str:
        """The plan's choice of them, "" of none."""
        several = sorted(names)
        return several[self._scene.plan.seed % len(several)] if several else ""

    def resume_jobs(self) -> None:
        """Nothing is suspended any more."""
        for job in self._scene.cluster.jobs():
            if job.suspend:
                self._set(JOBS, job.name, suspend=False)

    # Queues

    def _edit_queue(self, deed: EditQueue) -> None:
        value: object = deed.value
        if deed.what == "paused":
            value = bool(deed.value)
        elif deed.what == "rateLimit":
            value = _rate(deed.value)
        elif deed.what == "perKeyConcurrency":
            value = deed.value or None
        elif deed.what in ("timeoutSeconds", "maxAttempts"):
            defaults = {**self._store.get(QUEUES, NAMESPACE, deed.queue)["spec"].get("defaults", {})}
            defaults.pop(deed.what, None)
            if deed.value:
                defaults[deed.what] = deed.value
            self._set(QUEUES, deed.queue, defaults=defaults or None)
            return
        self._set(QUEUES, deed.queue, **{deed.what: value})

    def limit_again(self) -> None:
        """The keys are limited as they were in the beginning, and the queue has slots for several."""
        self._set(QUEUES, "keyed", concurrency=3, perKeyConcurrency=self._scene.plan.per_key)

    def set_queues(self, **spec: object) -> None:
        """The same for each that is edited."""
        for queue in EDITED:
            self._set(QUEUES, queue, **spec)

    # Schedules

    @property
    def schedules(self) -> list[str]:
        """The names of those that there are."""
        return [raw["metadata"]["name"] for raw in self._store.peek_all(SCHEDULES)]

    def set_schedules(self, **spec: object) -> None:
        """The same for each."""
        for name in self.schedules:
            self._set(SCHEDULES, name, **spec)

    async def await_tick(self, offset: float) -> None:
        """Until the next full minute, and so many seconds more."""
        now = START + self._scene.cluster.clock.monotonic()
        await asyncio.sleep(max(0.0, MINUTE - now % MINUTE + offset))

    def _make_schedule(self, deed: MakeSchedule) -> bool:
        if deed.name in self.schedules:
            return False
        args = {"scripts": list(deed.scripts)}
        job: Object = {"task": "tasks:work", "queue": deed.queue, "args": args, **limits(deed)}
        manifest = a_schedule(
            deed.name,
            CRONS[deed.cron],
            job=job,
            overlap=OVERLAPS[deed.overlap],
            catchUpSeconds=CATCH_UPS[deed.catch_up],
            suspend=deed.suspend,
        )
        self._store.create(SCHEDULES, NAMESPACE, manifest)
        return True

    def _edit_schedule(self, deed: EditSchedule) -> bool:
        if deed.name not in self.schedules:
            return False
        match deed.what:
            case "suspend" | "resume":
                self._set(SCHEDULES, deed.name, suspend=deed.what == "suspend")
            case "cron":
                self._set(SCHEDULES, deed.name, cron=CRONS[deed.value])
            case "overlap":
                self._set(SCHEDULES, deed.name, overlap=OVERLAPS[deed.value])
            case "catchUpSeconds":
                self._set(SCHEDULES, deed.name, catchUpSeconds=CATCH_UPS[deed.value])
            case "job":
                self._set_job(deed.name, deed.value)
        return True

    def _set_job(self, name: Scheduled, script: int) -> None:
        job = self._store.get(SCHEDULES, NAMESPACE, name)["spec"]["job"]
        self._set(SCHEDULES, name, job={**job, "args": {"scripts": [script]}})

    def _set(self, resource: Resource, name: str, **spec: object) -> None:
        """Set fields of a spec in one update; None removes one."""
        known = self._store.get(resource, NAMESPACE, name)["spec"]
        operations = [
            {"op": "add", "path": f"/spec/{field}", "value": value}
            if value is not None
            else {"op": "remove", "path": f"/spec/{field}"}
            for field, value in spec.items()
            if value is not None or field in known
        ]
        self._store.patch(resource, NAMESPACE, name, operations)


def _rate(number: int) -> dict[str, int] | None:
    rate = RATES[number]
    return None if rate is None else {"count": rate[0], "periodSeconds": rate[1]}
