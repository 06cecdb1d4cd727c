"""What the core knows of the cluster: Jobs, Queues and Workers, parsed once from the API's JSON; `pod` has the pods.

A record is immutable and holds what decisions need in the core's units (seconds since the epoch); what is only passed
on (args, pod templates) stays the JSON that it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from questline_operator.core.canonical import compact_size, nested_too_deeply
from questline_operator.core.states import ACTIVE, TERMINAL, State
from questline_operator.core.status import ready_in
from questline_operator.core.times import optional_time, parse_time

Json = Mapping[str, Any]
Key = tuple[str, str]
"""(namespace, name)."""
GroupKey = tuple[str, str, int, str, str]
"""(namespace, the parent's UID, its attempt, that attempt's pod's UID, the group's name)."""

GROUP = "questline.dev"
LABEL_JOB = f"{GROUP}/job"
LABEL_QUEUE = f"{GROUP}/queue"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_ROOT = f"{GROUP}/root"
ANNOTATION_EPOCH = f"{GROUP}/epoch"
ANNOTATION_PAYLOAD = f"{GROUP}/payload"
ANNOTATION_KEY = f"{GROUP}/key"
"""On a pod its Job's concurrency key, so that the pod still counts for it when the Job is gone."""
LABEL_SCHEDULE = f"{GROUP}/schedule"
"""On the Job of a Schedule's tick, for people; the operator goes by the annotations, which nobody else may set."""
ANNOTATION_SCHEDULE_UID = f"{GROUP}/schedule-uid"
ANNOTATION_TICK = f"{GROUP}/tick"
ANNOTATION_REPLACES = f"{GROUP}/replaces"
CONTAINER = "worker"

DEFAULT_QUEUE = "default"
DEFAULT_WORKER = "default"
CONCURRENCY = 10
KEEP_FINISHED = 10_000
KEEP_FINISHED_PODS = 200
START_TIMEOUT_SECONDS = 300.0
"""What holds where neither a Queue or Worker says it, nor exists; `settings` has what a Job may say for itself."""


def pod_name(job: str, uid: str, attempt: int) -> str:
    """The pod of that attempt: ``<job>-<first 8 of the Job's UID>-<attempt>``."""
    return f"{job}-{uid[:8]}-{attempt}"


@dataclass(frozen=True)
class Parent:
    """Which attempt of which Job enqueued this one, as spec.parent says it."""

    name: str
    uid: str
    attempt: int
    pod_uid: str
    index: int
    staged: bool
    group: str | None = None


@dataclass(frozen=True)
class Dependency:
    """One entry of spec.after: ``kind`` is job, group or tree."""

    kind: str
    name: str


@dataclass(frozen=True)
class Unique:
    """spec.unique; ``key`` is None when the canonical args are the key."""

    key: str | None
    scope: str
    window_seconds: float | None


@dataclass(frozen=True)
class Upstream:
    """The Job for whose end another one was Skipped (UpstreamFailed), and how often it had ended by then."""

    name: str
    uid: str
    finishes: int


@dataclass(frozen=True)
class Tick:
    """Which tick of which Schedule made a Job. ``replaces``: what earlier ticks left unfinished is canceled for it."""

    schedule_uid: str
    at: float
    replaces: bool


