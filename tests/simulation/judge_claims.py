"""Judges decisions about Jobs that wait: whether one could be claimed, and whether one had to be skipped.

A decision is held to what stood in the API at that moment, and where someone else may change that (a queue, a
suspension), to what had stood there for longer than any watch is late.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from questline_operator.core.records import ANNOTATION_REPLACES
from questline_operator.core.states import ACTIVE, TERMINAL
from questline_operator.core.times import parse_time
from questline_operator.shell.api import Object
from tests.simulation.clock import START
from tests.simulation.store import Change

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

LATE_CLOCK_SECONDS = 5.0
"""A clock that is wrong by more ends a window early or late."""
REJECTED_SECONDS = 40.0
"""So long after a pod was refused its queue may yet wait to try whether pods are taken again."""
CALM_SECONDS = 1.0
PROMPT_SECONDS = 1.0
"""In the calm, from the moment from which a Job could start to its claim."""
PRIORITY_SECONDS = 0.5
"""Claims that were decided together are written within this time."""


class ClaimJudge:
    """The part of a `Judge` for Jobs that wait. It knows every Job by the judge's records."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge
        self._paused_at: dict[str, float] = {}
        self._suspended_at: dict[str, float] = {}
        self._rivals: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._decided_at: dict[str, str] = {}
        self._ready_since: dict[str, float] = {}
        self._rejected_at = float("-inf")
        self._overtaken: dict[str, tuple[float, str]] = {}
        """Jobs that were ready before one of lower priority was claimed: until when, and by whom."""

    # What others change

    def see_queue(self, change: Change) -> None:
        """Note since when a queue is as it is."""
        name, spec, now = change.key[1], change.object["spec"], self._judge.now
        if change.type == "DELETED" or not spec.get("paused"):
            self._paused_at.pop(name, None)
        else:
            self._paused_at.setdefault(name, now)

    def see_job(self, uid: str, raw: Object) -> None:
        """Note since when a Job is suspended, and that one that was overtaken has moved."""
        if not raw["spec"].get("suspend"):
            self._suspended_at.pop(uid, None)
        else:
            self._suspended_at.setdefault(uid, self._judge.now)
        if raw["status"].get("reason") == "PodRejected":
            self._rejected_at = self._judge.now
        if uid in self._overtaken and self._judge.now <= self._overtaken[uid][0]:
            del self._overtaken[uid]

    # Claims

    def judge_claim(self, uid: str, raw: Object, before: Object) -> None:
        """A Job was claimed: nothing that it names may have held it back."""
        judge, spec, name = self._judge, raw["spec"], raw["metadata"]["name"]
        queue, now = spec.get("queue", "default"), self._judge.now
        if "deletionTimestamp" in raw["metadata"]:
            judge.broken("nothing starts of a Job that is to go", f"{name} was claimed")
        if self._suspended_at.get(uid, now) < judge.late_since:
            judge.broken("a suspended Job waits", f"{name} was claimed")
        if self._paused_at.get(queue, now) < judge.late_since:
            judge.broken("a paused queue starts nothing", f"{name} was claimed from {queue}")
        for field, moment in (("runAt", spec.get("runAt")), ("nextAttemptAt", before.get("nextAttemptAt"))):
            if moment and START + now + judge.clock_error + 0.001 < parse_time(moment):
                judge.broken("a Job waits for its time", f"{name} was claimed, but its {field} is {moment}")
        if before.get("attempt", 0) == 0:
            judge.joins.judge_claim(raw)
            judge.schedules.judge_claim(raw)
            self._judge_uniqueness(uid, raw)
        elif before["attempt"] == judge.armed_attempt(uid):
            self._judge_rerun(raw)
        self._judge_order(raw, queue)

    def _judge_order(self, raw: Object, queue: str) -> None:
        """Higher priority first, among those that surely were ready: of the queue, and where the operator's own limit
        binds, of queues of higher priority."""
        judge = self._judge
        for late, (until, by) in list(self._overtaken.items()):
            if judge.now > until:
                del self._overtaken[late]
                name = judge.jobs[late]["metadata"]["name"]
                judge.broken("higher priority goes first", f"{by} was claimed before {name}")
        if judge.late_since < judge.calm_since:
            return
        priority, of_queue = raw["spec"].get("priority", 0), self._priority_of(queue)
        for other in judge.alive:
            of_other = judge.jobs[other]["spec"].get("queue", "default")
            if of_other == queue:
                goes_first = judge.jobs[other]["spec"].get("priority", 0) > priority
            else:
                goes_first = self._priority_of(of_other) > of_queue
            knows_of_slot = judge.slots.has_free_slot(of_other, judge.jobs[other]["spec"].get("key", ""), known=True)
            if goes_first and knows_of_slot and self._is_surely_ready(judge.jobs[other]):
                self._overtaken.setdefault(other, (judge.now + PRIORITY_SECONDS, raw["metadata"]["name"]))

    def judge_promptness(self) -> None:
        """In the calm, whoever could start does: no Job is forgotten, and none is held up by another's key."""
        judge = self._judge
        lately = judge.now < self._rejected_at + REJECTED_SECONDS
        if lately or judge.now < judge.calm_since + CALM_SECONDS or not judge.slots.has_room:
            self._ready_since.clear()
            return
        for uid in judge.alive:
            raw = judge.jobs[uid]
            if raw["status"]["state"] != "Waiting" or not self._is_surely_ready(raw):
                self._ready_since.pop(uid, None)
            elif judge.now > self._ready_since.setdefault(uid, judge.now) + PROMPT_SECONDS:
                self._ready_since[uid] = float("inf")
                judge.broken(1, f"{raw['metadata']['name']} could start, and does not")

    def _priority_of(self, queue: str) -> int:
        priorities = self._judge.slots.in_force(queue, "priority")
        return (priorities[-1] or 0) if priorities else 0

    def _is_surely_ready(self, raw: Object) -> bool:
        spec, status, queue = raw["spec"], raw["status"], raw["spec"].get("queue", "default")
        in_force = self._judge.slots.in_force
        return (
            status["state"] == "Waiting"
            and not {"attempt", "nextAttemptAt"} & status.keys()
            and not {"parent", "after", "unique", "runAt", "cancel"} & spec.keys()
            and not spec.get("suspend")
            and not self._judge.is_parked(raw)
            and self._judge.changed_at[raw["metadata"]["uid"]] < self._judge.late_since
            and in_force(queue, "paused") in ([None], [False])
            and in_force(queue, "rateLimit") == [None]
            and self._judge.slots.has_free_slot(queue, spec.get("key", ""))
            and ANNOTATION_REPLACES not in raw["metadata"].get("annotations", {})
            and len(in_force(queue, "priority")) == 1
        )

    # Uniqueness, design 5

    def _judge_uniqueness(self, uid: str, raw: Object) -> None:
        key = unique_key(raw)
        if key is None:
            return
        for other in self._rivals[key]:
            runs = other in self._judge.alive and self._judge.jobs[other]["status"]["state"] in ACTIVE
            if other in self._judge.deleted_by_hand and not runs:
                continue
            why = self._why_duplicate(raw, self._judge.jobs[other])
            if why and not self._went_first(raw, other):
                names = raw["metadata"]["name"], self._judge.jobs[other]["metadata"]["name"]
                self._judge.broken("one of a unique key", f"{names[0]} was claimed, but {names[1]} {why}")
        self._rivals[key].append(uid)
        self._decided_at[uid] = raw["status"]["startedAt"]

    def _went_first(self, raw: Object, other: str) -> bool:
        """Whether the other is no duplicate of it: claims decided one after the other may be applied the other way."""
        decided_before = bool(raw["status"]["startedAt"] <= self._decided_at[other])
        return decided_before and not self._why_duplicate(self._judge.jobs[other], raw)

    def _why_duplicate(self, raw: Object, winner: Object, *, surely: bool = True) -> str:
        """Why it is a duplicate of that admitted one, or "". ``surely``: not where one second holds both moments."""
        if winner["metadata"]["uid"] in self._judge.ancestors(raw):
            return ""
        if self._gone_before(winner, raw):
            return ""
        released, status = self._released_at(raw), winner["status"]
        created, unique = parse_time(winner["metadata"]["creationTimestamp"]), raw["spec"]["unique"]
        if unique.get("scope") == "Window":
            of_winner = winner["spec"]["unique"]
            if of_winner.get("scope") != "Window" and winner["metadata"]["uid"] not in self._judge.alive:
                return ""  # nobody could know for how long its record would be asked for
            window = of_winner.get("windowSeconds") or unique["windowSeconds"]
            return (
                f"was created {released - created:g} s before, within {window} s" if released < created + window else ""
            )
        if status["state"] not in TERMINAL and self._judge.is_claimed_in_its_run(winner):
            return f"is {status['state']}"
        finished = self._last_run_finished_at(winner)
        unsure = released // 1 == finished // 1
        before = released <= finished and not (surely and unsure)
        return (
            f"ended {finished - released:.3f} s after it became eligible" if before or (unsure and not surely) else ""
        )

    def _last_run_finished_at(self, winner: Object) -> float:
        """One made to run again that ended before its claim took nobody's place in that run."""
        status = winner["status"]
        entry = self._judge.attempts.get(winner["metadata"]["uid"], {}).get(status["attempt"])
        claimed = self._judge.is_claimed_in_its_run(winner)
        return parse_time(status["finishedAt"] if claimed or entry is None else entry["finishedAt"])

    def _gone_before(self, winner: Object, raw: Object) -> bool:
        """Whether the record was deleted in good order before the other Job was created, or made to run again.

        That is so early only where the clock says that the winner ended, or its window, later than it was.
        """
        judge = self._judge
        gone_at = judge.gone_at.get(winner["metadata"]["uid"])
        if gone_at is None or gone_at > judge.unfinished_since(raw):
            return False
        return raw["spec"]["unique"].get("scope") != "Window" or judge.clock_error > LATE_CLOCK_SECONDS

    def _released_at(self, raw: Object) -> float:
        created, parent = parse_time(raw["metadata"]["creationTimestamp"]), raw["spec"].get("parent")
        if raw["metadata"]["uid"] in self._judge.armed:
            created = max(created, parse_time(raw["status"]["armed"]["at"]))
        if parent is None or not parent.get("staged", True):
            return created
        entry = self._judge.attempts.get(parent["uid"], {}).get(parent["attempt"])
        return max(created, parse_time(entry["finishedAt"])) if entry else created

    def _judge_rerun(self, raw: Object) -> None:
        """One that has run before waits until no other of its key runs; its ancestors do not count, and one that was
        that of its window goes on at once."""
        judge, key = self._judge, unique_key(raw)
        if key is not None and raw["spec"]["unique"].get("scope") == "Window":
            return
        for uid in self._rivals[key] if key is not None else ():
            other = judge.jobs[uid]
            runs = uid in judge.alive and judge.waits(other) and judge.is_claimed_in_its_run(other)
            runs = runs and not judge.is_parked(other)
            if self._went_first(raw, uid):
                continue  # one of a window that has passed need not wait, and its claim was applied first
            if runs and uid not in judge.ancestors(raw) | {raw["metadata"]["uid"]} and not self._has_told(other):
                names = raw["metadata"]["name"], other["metadata"]["name"]
                judge.broken("one of a unique key", f"{names[0]} runs again while {names[1]} runs")

    def _has_told(self, raw: Object) -> bool:
        """Whether its outcome was reported: its end is about to be written."""
        return "report" in raw["status"]

    # Skips

    def judge_skip(self, raw: Object) -> None:
        """A Job was skipped: the reason has to hold."""
        judge, status = self._judge, raw["status"]
        name, reason, parent = raw["metadata"]["name"], status.get("reason"), raw["spec"].get("parent")
        true = True
        if reason == "Duplicate":
            true = self._is_true_duplicate(raw)
        elif reason == "UpstreamFailed":
            true = judge.joins.is_upstream_failed(raw)
        elif reason == "UpstreamNotAllowed":
            true = judge.joins.is_of_another_tree(raw)
        elif reason == "DependencyCycle":
            true = judge.joins.is_in_a_cycle(raw)
        elif reason in ("ParentFailed", "LateChild", "ParentGone"):
            record = judge.jobs.get(parent["uid"])
            of_parent: Any = {} if record is None else record["status"]
            ended_well = parent["attempt"] in of_parent.get("succeededAttempts", ())
            if reason == "ParentFailed":
                still = of_parent.get("attempt") == parent["attempt"] and of_parent["state"] in ("Starting", "Running")
                true = not ended_well and not still
            elif reason == "LateChild":
                true = ended_well and parent["index"] >= judge.totals[parent["uid"], parent["attempt"]]
            else:
                true = parent["uid"] not in judge.alive
        else:
            true = False
        if not true:
            judge.broken("a Job is skipped for what is true", f"{name}: {reason}: {status.get('message')}")

    def _is_true_duplicate(self, raw: Object) -> bool:
        """Of the Job of that name, or of a former one."""
        original = raw["status"].get("duplicateOf", "")
        named = [one for one in self._judge.jobs.values() if one["metadata"]["name"] == original]
        return any(self._is_duplicate_of(raw, one) for one in named)

    def _is_duplicate_of(self, raw: Object, winner: Object) -> bool:
        if unique_key(winner) != unique_key(raw) or winner["status"].get("attempt", 0) < 1:
            return False
        if self._judge.is_long_parked(winner) and raw["spec"]["unique"].get("scope") != "Window":
            return False  # it runs no more; for its window it was the one all the same
        if winner["metadata"]["uid"] in self._judge.deleted_by_hand:
            return True
        # By the order of the writes, or by the times that stand in the records, which clocks may have set apart.
        parent = raw["spec"].get("parent")
        judge, released = self._judge, self._judge.unfinished_since(raw)
        if parent is not None and parent.get("staged", True):
            released = max(released, judge.succeeded_at.get((parent["uid"], parent["attempt"]), released))
        of_alive = raw["spec"]["unique"].get("scope") != "Window"
        claimed = judge.is_claimed_in_its_run(winner)
        in_time = claimed and (judge.waits(winner) or released <= judge.ended_at[winner["metadata"]["uid"]])
        return (of_alive and in_time) or bool(self._why_duplicate(raw, winner, surely=False))

    def verdict(self) -> None:
        """What only the end shows."""
        for late, (_, by) in self._overtaken.items():
            job = self._judge.jobs[late]
            if job["status"]["state"] == "Waiting":
                self._judge.broken("higher priority goes first", f"{by} was claimed before {job['metadata']['name']}")


def unique_key(raw: Object) -> tuple[str, str] | None:
    """What it is unique by, or None: (task or command, key)."""
    spec, unique = raw["spec"], raw["spec"].get("unique")
    if unique is None:
        return None
    what = spec.get("task") or repr(spec.get("command"))
    return what, f"key {unique['key']}" if "key" in unique else f"args {sorted(spec.get('args', {}).items())}"


def delays_of(raw: Object, outcome: str, failures: int, disruptions: int, asked: float | None) -> tuple[float, float]:
    """The shortest and the longest wait in seconds after an attempt that ended so (design 2, backoff, and 3).

    Args:
        asked: the delay that the task itself has asked for.
    """
    if outcome == "Disrupted":
        return (min(2.0 ** (disruptions - 1), 300.0),) * 2
    if outcome in ("Retry", "Snoozed") and asked is not None:
        return asked, asked
    if outcome not in ("Failed", "Retry"):
        return 0.0, float("inf")
    base: float = raw["spec"].get("backoff", {}).get("baseSeconds", 1)
    delay = min(3_600.0, base * 2.0 ** (failures - 1))
    return delay * 0.5, min(3_600.0, delay * 1.5)
