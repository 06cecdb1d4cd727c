"""Judges what a `History` has seen of a real cluster by the invariants of docs/guarantees.md, with counts.

Every event is replayed in the order in which it was applied, and each check looks at the records as they were at that
moment. The numbers are those of the invariants in docs/guarantees.md. `Verdict.of` judges what only the end shows.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from questline_operator.core.records import LABEL_ATTEMPT, LABEL_QUEUE, Job, Pod
from questline_operator.core.states import ACTIVE
from questline_operator.shell.api import JOBS, Object
from tests.history import Event, History


@dataclass(frozen=True)
class Verdict:
    """What a run did, and what of it was wrong.

    Attributes:
        attempts: the claims that were seen.
        faults: how many were injected, by what they were.
        measured: other numbers of the run, by what they are with their unit.
        gaps: how often the watcher could not see every version (the API server began anew); see `History`.
    """

    jobs: int
    attempts: int
    events: int
    gaps: int
    faults: Mapping[str, int] = field(default_factory=dict)
    violations: Sequence[str] = ()
    measured: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        history: History,
        *,
        concurrency: Mapping[str, int] | None = None,
        faults: Mapping[str, int] | None = None,
        unfinished: Iterable[str] = (),
        measured: Mapping[str, float] | None = None,
    ) -> Self:
        """Judge a history that has come to its end.

        Args:
            concurrency: of the queues whose limit did not change meanwhile.
            faults: how many were injected, by what they were.
            unfinished: the Jobs that rightly still wait.
            measured: other numbers of the run.
        """
        replay = replayed(history.in_order(), concurrency or {})
        waiting = set(unfinished)
        for job in history.jobs():
            if not job.terminal and job.name not in waiting:
                replay.broken(1, f"{job.name} is {job.state} {job.reason} at the end")
        for pod in history.pods():
            if pod.live:
                replay.broken(9, f"pod {pod.name} still lives at the end")
        return cls(
            jobs=len(replay.jobs),
            attempts=sum(len(numbers) for numbers in replay.claims.values()),
            events=len(history.events),
            gaps=history.gaps,
            faults=dict(faults or {}),
            violations=tuple(replay.violations),
            measured=dict(measured or {}),
        )

    def save(self, folder: Path, name: str) -> None:
        """Keep it as ``folder/name.json``, for docs/reliability.md."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(asdict(self), indent=2) + "\n")

    def __str__(self) -> str:
        """One line."""
        faults = ", ".join(f"{number} x {what}" for what, number in sorted(self.faults.items())) or "none"
        counts = f"Jobs {self.jobs}, attempts {self.attempts}, events {self.events}, gaps {self.gaps}"
        measured = "".join(f", {what} {number:g}" for what, number in self.measured.items())
        return f"{counts}, faults injected: {faults}, violations {len(self.violations)}{measured}"


def violations(events: Iterable[Event], *, concurrency: Mapping[str, int] | None = None) -> list[str]:
    """What a history shows broken at any moment; its end is not judged.

    Args:
        events: in the order in which they were applied.
        concurrency: of queues whose limit did not change meanwhile.
    """
    return replayed(events, concurrency or {}).violations


def most_slots(events: Iterable[Event], queue: str) -> int:
    """The most slots of the queue that were held at one moment."""
    return replayed(events, {}).most_slots[queue]


def replayed(events: Iterable[Event], concurrency: Mapping[str, int]) -> "Replay":
    """The records after the last of the events, each of them judged."""
    replay = Replay(concurrency)
    for event in events:
        replay.take(event)
    return replay


