"""Judges a simulated cluster by its whole history and by what truly ran, never by what the operator believes.

Each check names the invariant of the design's section 9 that it holds. `Judge.violations` fills as changes are applied;
`Judge.verdict` adds what only the end shows.
"""

import itertools
import math
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from questline_operator.core.pod import Pod
from questline_operator.core.records import LABEL_JOB
from questline_operator.core.states import ACTIVE, TERMINAL
from questline_operator.core.times import parse_time
from questline_operator.shell.api import JOBS, PODS, QUEUES, SCHEDULES, Object
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import START
from tests.simulation.judge_claims import ClaimJudge
from tests.simulation.judge_joins import NEVER_WAS, JoinJudge
from tests.simulation.judge_outcomes import OutcomeJudge
from tests.simulation.judge_pods import PodJudge
from tests.simulation.judge_reruns import Armed, RerunJudge
from tests.simulation.judge_schedules import ScheduleJudge
from tests.simulation.judge_slots import SlotJudge
from tests.simulation.kubelet import Run
from tests.simulation.store import Change

LATE_SECONDS = 60.0
"""So long after an edit the operator goes by it, however late its watches are ..."""
CALM_LATE_SECONDS = 1.0
"""... and so long where they are not."""
CANCEL_SECONDS = 30.0
"""So long after a cancel nothing of its tree starts any more, however late the operator's watches are ..."""
CALM_CANCEL_SECONDS = 1.0
"""... and so long where they are not."""
GRACE_SECONDS = 35.0
"""A pod that is told to end has so long for it, until that shows."""


