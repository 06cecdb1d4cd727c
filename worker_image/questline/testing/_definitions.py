"""What stands around the Jobs of a cluster of the kit: Queues, Workers, Schedules, and manifests of all kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from questline.durations import Duration, whole_seconds_of
from questline.errors import MissingDependency, OptionInvalid
from questline.options import Backoff, Options
from questline.schedules import Schedule, spec_of
from questline.task import Call, Task
from questline.testing._errors import KitError
from questline_operator.core.schedule import Calendar

if TYPE_CHECKING:
    from questline.testing._engine import Engine
    from questline.testing._store import Store

NAMESPACE = "default"
KINDS = {"Job": ("-", 50), "Queue": ("-", 63), "Worker": ("-.", 253), "Schedule": ("-", 63)}
"""What a test may define: the signs that its name may have within, besides a-z and 0-9, and its greatest length."""


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
        if paused is not None and not isinstance(paused, bool):
            raise OptionInvalid(f"paused is {paused!r}: True or False is needed")
        spec = {
            "concurrency": _integer("concurrency", concurrency, 0, 100_000),
            "paused": paused,
            "priority": _integer("priority", priority, -1_000, 1_000),
            "perKeyConcurrency": _integer("per_key_concurrency", per_key_concurrency, 1, 100_000),
            "rateLimit": _rate_limit(rate),
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

        Raises:
            OptionInvalid: a value is not allowed.
        """
        spec = {
            "allowedQueues": _names("allowed_queues", allowed_queues),
            "allowedWorkers": _names("allowed_workers", allowed_workers),
        }
        given = {field: value for field, value in spec.items() if value is not None}
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
            KitError: of another kind, without what it needs, or a Job that runs a command.
        """
        for manifest in manifests:
            self._apply(manifest)

    def _apply(self, manifest: Any) -> None:
        if not isinstance(manifest, Mapping):
            raise KitError(f"apply() takes manifests, as yaml.safe_load reads them, not {manifest!r}")
        kind, meta = manifest.get("kind"), manifest.get("metadata") or {}
        name, namespace, spec = meta.get("name", ""), meta.get("namespace", NAMESPACE), manifest.get("spec") or {}
        if kind not in KINDS:
            raise KitError(f"{name} is a {kind}: the test kit has Jobs, Queues, Workers and Schedules")
        known = (namespace, name) in self._store.records(kind)
        if kind == "Schedule" and "cron" not in spec and not known:
            raise KitError(f"Schedule {name} has no spec.cron, which says when it ticks")
        job = {"Job": spec, "Schedule": spec.get("job")}.get(kind)
        needs_task = not known if kind == "Job" else kind == "Schedule" and (not known or "job" in spec)
        if needs_task and "task" not in (job or {}):
            raise KitError(f"{kind} {name} has no task: the test kit has no containers, which a command needs")
        rate = spec.get("rateLimit") or {}
        missing = [field for field in ("count", "periodSeconds") if rate and field not in rate]
        if missing:
            raise KitError(f"{kind} {name} has no spec.rateLimit.{missing[0]}")
        self._put(kind, namespace, name, spec)

    def _put(self, kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> None:
        signs, longest = KINDS[kind]
        form = f"[a-z0-9]([{signs}a-z0-9]*[a-z0-9])?"
        if not isinstance(name, str) or len(name) > longest or not re.fullmatch(form, name):
            shown = " and ".join(map(repr, signs))
            raise KitError(
                f"metadata.name of a {kind} is {name!r}: a name of a-z, 0-9, {shown} is needed, at most {longest} "
                "characters"
            )
        key = (namespace, name)
        if kind == "Schedule":
            calendar()  # so that what is missing is told before anything is there
        if key in self._store.records(kind):
            self._store.update_spec(kind, key, spec)
        else:
            self._store.create(kind, namespace, {"metadata": {"name": name}, "spec": spec})
        self._engine.look_at_all()
        problem = self._engine.follow(key) if kind == "Schedule" else ""
        if problem:
            self._store.world.remove_schedule(key)
            raise KitError(f"Schedule {name}: {problem}")


def _integer(field: str, value: object, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise OptionInvalid(f"{field} is {value!r}: an integer from {least:,} to {most:,} is needed")
    return value


def _rate_limit(rate: object) -> dict[str, Any] | None:
    if rate is None:
        return None
    if not isinstance(rate, tuple | list) or len(rate) != 2:
        raise OptionInvalid(f"rate is {rate!r}: how many attempts and in what time is needed, as (100, '1m')")
    count, period = rate
    return {
        "count": _integer("rate's count", 0 if count is None else count, 1, 1_000_000),
        "periodSeconds": whole_seconds_of(period, "rate's period", minimum=1, maximum=86_400),
    }


def _names(field: str, names: object) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(one, str) for one in names):
        raise OptionInvalid(f"{field} is {names!r}: a list of names is needed")
    return list(names)


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