@dataclass(frozen=True)
class Job:
    """A Job's record. ``raw`` is the API's JSON, which nobody changes."""

    raw: Json
    namespace: str
    name: str
    uid: str
    resource_version: int
    created_at: float
    deleting: bool
    state: State
    reason: str
    attempt: int
    failures: int
    disruptions: int
    epoch: int
    finishes: int
    next_attempt_at: float | None
    started_at: float | None
    finished_at: float | None
    succeeded_attempts: Sequence[int]
    parent: Parent | None
    unique: Unique | None
    after: Sequence[Dependency]
    cancel: bool
    suspend: bool
    priority: int
    run_at: float | None
    rerun: int = 0
    observed_rerun: int = 0
    armed_at: float | None = None
    """When it was last made to run again after an end; None where it never was."""
    armed_attempt: int = 0
    """Its number of attempts at that moment: later ones are of the present run."""
    armed_duplicate_of: str = ""
    """The Job that it had been a Duplicate of before that; "" for none."""
    upstream: Upstream | None = None
    claim_unconfirmed: bool = False
    """The operator has sent this claim and has no answer yet: it counts, but nothing may follow from it."""

    @classmethod
    def parse(cls, raw: Json) -> Self:
        """A record of the API's JSON, which has passed the CRD's schema."""
        meta, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
        parent, unique = spec.get("parent"), spec.get("unique")
        armed, upstream = status.get("armed", {}), status.get("upstream")
        return cls(
            raw=raw,
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=int(meta["resourceVersion"]),
            created_at=parse_time(meta["creationTimestamp"]),
            deleting="deletionTimestamp" in meta,
            state=State(status.get("state", State.WAITING)),
            reason=status.get("reason", ""),
            attempt=status.get("attempt", 0),
            failures=status.get("failures", 0),
            disruptions=status.get("disruptions", 0),
            epoch=status.get("epoch", 0),
            finishes=status.get("finishes", 0),
            next_attempt_at=optional_time(status.get("nextAttemptAt")),
            started_at=optional_time(status.get("startedAt")),
            finished_at=optional_time(status.get("finishedAt")),
            succeeded_attempts=tuple(status.get("succeededAttempts", ())),
            parent=parent
            and Parent(
                parent["name"],
                parent["uid"],
                parent["attempt"],
                parent["podUID"],
                parent["index"],
                parent.get("staged", True),
                parent.get("group"),
            ),
            unique=None
            if unique is None
            else Unique(unique.get("key"), unique.get("scope", "Alive"), unique.get("windowSeconds")),
            after=tuple(Dependency(kind, name) for item in spec.get("after", ()) for kind, name in item.items()),
            cancel=spec.get("cancel", False),
            suspend=spec.get("suspend", False),
            priority=spec.get("priority", 0),
            run_at=optional_time(spec.get("runAt")),
            rerun=spec.get("rerun", 0),
            observed_rerun=status.get("observedRerun", 0),
            armed_at=optional_time(armed.get("at")),
            armed_attempt=armed.get("attempt", 0),
            armed_duplicate_of=armed.get("duplicateOf", ""),
            upstream=upstream and Upstream(upstream["name"], upstream["uid"], upstream["finishes"]),
        )

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name

    @property
    def spec(self) -> Json:
        """The spec as JSON."""
        spec: Json = self.raw["spec"]
        return spec

    @property
    def status(self) -> Json:
        """The status as JSON."""
        status: Json = self.raw.get("status", {})
        return status

    @property
    def queue(self) -> str:
        """The Queue's name."""
        name: str = self.spec.get("queue", DEFAULT_QUEUE)
        return name

    @property
    def queue_key(self) -> Key:
        """(namespace, Queue's name)."""
        return self.namespace, self.queue

    @property
    def concurrency_key(self) -> str:
        """spec.key, of which the queue runs at most perKeyConcurrency; "" for none."""
        key: str = self.spec.get("key", "")
        return key

    @property
    def is_task(self) -> bool:
        """Whether the SDK runs it (a task) or the kubelet alone does (a command)."""
        return "task" in self.spec

    @property
    def after_policy(self) -> str:
        """What must have become of the Jobs in `after`: Succeeded or Finished."""
        policy: str = self.spec.get("afterPolicy", "Succeeded")
        return policy

    @property
    def group(self) -> GroupKey | None:
        """The group of children that it is of, or None."""
        return self.group_beside(self.parent.group) if self.parent and self.parent.group else None

    def group_beside(self, name: str) -> GroupKey | None:
        """The group of that name among the children of the attempt that enqueued this Job; None without a parent."""
        if self.parent is None:
            return None
        return self.namespace, self.parent.uid, self.parent.attempt, self.parent.pod_uid, name

    @property
    def duplicate_of(self) -> str:
        """The name of the Job whose duplicate it is, or ""."""
        name: str = self.status.get("duplicateOf", "")
        return name

    @property
    def active(self) -> bool:
        """An attempt is claimed and its outcome is not written yet."""
        return self.state in ACTIVE

    @property
    def terminal(self) -> bool:
        """It has ended; only a rerun would change that."""
        return self.state in TERMINAL

    @property
    def admitted(self) -> bool:
        """It was claimed at least once."""
        return self.attempt > 0

    @property
    def claimed_in_this_run(self) -> bool:
        """It was claimed since it was created, or since it was last made to run again."""
        return self.attempt > self.armed_attempt

    @property
    def last_run_finished_at(self) -> float | None:
        """When the last of its runs that was claimed ended; None while one is under way, or where none was claimed.

        A rerun that was canceled before its claim took nobody's place.
        """
        if self.claimed_in_this_run:
            return self.finished_at if self.terminal else None
        entry = self.recorded_attempt(self.attempt)
        return self.finished_at if entry is None else parse_time(entry["finishedAt"])

    @property
    def rerun_due(self) -> bool:
        """It has ended, and its rerun was raised since that was last acted on."""
        return self.terminal and self.rerun > self.observed_rerun

    @property
    def order(self) -> tuple[float, int, str]:
        """Its place among equals: the earlier-created, then the lower index, then the name (design 2, priority)."""
        return self.created_at, self.parent.index if self.parent else 0, self.name

    @cached_property
    def report(self) -> Json | None:
        """The current attempt's report, where its own pod has written one."""
        report: Json | None = self.status.get("report")
        return report if report is not None and report.get("attempt") == self.attempt else None

    @cached_property
    def tick(self) -> Tick | None:
        """The tick of a Schedule that made it, or None."""
        annotations = self.raw["metadata"].get("annotations") or {}
        uid, moment = annotations.get(ANNOTATION_SCHEDULE_UID), annotations.get(ANNOTATION_TICK)
        if not uid or not moment:
            return None
        try:
            return Tick(uid, parse_time(moment), annotations.get(ANNOTATION_REPLACES) == "true")
        except ValueError:
            return None  # an annotation may hold anything where the chart's policies are not in force

    @cached_property
    def args_too_deep(self) -> bool:
        """Whether spec.args is nested too deeply; nothing may recurse into it then."""
        return nested_too_deeply(self.spec.get("args", {}))

    @cached_property
    def args_size(self) -> int:
        """Bytes of spec.args as compact UTF-8 JSON; not for args that are nested too deeply."""
        return compact_size(self.spec.get("args", {}))

    def pod_name(self, attempt: int) -> str:
        """The name of that attempt's pod."""
        return pod_name(self.name, self.uid, attempt)

    def attempt_succeeded(self, number: int) -> bool:
        """Whether that attempt has succeeded: then what it enqueued is released."""
        return number in self.succeeded_attempts

    def attempt_is_open(self, number: int) -> bool:
        """Whether that attempt is claimed and its outcome is not written yet."""
        return self.active and self.attempt == number

    def recorded_attempt(self, number: int) -> Json | None:
        """The entry of status.attempts of that number, where it is among the last ten."""
        return next((entry for entry in self.status.get("attempts", ()) if entry.get("number") == number), None)


