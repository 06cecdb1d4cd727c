"""Judges what a `History` has seen of a real cluster by the invariants of docs/guarantees.md, with counts.

Every event is replayed in the order in which it was applied, and each check looks at the records as they were at that
moment. The numbers are those of the invariants in docs/guarantees.md. `Verdict.of` judges what only the end shows.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypedDict

from questline_operator.core.pod import Pod
from questline_operator.core.records import ANNOTATION_EPOCH, Job
from questline_operator.core.states import ACTIVE
from questline_operator.shell.api import JOBS, Object
from tests.history import Event, History

Slot = tuple[str, int]
"""A Job's UID, and the number of the attempt."""


class Limits(TypedDict):
    """Of the queues whose limits did not change meanwhile, for `Verdict.of(history, **limits)`: a run that has them as
    one thing forgets none of them."""

    concurrency: Mapping[str, int]
    per_key: Mapping[str, int]


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
        per_key: Mapping[str, int] | None = None,
        faults: Mapping[str, int] | None = None,
        unfinished: Iterable[str] = (),
        measured: Mapping[str, float] | None = None,
    ) -> Self:
        """Judge a history that has come to its end.

        Args:
            concurrency, per_key: of the queues whose limit did not change meanwhile.
            faults: how many were injected, by what they were.
            unfinished: the Jobs that rightly still wait.
            measured: other numbers of the run.
        """
        replay = replayed(history.in_order(), concurrency or {}, per_key or {})
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


def violations(
    events: Iterable[Event],
    *,
    concurrency: Mapping[str, int] | None = None,
    per_key: Mapping[str, int] | None = None,
) -> list[str]:
    """What a history shows broken at any moment; its end is not judged.

    Args:
        events: in the order in which they were applied.
        concurrency, per_key: of queues whose limit did not change meanwhile.
    """
    return replayed(events, concurrency or {}, per_key or {}).violations


def most_slots(events: Iterable[Event], queue: str) -> int:
    """The most slots of the queue that were held at one moment."""
    return replayed(events, {}).most_slots[queue]