class Judge:
    """Sees every change at the moment of its commit.

    Attributes:
        calm_since: from when on, in virtual seconds, nothing is late or lost any more.
        clock_error: seconds by which an operator's wall clock may be wrong at most.
        leading: the operators that trust themselves to lead now.
        deleted_by_hand: UIDs of the Jobs that the test itself deleted.
        clock_jumps: when an operator's wall clock was set.
        delays: for how long the code in a pod asked to be put off, by the pod's UID.
        violations: what broke an invariant, each with its number.
    """

    def __init__(self, server: ApiServer, *, max_running_pods: int | None = None) -> None:
        self._server = server
        self.violations: list[str] = []
        self.calm_since = float("inf")
        self.clock_error = 0.0
        self.leading: Callable[[], list[str]] = list
        self.deleted_by_hand: set[str] = set()
        self.clock_jumps: list[float] = []
        self.delays: dict[str, float | None] = {}
        self.jobs: dict[str, Object] = {}
        """Every Job that ever was, by UID, as it was last."""
        self.attempts: defaultdict[str, dict[int, Object]] = defaultdict(dict)
        """Every entry that status.attempts ever had, by the Job's UID and the attempt."""
        self.alive: dict[str, None] = {}
        """The UIDs of those that exist, in the order of their creation."""
        self.by_name: dict[str, Object] = {}
        """The last Job of each name, deleted ones included."""
        self.changed_at: dict[str, float] = {}
        self.seen_at: dict[str, float] = {}
        """When each Job was created, in virtual seconds; when it was last seen to end; when it was deleted."""
        self.ended_at: dict[str, float] = {}
        self.gone_at: dict[str, float] = {}
        self.kept_since: dict[str, float] = {}
        """When the deletion was asked for of each Job that a finalizer has kept then."""
        self.armed: dict[str, Armed] = {}
        """When each Job was last made to run again."""
        self.children_of: defaultdict[str, list[str]] = defaultdict(list)
        """UIDs by the parent's UID, in the order of their creation."""
        self.totals: dict[tuple[str, int], float] = {}
        self.succeeded_at: dict[tuple[str, int], float] = {}
        """How many children an attempt that succeeded has reported, infinity where it told none, as a command; and when
        its success was written."""
        self.born_in_rerun: set[str] = set()
        """Children of Jobs that had ended before."""
        self.slots = SlotJudge(self, max_running_pods)
        self.joins = JoinJudge(self)
        self.reruns = RerunJudge(self)
        self.schedules = ScheduleJudge(self)
        self.outcomes = OutcomeJudge(self)
        self.pods = PodJudge(self)
        self._claims = ClaimJudge(self)
        self._status_writes: Counter[str] = Counter()
        self._edits: Counter[str] = Counter()
        self._arms: Counter[str] = Counter()
        self._canceled_at: dict[str, float] = {}
        self._taken_back_at: dict[str, float] = {}
        self._told: Mapping[str, str] = {}
        server.store.observers.append(self._see)
        server.store.admission.append(self.pods.review)

    def _see(self, change: Change) -> None:
        try:
            self._judge(change)
        except Exception as error:
            # Whoever has made the change would hear of it, and nobody else.
            self.broken("the judge judges", "".join(traceback.format_exception(error)))
            raise

    def _judge(self, change: Change) -> None:
        leading = self.leading()
        if len(leading) > 1:
            self.broken("one operator leads", f"{' and '.join(leading)} trust themselves")
        if change.resource == JOBS:
            self._see_job(change)
        elif change.resource == QUEUES:
            self.slots.see_queue(change)
            self._claims.see_queue(change)
        elif change.resource == SCHEDULES:
            self.schedules.see_schedule(change)
        elif change.resource == PODS and LABEL_JOB in change.object["metadata"].get("labels", {}):
            self._see_pod(change)
        for part in (self._claims, self.outcomes, self.pods):
            part.judge_promptness()

    def broken(self, rule: int | str, what: str) -> None:
        """Note what was broken: an invariant by its number, or a rule in words."""
        title = f"invariant {rule}" if isinstance(rule, int) else rule
        self.violations.append(f"{title}: {what} (at {self.now:.3f} s)")

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._server.clock.monotonic()

    @property
    def late_since(self) -> float:
        """What was changed before this moment every operator goes by."""
        calm = self.now - CALM_LATE_SECONDS
        return calm if calm >= self.calm_since else min(self.calm_since, self.now - LATE_SECONDS)

    # What is asked of the records

    def ancestors(self, raw: Object) -> set[str]:
        """The UIDs of its parent, the parent's parent and so on."""
        found: set[str] = set()
        uid = _parent(raw).get("uid")
        while uid is not None and uid not in found:
            found.add(uid)
            uid = _parent(self.jobs[uid]).get("uid") if uid in self.jobs else None
        return found

    def living_ancestors(self, raw: Object) -> list[Object]:
        """Its parent, the parent's parent and so on, as far as they exist."""
        found: list[Object] = []
        while (uid := _parent(raw).get("uid")) in self.alive:
            raw = self.jobs[uid]
            found.append(raw)
        return found

    def descendants(self, uid: str, *, alive: bool = False) -> list[str]:
        """The UIDs of its children, theirs, and so on. ``alive``: as far as each line of records exists."""
        found: list[str] = []
        stack = [uid]
        while stack:
            children = [one for one in self.children_of[stack.pop()] if not alive or one in self.alive]
            found.extend(children)
            stack.extend(children)
        return found

    def is_run_again(self, raw: Object) -> bool:
        """Whether somebody runs it again, or one above it: then no later tick takes its place."""
        return any(one["spec"].get("rerun") for one in (raw, *self.living_ancestors(raw)))

    def canceled_since(self, raw: Object) -> float:
        """Since when one of its ancestors has been canceled or replaced; infinity where none is."""
        since = float("inf")
        run_again = self.is_run_again(raw)
        for one in self.living_ancestors(raw):
            uid = one["metadata"]["uid"]
            if one["spec"].get("cancel"):
                since = min(since, self._canceled_at[uid])
            if one["status"]["state"] == "Canceled":
                since = min(since, self.ended_at[uid])
            if not run_again:
                since = min(since, self.schedules.replaced_since(one))
        return since

    def is_canceled(self, raw: Object) -> bool:
        """Whether it will not run again: it or an ancestor is canceled or replaced."""
        return bool(raw["spec"].get("cancel")) or self.canceled_since(raw) < float("inf")

    def unfinished_since(self, raw: Object) -> float:
        """When it was created, or last made to run again."""
        uid = raw["metadata"]["uid"]
        return self.armed[uid].at if uid in self.armed else self.seen_at[uid]

    def is_lately_armed(self, raw: Object) -> bool:
        """Whether it was made to run again so lately that not every decision can go by it."""
        uid = raw["metadata"]["uid"]
        return uid in self.armed and self.armed[uid].at > self.late_since

    def armed_attempt(self, uid: str) -> int:
        """How many attempts it had when it was last made to run again."""
        return self.armed[uid].attempt if uid in self.armed else 0

    def is_claimed_in_its_run(self, raw: Object) -> bool:
        """Whether it was claimed since it was created, or last made to run again."""
        return bool(raw["status"].get("attempt", 0) > self.armed_attempt(raw["metadata"]["uid"]))

    def may_run(self, child: Object) -> bool:
        """Whether what its parent said does not keep it from running for ever."""
        parent, status = _parent(child), child["status"]
        if status.get("reason") in NEVER_WAS:
            return False
        if not parent or "attempt" in status:
            return True
        if parent["uid"] not in self.alive:
            return False
        total = self.totals.get((parent["uid"], parent["attempt"]))
        return not self._is_doomed(child) and (total is None or parent["index"] < total)

    def waits(self, raw: Object) -> bool:
        """Whether it has not ended."""
        return raw["status"]["state"] not in TERMINAL

    def is_parked(self, raw: Object) -> bool:
        """Whether it waits and will not run: a finalizer keeps it, and its deletion was asked for."""
        return raw["status"]["state"] == "Waiting" and "deletionTimestamp" in raw["metadata"]

    def is_long_parked(self, raw: Object) -> bool:
        """Whether that was so for long enough for every operator to know."""
        since = self.kept_since.get(raw["metadata"]["uid"], float("inf"))
        return self.is_parked(raw) and max(since, self.changed_at[raw["metadata"]["uid"]]) < self.late_since

    def is_at_rest(self, raw: Object) -> bool:
        """Whether it has ended and is not to run again, or may wait for ever: a finalizer keeps it, or a Job is missing
        for which it waits."""
        if self.is_parked(raw):
            return True
        if self.waits(raw):
            return self.joins.waits_for_a_missing_job(raw)
        return not self.reruns.is_due(raw)

    def see_inputs(self, uid: str, inputs: Mapping[str, Any] | None) -> None:
        """What an attempt is told of those that its Job waited for."""
        if uid in self.alive:
            self.joins.see_inputs(uid, inputs)

    # Jobs

    def _see_job(self, change: Change) -> None:
        raw, meta = change.object, change.object["metadata"]
        uid, name, status = meta["uid"], meta["name"], change.object.get("status", {})
        before = self.jobs.get(uid, {})
        self.jobs[uid] = self.by_name[name] = raw
        if change.type == "DELETED":
            self.alive.pop(uid, None)
            self.gone_at[uid] = self.now
            self.slots.release(uid)
            if uid not in self.deleted_by_hand | self.kept_since.keys():
                self._see_retention(raw)
            return
        self.alive[uid] = None
        if "deletionTimestamp" in meta and uid not in self.kept_since:
            self.kept_since[uid] = self.now
            if uid not in self.deleted_by_hand:
                self._see_retention(raw)
        old, new = before.get("status", {}), status
        self.changed_at[uid] = self.now
        if not before:
            self._see_created(uid, raw)
        self._see_cancel(uid, raw)
        self.reruns.see_job(uid, raw, before)
        if new["state"] in TERMINAL and old.get("state") not in TERMINAL:
            self.ended_at[uid] = self.now
        self._arms[uid] += old.get("state") in TERMINAL and new["state"] == "Waiting"
        for number in set(new.get("succeededAttempts", ())) - set(old.get("succeededAttempts", ())):
            self.totals[uid, number] = new.get("children", {}).get("total", math.inf)  # a command counts none
            self.succeeded_at[uid, number] = self.now
        self._claims.see_job(uid, raw)
        self._status_writes[uid] += new != old
        self._edits[uid] += bool(before) and raw["spec"] != before["spec"]
        if new.get("attempt", 0) not in (old.get("attempt", 0), old.get("attempt", 0) + 1):
            self.broken(12, f"{name}: attempt {old.get('attempt', 0)} -> {new.get('attempt', 0)}")
        if new.get("epoch", 0) < old.get("epoch", 0):
            self.broken(12, f"{name}: epoch {old['epoch']} -> {new['epoch']}")
        if old.get("state") == "Waiting" and new["state"] in ACTIVE:
            if raw["spec"].get("cancel"):
                self.broken(9, f"{name} was claimed though it is canceled")
            self._claims.judge_claim(uid, raw, old)
        if old.get("state") != new["state"] == "Skipped":
            self._claims.judge_skip(raw)
        if old.get("state") != new["state"] == "Canceled":
            self._see_canceled(raw)
        self.outcomes.see_job(uid, raw, before)
        self.slots.see_job(uid, raw, old)

    def _see_created(self, uid: str, raw: Object) -> None:
        self.seen_at[uid] = self.now
        parent = _parent(raw)
        if parent:
            self._judge_place(raw, parent)
            self.children_of[parent["uid"]].append(uid)
            if self.jobs.get(parent["uid"], raw)["status"].get("finishes", 0):
                self.born_in_rerun.add(uid)
        self.schedules.see_made(raw)

    def _judge_place(self, raw: Object, parent: Object) -> None:
        """4: one child an index. One that somebody deletes before its POST is answered may be made once more."""
        for other in self.children_of[parent["uid"]]:
            its = _parent(self.jobs[other])
            same = (its["attempt"], its["index"]) == (parent["attempt"], parent["index"])
            if same and other not in self.deleted_by_hand:
                self.broken(4, f"{raw['metadata']['name']} is the second child of {parent}")

    def _see_cancel(self, uid: str, raw: Object) -> None:
        if raw["spec"].get("cancel"):
            self._canceled_at.setdefault(uid, self.now)
        elif self._canceled_at.pop(uid, None) is not None:
            self._taken_back_at[uid] = self.now

    def _see_canceled(self, raw: Object) -> None:
        name, reason = raw["metadata"]["name"], raw["status"]["reason"]
        if raw["spec"].get("cancel") or reason == "Raised":
            return
        true = self.schedules.was_replaced(raw) if reason == "Replaced" else self.was_canceled_lately(raw)
        if not true and not self._was_canceled(raw):
            self.broken(9, f"{name} is Canceled ({reason}), and nobody has asked for it")

    def was_canceled_lately(self, raw: Object) -> bool:
        """Whether it or one above it is canceled or replaced, or was lately."""
        above = [self.jobs[uid] for uid in self.ancestors(raw) if uid in self.jobs]
        return any(self._was_canceled(one) for one in (raw, *above))

    def _was_canceled(self, one: Object) -> bool:
        """Whether it is canceled or replaced, or was lately."""
        uid, armed = one["metadata"]["uid"], self.armed.get(one["metadata"]["uid"])
        return (
            one["spec"].get("cancel")
            or self._taken_back_at.get(uid, -math.inf) > self.late_since
            or one["status"]["state"] == "Canceled"
            or (armed is not None and armed.at > self.late_since and armed.before["status"]["state"] == "Canceled")
            or self.schedules.was_replaced(one)
        )

    def _see_retention(self, raw: Object) -> None:
        if raw["status"]["state"] not in TERMINAL:
            self.broken(1, f"{raw['metadata']['name']} was deleted by the operator as {raw['status']['state']}")
        window = raw["spec"].get("unique", {}).get("windowSeconds", 0) if "attempt" in raw["status"] else 0
        until = parse_time(raw["metadata"]["creationTimestamp"]) + window
        if window and START + self.now + self.clock_error < until:
            self.broken("records are kept for their window", f"{raw['metadata']['name']} was deleted before its end")
        self.joins.judge_retention(raw)
        if self.reruns.is_due(raw) and self.changed_at[raw["metadata"]["uid"]] < self.late_since:
            self.broken(7, f"{raw['metadata']['name']} was deleted, and was to run again")
        for uid in self.descendants(raw["metadata"]["uid"], alive=True):
            child = self.jobs[uid]
            if self.waits(child) and not self._is_doomed(child) and not self.is_lately_armed(child):
                name = child["metadata"]["name"]
                self.broken(1, f"{raw['metadata']['name']} was deleted while {name} is not finished")

    def _is_doomed(self, child: Object) -> bool:
        """Whether it never ran and never will: an attempt enqueued it that had lost its standing before."""
        parent, status = _parent(child), self.jobs[_parent(child)["uid"]]["status"]
        over = status["state"] in TERMINAL or status.get("attempt", 0) > parent["attempt"]
        return (
            over and parent["attempt"] not in status.get("succeededAttempts", ()) and "attempt" not in child["status"]
        )

    # Pods

    def _see_pod(self, change: Change) -> None:
        pod = Pod.parse(change.object)
        if change.type == "ADDED":
            self._see_start(pod)
        elif pod.name in self.slots.live_pods and (change.type == "DELETED" or not pod.live):
            self._see_end(pod)
        self.slots.see_pod(pod, change)
        self.outcomes.see_pod(change.object, gone=change.type == "DELETED")
        self.pods.see_pod(pod, change)
        others = [one.name for one in self.slots.live_pods.values() if one.owner_uid == pod.owner_uid]
        if len(others) > 1 and change.type == "ADDED":
            self.broken(2, f"{pod.job} has the live pods {sorted(others)}")

    def _see_start(self, pod: Pod) -> None:
        job = self.jobs.get(pod.owner_uid)
        if job is None:
            self.broken(8, f"pod {pod.name} is of no Job that ever was")
            return
        since = self.kept_since.get(pod.owner_uid, float("inf"))
        if self.now > since + (CALM_CANCEL_SECONDS if since >= self.calm_since else CANCEL_SECONDS):
            self.broken("nothing starts of a Job that is to go", f"{pod.name} was created")
        run_again = self.is_run_again(job)
        for one in (job, *self.living_ancestors(job)):
            uid = one["metadata"]["uid"]
            since = self._canceled_at.get(uid, float("inf"))
            if not run_again:
                since = min(since, self.schedules.replaced_since(one))
            allowed = CALM_CANCEL_SECONDS if since >= self.calm_since else CANCEL_SECONDS
            if self.now > since + allowed:
                self.broken(9, f"{pod.name} was created long after {one['metadata']['name']} was canceled")
        parent = _parent(job)
        if not parent or not parent.get("staged", True):
            return
        of_parent = self.jobs.get(parent["uid"], {}).get("status", {})
        if parent["attempt"] not in of_parent.get("succeededAttempts", ()):
            self.broken(5, f"{pod.name} was created; attempt {parent['attempt']} of its parent has not succeeded")
        elif parent["index"] >= (total := self.totals[parent["uid"], parent["attempt"]]):
            self.broken(4, f"{pod.name} was created; its parent reported {total} children")

    def _see_end(self, pod: Pod) -> None:
        """9: what runs when it or an ancestor is canceled or replaced is told to end, and has its grace."""
        job = self.jobs.get(pod.owner_uid)
        if job is None or pod.owner_uid not in self.alive:
            return
        canceled = self._canceled_at.get(pod.owner_uid, float("inf"))
        since = min(canceled, self.schedules.replaced_since(job), self.canceled_since(job))
        late = CALM_CANCEL_SECONDS if since >= self.calm_since else LATE_SECONDS
        if self.now > since + late + GRACE_SECONDS:
            took = self.now - since
            self.broken(9, f"{pod.name} ran on for {took:.0f} s after it or an ancestor was canceled")

    # The end

    def verdict(self, runs: list[Run], told: Mapping[str, str]) -> list[str]:
        """Everything that was broken, the end included.

        Args:
            runs: every container that truly ran.
            told: how the code in each ended by itself, as an envelope's outcome, by the pod's UID; killed ones lack.
        """
        self._told = told
        self._judge_ends()
        self._judge_runs(runs)
        self.outcomes.verdict(told)
        self._judge_children(runs)
        for part in (self._claims, self.joins, self.reruns, self.schedules, self.slots):
            part.verdict()
        return self.violations

    def judge_kept(self) -> None:
        """Of those that a finalizer keeps nothing runs any more, none holds a slot, and none holds up another that does
        not wait for it by name."""
        for raw in (self.jobs[uid] for uid in self.alive):
            if not self.is_at_rest(raw):
                state, reason = raw["status"]["state"], raw["status"].get("reason")
                self.broken(1, f"{raw['metadata']['name']} is {state} ({reason}) for as long as others are kept")

    def _judge_ends(self) -> None:
        for uid in self.alive:
            job = self.jobs[uid]
            status = job["status"]
            if status["state"] not in TERMINAL and not self.joins.waits_for_a_missing_job(job):
                self.broken(1, f"{job['metadata']['name']} is {status['state']} ({status.get('reason')}) for ever")
            budget = 8 + 6 * status.get("attempt", 0) + 3 * self._edits[uid] + 4 * self._arms[uid]
            if self._status_writes[uid] > budget:
                self.broken(
                    "writes", f"the status of {job['metadata']['name']} was written {self._status_writes[uid]} times"
                )
        for queue in self._server.store.peek_all(QUEUES):
            if queue.get("status", {}).get("running"):
                self.broken(3, f"queue {queue['metadata']['name']} still counts {queue['status']['running']} running")

    def _judge_runs(self, runs: list[Run]) -> None:
        for pod, number in Counter(run.pod for run in runs).items():
            if number > 1:
                self.broken(12, f"pod {pod} ran {number} times")
        of_job: defaultdict[str, list[Run]] = defaultdict(list)
        for run in runs:
            of_job[run.pod.rpartition("-")[0]].append(run)
        for job, its in of_job.items():
            its.sort(key=lambda run: run.started_at)
            for first, second in itertools.pairwise(its):
                if first.ended_at is None or first.ended_at > second.started_at:
                    self.broken(2, f"{job}: attempts {first.attempt} and {second.attempt} ran at once")
                if first.attempt >= second.attempt:
                    self.broken(12, f"{job}: attempt {first.attempt} ran before attempt {second.attempt}")

    def _judge_children(self, runs: list[Run]) -> None:
        """5: a staged child runs only if its parent's container truly succeeded."""
        ran = {run.pod.rpartition("-")[0] for run in runs}
        for uid, job in self.jobs.items():
            parent = _parent(job)
            if not parent:
                continue
            name = job["metadata"]["name"]
            succeeded = self._told.get(parent["podUID"]) == "Succeeded"
            if parent.get("staged", True) and f"{name}-{uid[:8]}" in ran and not succeeded:
                self.broken(5, f"{name} ran, but its parent's container did not succeed")


def _parent(job: Object) -> dict[str, Any]:
    parent: dict[str, Any] = job["spec"].get("parent", {})
    return parent