@dataclass(frozen=True)
class RateLimit:
    """At most ``count`` attempts start in any ``period_seconds``."""

    count: int
    period_seconds: float


@dataclass(frozen=True)
class Queue:
    """A Queue's spec; its status is written, never read for a decision."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    concurrency: int
    paused: bool
    priority: int
    per_key_concurrency: int | None
    rate_limit: RateLimit | None
    keep_finished: int
    keep_finished_pods: int
    defaults: Json
    raw: Json = field(compare=False, repr=False)

    @classmethod
    def parse(cls, raw: Json) -> Self:
        """A record of the API's JSON."""
        meta, spec = raw["metadata"], raw.get("spec", {})
        rate: Json | None = spec.get("rateLimit")
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=int(meta["resourceVersion"]),
            concurrency=spec.get("concurrency", CONCURRENCY),
            paused=spec.get("paused", False),
            priority=spec.get("priority", 0),
            per_key_concurrency=spec.get("perKeyConcurrency"),
            rate_limit=None if rate is None else RateLimit(rate["count"], rate["periodSeconds"]),
            keep_finished=spec.get("keepFinished", KEEP_FINISHED),
            keep_finished_pods=spec.get("keepFinishedPods", KEEP_FINISHED_PODS),
            defaults=spec.get("defaults", {}),
            raw=raw,
        )

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name


@dataclass(frozen=True)
class Worker:
    """A Worker's spec, and whether the API server would take its pods. None: not known for this generation yet."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    generation: int
    ready: bool | None
    not_ready_message: str
    allowed_queues: Sequence[str] | None
    allowed_workers: Sequence[str] | None
    start_timeout_seconds: float
    raw: Json = field(compare=False, repr=False)

    @classmethod
    def parse(cls, raw: Json) -> Self:
        """A record of the API's JSON."""
        meta, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
        ready = ready_in(status)
        known = ready.get("observedGeneration") == meta["generation"]
        allowed_queues, allowed_workers = spec.get("allowedQueues"), spec.get("allowedWorkers")
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=int(meta["resourceVersion"]),
            generation=meta["generation"],
            ready=ready["status"] == "True" if known else None,
            not_ready_message=ready.get("message", "") if known else "",
            allowed_queues=None if allowed_queues is None else tuple(allowed_queues),
            allowed_workers=None if allowed_workers is None else tuple(allowed_workers),
            start_timeout_seconds=spec.get("startTimeoutSeconds", START_TIMEOUT_SECONDS),
            raw=raw,
        )

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name

    @property
    def spec(self) -> Json:
        """The spec as JSON."""
        spec: Json = self.raw["spec"]
        return spec
