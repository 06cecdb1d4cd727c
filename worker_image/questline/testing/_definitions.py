"""What stands around the Jobs of a cluster of the kit: Queues, Workers, Schedules, and manifests of all kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from questline.durations import Duration, whole_seconds_of
from questline.errors import MissingDependency, OptionInvalid
from questline.options import Backoff, Options
from questline.schedules import Schedule, spec_of
from questline.task import Call, Task
from questline.testing._errors import KitError
from questline_operator.core.records import Key
from questline_operator.core.schedule import Calendar

if TYPE_CHECKING:
    from questline.testing._engine import Engine
    from questline.testing._store import Store

NAMESPACE = "default"


class Definitions:
    """The part of a cluster by which a test defines what its Jobs need."""

    _store: Store
    _engine: Engine

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        paused: bool | None = None,
        priority: int | None = None,
        per_key_concurrency: int | None = None,
        rate: tuple[int, Duration] | None = None,
        worker: str | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | Mapping[str, Any] | Duration | None = None,
        timeout: Duration | None = None,
    ) -> None:
        """Defines a Queue, or changes what is given of one that is there.

        Args:
            concurrency: how many attempts run at once; 10 where nobody says.
            paused: whether no attempts are started.
            priority: between queues, where `max_running_pods` binds.
            per_key_concurrency: how many of one `concurrency_key` run at once.
            rate: how many attempts start in that time.
            worker, max_attempts, backoff, timeout: for Jobs that do not say.

        Raises:
            OptionInvalid: a value is not allowed.
        """
        given = {"worker": worker, "max_attempts": max_attempts, "backoff": backoff, "timeout": timeout}
        defaults = Options().replaced({"queue": name, **given}).spec()
        del defaults["queue"]
        spec = {
            "concurrency": concurrency,
            "paused": paused,
            "priority": priority,
            "perKeyConcurrency": per_key_concurrency,
            "rateLimit": rate and {"count": rate[0], "periodSeconds": whole_seconds_of(rate[1], "rate", minimum=1)},
            "defaults": defaults or None,
        }
        self._put("Queue", NAMESPACE, name, {field: value for field, value in spec.items() if value is not None})

    def worker(
        self,
        name: str,
        *,
        allowed_queues: Sequence[str] | None = None,
        allowed_workers: Sequence[str] | None = None,
    ) -> None:
        """Defines a Worker, or changes what is given of one that is there. Its tasks run in the test's own process.

        Args:
            allowed_queues: where the Jobs that it enqueues may go; any queue where nobody says.
            allowed_workers: which Workers these may have; itself where nobody says.
        """
        spec = {"allowedQueues": allowed_queues, "allowedWorkers": allowed_workers}
        given = {field: list(value) for field, value in spec.items() if value is not None}
        self._put("Worker", NAMESPACE, name, {"image": "the test's own process", **given})

    @overload
    def schedule(self, name: Schedule) -> None: ...
    @overload
    def schedule(
        self,
        name: str,
        cron: str,
        what: Call[Any] | Task[[], Any, Any],
        *,
        time_zone: str = "UTC",
        overlap: str = "Allow",
        catch_up: Duration = 0,
        suspend: bool = False,
    ) -> None: ...
    def schedule(self, name: Any, cron: Any = None, what: Any = None, **settings: Any) -> None:
        """Defines a Schedule: one that `questline.schedule` has declared, or of a call, or of a task without args.

        `advance` lets it tick. All is checked as `questline.schedule` does.

        Args:
            name: what `questline.schedule` returned, and nothing else; or the Schedule's name.
            cron: five fields, as in spec.cron.
            what: what each tick makes a Job of.
            time_zone: the IANA time zone in which the line is read; UTC where nobody says.
            overlap: while an earlier run is not over: Allow, Forbid or Replace.
            catch_up: how old a tick may be that is made up for, at most a week.
            suspend: whether no Jobs are made.

        Raises:
            OptionInvalid: a value is not allowed.
            KitError: the line cannot be read, or never comes.
            MissingDependency: `cronsim` is not installed, which reads the line.
        """
        if isinstance(name, Schedule):
            given = [field for field, value in (("cron", cron), ("what", what)) if value is not None]
            if given or settings:
                raise OptionInvalid(
                    f"schedule {name.name} is declared with all it has: leave {[*given, *settings][0]} out"
                )
            self._put("Schedule", NAMESPACE, name.name, name.spec)
        else:
            self._put("Schedule", NAMESPACE, name, _spec_of_schedule(name, cron, what, **settings))

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Creates what manifests say, or changes it where it is there: Jobs of tasks, Queues, Workers and Schedules.

        They are not held to the CRDs' schemas, which only an API server has.

        Raises:
            KitError: of another kind, or a Job that runs a command.
        """
        for manifest in manifests:
            kind, meta = manifest.get("kind"), manifest.get("metadata", {})
            name, spec = meta.get("name", ""), manifest.get("spec", {})
            if kind not in ("Job", "Queue", "Worker", "Schedule"):
                raise KitError(f"{name} is a {kind}: the test kit has Jobs, Queues, Workers and Schedules")
            known = kind == "Job" and (meta.get("namespace", NAMESPACE), name) in self._store.world.jobs
            job = {"Job": spec, "Schedule": spec.get("job", {})}.get(kind)
            if job is not None and "task" not in job and not known:
                raise KitError(f"{kind} {name} has no task: the test kit has no containers, which a command needs")
            self._put(kind, meta.get("namespace", NAMESPACE), name, spec)

    def _put(self, kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> None:
        key = (namespace, name)
        kinds: dict[str, Mapping[Key, Any]] = {
            "Job": self._store.world.jobs,
            "Queue": self._store.world.queues,
            "Worker": self._store.world.workers,
            "Schedule": self._store.world.schedules,
        }
        if kind == "Schedule":
            calendar()  # so that what is missing is told before anything is there
        if key in kinds[kind]:
            self._store.update_spec(kind, key, spec)
        else:
            self._store.create(kind, namespace, {"metadata": {"name": name}, "spec": spec})
        self._engine.look_at_all()
        problem = self._engine.follow(key) if kind == "Schedule" else ""
        if problem:
            self._store.world.remove_schedule(key)
            raise KitError(f"Schedule {name}: {problem}")


def _spec_of_schedule(
    name: str,
    cron: str,
    what: Any,
    *,
    time_zone: str = "UTC",
    overlap: str = "Allow",
    catch_up: Duration = 0,
    suspend: bool = False,
) -> dict[str, Any]:
    call = what.call() if isinstance(what, Task) else what
    return spec_of(name, cron=cron, job=call, time_zone=time_zone, overlap=overlap, catch_up=catch_up, suspend=suspend)


def calendar() -> Calendar:
    """Reads cron lines as the operator does."""
    try:
        from questline_operator.cron import next_tick
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"Schedules need {error.name}, which reads their cron lines: pip install 'questline[testing]'"
        ) from None
    return next_tick