def replayed(
    events: Iterable[Event], concurrency: Mapping[str, int], per_key: Mapping[str, int] | None = None
) -> "Replay":
    """The records after the last of the events, each of them judged."""
    replay = Replay(concurrency, per_key or {})
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

    def __init__(self, concurrency: Mapping[str, int], per_key: Mapping[str, int]) -> None:
        self._concurrency = concurrency
        self._per_key = per_key
        self._version = 0
        self._epoch = 0
        self.jobs: dict[str, Job] = {}
        self.claims: defaultdict[str, set[int]] = defaultdict(set)
        self.most_slots: Counter[str] = Counter()
        self.violations: list[str] = []
        self._live: defaultdict[str, dict[str, Pod]] = defaultdict(dict)
        self._slots: defaultdict[str, dict[Slot, str]] = defaultdict(dict)
        self._pods_of: dict[Slot, str] = {}
        self._over: set[Slot] = set()
        self._reported: set[Slot] = set()
        self._gone: set[str] = set()
        self._pods: dict[str, str] = {}
        self._places: dict[tuple[str, int, int], str] = {}
        self._born_in_rerun: set[str] = set()
        self._totals: dict[Slot, float] = {}
        self._ticks: dict[tuple[str, float], str] = {}
        self._running_unique: defaultdict[str, set[str]] = defaultdict(set)
        self._of_windows: defaultdict[str, dict[str, Job]] = defaultdict(dict)

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
            self._see_tick(job)
            self._epoch = max(self._epoch, job.epoch)
        elif not deleted:
            self._see_change(before, job)
        if deleted:
            self._gone.add(job.uid)
        if job.attempt and not (before and before.attempt == job.attempt):
            self.claims[job.uid].add(job.attempt)
        report = job.status.get("report")
        if report:
            self._reported.add((job.uid, report["attempt"]))
        for number in {job.attempt, before.attempt if before else job.attempt}:
            self._hold_slot(job.queue, (job.uid, number), job.concurrency_key)
        self._count_slots(job.queue)
        self._see_unique(job, deleted=deleted)

    def _see_place(self, job: Job) -> None:
        if job.parent is None:
            return
        place = (job.parent.uid, job.parent.attempt, job.parent.index)
        other = self._places.setdefault(place, job.name)
        if other != job.name:
            self.broken(4, f"{other} and {job.name} are the same child of {job.parent.name}")
        parent = self.jobs.get(job.parent.uid)
        if parent is not None and parent.finishes:
            self._born_in_rerun.add(job.uid)

    def _see_tick(self, job: Job) -> None:
        if job.tick is None:
            return
        self._see_epoch(job.raw["metadata"]["annotations"].get(ANNOTATION_EPOCH, "0"), f"{job.name} was created")
        tick = (job.tick.schedule_uid, job.tick.at)
        if self._ticks.setdefault(tick, job.uid) != job.uid:
            self.broken(10, f"{job.name} is the second Job of one tick")

    def _see_epoch(self, epoch: int | str, what: str) -> None:
        """Something was written by an operator: by the newest that was heard of, or a newer one."""
        if int(epoch) < self._epoch:
            self.broken(8, f"{what} in epoch {epoch} after {self._epoch}")
        self._epoch = max(self._epoch, int(epoch))

    def _see_change(self, before: Job, job: Job) -> None:
        if before.terminal and job.state is not before.state and not self._runs_again(before, job):
            self.broken(7, f"{job.name} went from {before.state} to {job.state}")
        elif before.terminal and job.finishes == before.finishes and job.state is before.state:
            changed = _changed(before, job)
            if changed:
                self.broken(7, f"{job.name} is {job.state}, and its {', '.join(changed)} changed")
        if job.attempt < before.attempt:
            self.broken(12, f"{job.name} went from attempt {before.attempt} to {job.attempt}")
        reported = job.status.get("report") not in (None, before.status.get("report"))
        if reported:
            self._see_report(job)
        elif job.status != before.status:
            self._see_epoch(job.epoch, f"{job.name} was written")
        for number in set(job.succeeded_attempts) - set(before.succeeded_attempts):
            if number == job.attempt:
                self._totals[job.uid, number] = job.status.get("children", {}).get("total", math.inf)
        claimed = job.state in ACTIVE and before.state not in ACTIVE
        if claimed and before.cancel:
            self.broken(9, f"{job.name} was claimed though it is canceled")
        if claimed and not before.attempt:
            self._see_dependencies(job)
            self._see_window(job)
        if claimed and job.attempt <= before.attempt:
            self.broken(12, f"{job.name} was claimed again as attempt {job.attempt}")
        if job.terminal and not before.terminal and job.failures > before.failures:
            self._see_failures(job)

    def _see_report(self, job: Job) -> None:
        """A report is that of the attempt which is the current one, by its own pod."""
        report = job.status["report"]
        if report["attempt"] != job.attempt:
            self.broken(8, f"{job.name} has a report of attempt {report['attempt']} in attempt {job.attempt}")
        pod = job.pod_name(report["attempt"])
        if self._pods.get(pod, report["podUID"]) != report["podUID"]:
            self.broken(8, f"{job.name} has a report of another pod than {pod}")

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
        """The names of all that its `after` means: the Jobs, the members of its groups, what is in its trees.

        Who waits for a tree that runs again may have been let go before what that run has enqueued was there.
        """
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
            of_tree = one.uid not in self._born_in_rerun | self._gone and trees & self._above(one)
            if (beside and its.get("group") in groups) or of_tree:
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
        """No two Jobs of one key run at once; those of a window may, when it has passed."""
        if job.unique is None or job.unique.scope != "Alive":
            return
        running = self._running_unique[_unique_key(job)]
        if deleted or job.state not in ACTIVE:
            running.discard(job.name)
            return
        running.add(job.name)
        if len(running) > 1:
            self.broken("uniqueness", f"unique Jobs {sorted(running)} run at once")

    def _see_window(self, job: Job) -> None:
        """A Job is let through for the first time: its key's window is not another's, whose record there is yet.

        A child competes from its release on, which no record tells: those are left to the simulation's judge.
        """
        if job.unique is None or job.unique.scope != "Window" or job.parent is not None:
            return
        let_through = self._of_windows[_unique_key(job)]
        for other in let_through.values():
            ends = other.created_at + (other.spec["unique"].get("windowSeconds") or 0)
            if other.uid not in self._gone and max(job.created_at, job.armed_at or 0.0) < ends:
                self.broken("uniqueness", f"{job.name} was claimed in the window of {other.name}")
        let_through[job.uid] = job

    def _see_pod(self, raw: Object, *, deleted: bool) -> None:
        pod = Pod.parse(raw)
        live, slot = self._live[f"{pod.job}/{pod.owner_uid}"], (pod.owner_uid, pod.attempt)
        if pod.name not in self._pods:
            if not raw["spec"].get("nodeName"):  # where nobody has seen its creation, an older epoch is none too old
                self._see_epoch(pod.epoch, f"pod {pod.name} was created")
            self._see_start(pod)
        first = self._pods.setdefault(pod.name, pod.uid)
        if first != pod.uid:
            self.broken(12, f"pod {pod.name} was created twice")
        if deleted or not pod.live:
            live.pop(pod.name, None)
            self._pods_of.pop(slot, None)
            self._over.add(slot)
        else:
            live[pod.name] = pod
            self._pods_of[slot] = pod.name
        if len(live) > 1:
            self.broken(2, f"{pod.job} has live pods {sorted(live)}")
        self._hold_slot(pod.queue, slot, pod.concurrency_key)
        self._count_slots(pod.queue)

    def _hold_slot(self, queue: str, slot: Slot, key: str) -> None:
        """An attempt is in a slot from its claim, or while its pod lives, whatever became of the Job."""
        job = self.jobs.get(slot[0])
        claimed = job is not None and job.active and job.attempt == slot[1] and job.uid not in self._gone
        if slot in self._pods_of or (claimed and slot not in self._over):
            self._slots[queue].setdefault(slot, key)
        else:
            self._slots[queue].pop(slot, None)

    def _count_slots(self, queue: str) -> None:
        """What has reported needs its slot no more."""
        keys = [key for slot, key in self._slots[queue].items() if slot not in self._reported]
        held = len(keys)
        self.most_slots[queue] = max(self.most_slots[queue], held)
        limit = self._concurrency.get(queue, held)
        if held > limit:
            self.broken(3, f"queue {queue} holds {held} of {limit} slots")
        for key, of_key in Counter(filter(None, keys)).items():
            limit = self._per_key.get(queue, of_key)
            if of_key > limit:
                self.broken(3, f"key {key} of queue {queue} holds {of_key} of {limit} slots")

    def _see_start(self, pod: Pod) -> None:
        job = self.jobs.get(pod.owner_uid)
        if job is None or job.parent is None or not job.parent.staged:
            return
        parent: Any = self.jobs.get(job.parent.uid)
        if parent is not None and not parent.attempt_succeeded(job.parent.attempt):
            self.broken(5, f"pod {pod.name} was created; attempt {job.parent.attempt} of its parent has not succeeded")
        total = self._totals.get((job.parent.uid, job.parent.attempt))
        if total is not None and job.parent.index >= total:
            self.broken(4, f"pod {pod.name} was created; its parent reported {total} children")


def _changed(before: Job, job: Job) -> list[str]:
    """The fields of status that differ."""
    old, new = before.status, job.status
    return sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))


def _unique_key(job: Job) -> str:
    """Of whom there is to be one: the namespace, what runs, and the key."""
    assert job.unique is not None
    what = job.spec.get("task") or json.dumps(job.spec.get("command"))
    key = job.unique.key if job.unique.key is not None else json.dumps(job.spec.get("args"), sort_keys=True)
    return f"{job.namespace}/{what}/{key}"