class Replay:
    """The records as they were after each event.

    Attributes:
        jobs: every Job that ever was, by UID, as it was last.
        claims: the attempts that were claimed, by the Job's UID.
        most_slots: the most slots of each queue that were held at one moment.
        violations: what was broken, with the invariant's number and where.
    """

    def __init__(self, concurrency: Mapping[str, int]) -> None:
        self._concurrency = concurrency
        self._version = 0
        self.jobs: dict[str, Job] = {}
        self.claims: defaultdict[str, set[int]] = defaultdict(set)
        self.most_slots: Counter[str] = Counter()
        self.violations: list[str] = []
        self._live: defaultdict[str, dict[str, Pod]] = defaultdict(dict)
        self._slots: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._reported: set[tuple[str, str]] = set()
        self._pods: dict[str, str] = {}
        self._places: dict[tuple[str, int, int], str] = {}
        self._running_unique: defaultdict[str, set[str]] = defaultdict(set)

    def broken(self, promise: int | str, what: str) -> None:
        """Note it, with the number of the invariant or the promise's name."""
        self.violations.append(f"{promise}, at {self._version}: {what}")

    def take(self, event: Event) -> None:
        """Apply one event and look at all that it touches."""
        self._version = event.version
        deleted = event.type == "DELETED"
        if event.resource == JOBS:
            self._see_job(Job.parse(event.object), deleted=deleted)
        else:
            self._see_pod(event.object, deleted=deleted)

    def _see_job(self, job: Job, *, deleted: bool) -> None:
        before = self.jobs.get(job.uid)
        self.jobs[job.uid] = job
        if before is None:
            self._see_place(job)
        elif not deleted:
            self._see_change(before, job)
        if job.attempt and not (before and before.attempt == job.attempt):
            self.claims[job.uid].add(job.attempt)
        report = job.status.get("report")
        if report:
            self._reported.add((job.uid, str(report.get("attempt"))))
        self._see_unique(job, deleted=deleted)

    def _see_place(self, job: Job) -> None:
        if job.parent is None:
            return
        place = (job.parent.uid, job.parent.attempt, job.parent.index)
        other = self._places.setdefault(place, job.name)
        if other != job.name:
            self.broken(4, f"{other} and {job.name} are the same child of {job.parent.name}")

    def _see_change(self, before: Job, job: Job) -> None:
        if before.terminal and job.state is not before.state and not self._runs_again(before, job):
            self.broken(7, f"{job.name} went from {before.state} to {job.state}")
        if job.attempt < before.attempt:
            self.broken(12, f"{job.name} went from attempt {before.attempt} to {job.attempt}")
        if job.epoch < before.epoch:
            self.broken(8, f"{job.name} was written in epoch {job.epoch} after {before.epoch}")
        claimed = job.state in ACTIVE and before.state not in ACTIVE
        if claimed and before.cancel:
            self.broken(9, f"{job.name} was claimed though it is cancelled")
        if claimed and not before.attempt:
            self._see_dependencies(job)
        if claimed and job.attempt <= before.attempt:
            self.broken(12, f"{job.name} was claimed again as attempt {job.attempt}")
        if job.terminal and not before.terminal and job.failures > before.failures:
            self._see_failures(job)

    def _see_dependencies(self, job: Job) -> None:
        """What it names in `after` has ended as afterPolicy asks; a duplicate counts as its original."""
        by_name = {one.name: one for one in self.jobs.values() if one.namespace == job.namespace}
        for name in self._waited_for(job):
            one = by_name.get(name)
            while one is not None and one.reason == "Duplicate":
                one = by_name.get(one.duplicate_of)
            finished = one is not None and job.spec.get("afterPolicy") == "Finished" and one.finishes > 0
            if one is None or not (one.succeeded_attempts or finished):
                state = "unknown" if one is None else f"{one.state}"
                self.broken(6, f"{job.name} was claimed, and {name}, which it waits for, is {state}")

    def _waited_for(self, job: Job) -> Iterator[str]:
        """The names of all that its `after` means: the Jobs, the members of its groups, what is in its trees."""
        for item in job.spec.get("after", ()):
            if "group" not in item:
                yield item.get("job") or item["tree"]
        groups = [item["group"] for item in job.spec.get("after", ()) if "group" in item]
        trees = {item["tree"] for item in job.spec.get("after", ()) if "tree" in item}
        for one in self.jobs.values() if groups or trees else ():
            if one.namespace != job.namespace or one.uid == job.uid or one.reason in ("ParentFailed", "LateChild"):
                continue
            own, its = job.spec.get("parent", {}), one.spec.get("parent", {})
            beside = all(own.get(field) == its.get(field) for field in ("uid", "attempt", "podUID"))
            if (beside and its.get("group") in groups) or trees & self._above(one):
                yield one.name

    def _above(self, job: Job) -> set[str]:
        """The names of its ancestors."""
        names: set[str] = set()
        while job.parent is not None and job.parent.uid in self.jobs and job.parent.name not in names:
            names.add(job.parent.name)
            job = self.jobs[job.parent.uid]
        return names

    def _runs_again(self, before: Job, job: Job) -> bool:
        """Whether its rerun was raised, or what it was Skipped for runs again, or a Duplicate that stood for that."""
        if job.observed_rerun > before.observed_rerun:
            return True
        if before.upstream is None:
            return False
        upstream = self.jobs.get(before.upstream.uid)
        if upstream is not None and (not upstream.terminal or upstream.finishes > before.upstream.finishes):
            return True
        duplicates = {one.name for one in self.jobs.values() if one.armed_duplicate_of == before.upstream.name}
        return not duplicates.isdisjoint(self._waited_for(before))

    def _see_failures(self, job: Job) -> None:
        entries = job.status.get("attempts", ())
        failed = sum(entry["outcome"] in ("Failed", "Fatal", "Retry") for entry in entries)
        if len(entries) == job.attempt and job.armed_at is None and job.failures != failed:
            self.broken(11, f"{job.name} has {job.failures} failures, but {failed} of its attempts failed")

    def _see_unique(self, job: Job, *, deleted: bool) -> None:
        """No two Jobs of one key run at once."""
        if job.unique is None:
            return
        what = job.spec.get("task") or json.dumps(job.spec.get("command"))
        key = job.unique.key if job.unique.key is not None else json.dumps(job.spec.get("args"), sort_keys=True)
        running = self._running_unique[f"{job.namespace}/{what}/{key}"]
        if deleted or job.state not in ACTIVE:
            running.discard(job.name)
            return
        running.add(job.name)
        if len(running) > 1:
            self.broken("uniqueness", f"unique Jobs {sorted(running)} run at once")

    def _see_pod(self, raw: Object, *, deleted: bool) -> None:
        pod, labels = Pod.parse(raw), raw["metadata"]["labels"]
        live, slot = self._live[f"{pod.job}/{pod.owner_uid}"], (pod.owner_uid, labels[LABEL_ATTEMPT])
        slots = self._slots[labels[LABEL_QUEUE]]
        if pod.name not in self._pods:
            self._see_start(pod)
        first = self._pods.setdefault(pod.name, pod.uid)
        if first != pod.uid:
            self.broken(12, f"pod {pod.name} was created twice")
        if deleted or not pod.live:
            live.pop(pod.name, None)
            slots.discard(slot)
        else:
            live[pod.name] = pod
            slots.add(slot)
        if len(live) > 1:
            self.broken(2, f"{pod.job} has live pods {sorted(live)}")
        self._count_slots(pod.queue)

    def _count_slots(self, queue: str) -> None:
        """A slot is held while the attempt's pod exists and has neither ended nor reported."""
        held = len(self._slots[queue] - self._reported)
        self.most_slots[queue] = max(self.most_slots[queue], held)
        limit = self._concurrency.get(queue)
        if limit is not None and held > limit:
            self.broken(3, f"queue {queue} holds {held} of {limit} slots")

    def _see_start(self, pod: Pod) -> None:
        job = self.jobs.get(pod.owner_uid)
        if job is None or job.parent is None or not job.parent.staged:
            return
        parent: Any = self.jobs.get(job.parent.uid)
        if parent is not None and job.parent.attempt not in parent.succeeded_attempts:
            self.broken(5, f"pod {pod.name} was created; attempt {job.parent.attempt} of its parent has not succeeded")
