"""Judges a simulated cluster by its whole history and by what truly ran, never by what the operator believes.

Each check names the invariant of the design's section 9 that it holds. `Judge.violations` fills as changes are applied;
`Judge.verdict` adds what only the end shows.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from questline_operator.core.records import LABEL_JOB, Pod
from questline_operator.core.states import ACTIVE, TERMINAL
from questline_operator.core.times import parse_time
from questline_operator.shell.api import JOBS, PODS, QUEUES, Object
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import START
from tests.simulation.judge_claims import CALM_LATE_SECONDS, LATE_SECONDS, ClaimJudge, delays_of
from tests.simulation.kubelet import Run
from tests.simulation.store import Change

CANCEL_SECONDS = 30.0
"""So long after a cancel nothing of its tree starts any more, however late the operator's watches are ..."""
CALM_CANCEL_SECONDS = 1.0
"""... and so long where they are not."""
COUNTED = ("Failed", "Retry", "Fatal")


class Judge:
    """Sees every change at the moment of its commit.

    Attributes:
        calm_since: from when on, in virtual seconds, nothing is late or lost any more.
        clock_error: seconds by which an operator's wall clock may be wrong at most.
        leading: the operators that trust themselves to lead now.
        deleted_by_hand: UIDs of the Jobs that the test itself deleted.
        violations: what broke an invariant, each with its number.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.violations: list[str] = []
        self.calm_since = float("inf")
        self.clock_error = 0.0
        self.leading: Callable[[], list[str]] = list
        self.deleted_by_hand: set[str] = set()
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
        """When each Job was created, in virtual seconds; when it was seen to end; when it was deleted."""
        self.ended_at: dict[str, float] = {}
        self.gone_at: dict[str, float] = {}
        self._claims = ClaimJudge(self)
        self._status_writes: Counter[str] = Counter()
        self._edits: Counter[str] = Counter()
        self._canceled_at: dict[str, float] = {}
        self._live_pods: dict[str, Pod] = {}
        self._pods_that_ended: set[str] = set()
        self._reported: set[str] = set()
        self._held: defaultdict[str, set[str]] = defaultdict(set)
        self._claim: dict[str, str] = {}
        self._told: Mapping[str, str] = {}
        server.store.observers.append(self._see)

    def _see(self, change: Change) -> None:
        leading = self.leading()
        if len(leading) > 1:
            self.broken("one operator leads", f"{' and '.join(leading)} trust themselves")
        if change.resource == JOBS:
            self._see_job(change)
        elif change.resource == QUEUES:
            self._claims.see_queue(change)
        elif change.resource == PODS and LABEL_JOB in change.object["metadata"].get("labels", {}):
            self._see_pod(change)

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

    def ancestors(self, raw: Object) -> set[str]:
        """The UIDs of its parent, the parent's parent and so on."""
        found: set[str] = set()
        uid = _parent(raw).get("uid")
        while uid is not None and uid not in found:
            found.add(uid)
            uid = _parent(self.jobs[uid]).get("uid") if uid in self.jobs else None
        return found

    # Jobs

    def _see_job(self, change: Change) -> None:
        raw, meta = change.object, change.object["metadata"]
        uid, name, status = meta["uid"], meta["name"], change.object.get("status", {})
        before = self.jobs.get(uid, {})
        self.jobs[uid] = self.by_name[name] = raw
        if change.type == "DELETED":
            self.alive.pop(uid, None)
            self.gone_at[uid] = self.now
            self._release_claim(uid, raw)
            if uid not in self.deleted_by_hand:
                self._see_retention(raw)
            return
        self.alive[uid] = None
        old, new = before.get("status", {}), status
        self.changed_at[uid] = self.now
        self.seen_at.setdefault(uid, self.now)
        if old.get("state") in TERMINAL and new != old:
            changed = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
            self.broken(7, f"{name}: {old['state']} -> {new['state']}, {', '.join(changed)} changed")
        if new["state"] in TERMINAL:
            self.ended_at.setdefault(uid, self.now)
        self._claims.see_job(uid, raw)
        self._status_writes[uid] += new != old
        self._edits[uid] += bool(before) and raw["spec"] != before["spec"]
        if new.get("attempt", 0) not in (old.get("attempt", 0), old.get("attempt", 0) + 1):
            self.broken(12, f"{name}: attempt {old.get('attempt', 0)} -> {new.get('attempt', 0)}")
        if new.get("epoch", 0) < old.get("epoch", 0):
            self.broken(12, f"{name}: epoch {old['epoch']} -> {new['epoch']}")
        if old.get("state") == "Waiting" and new["state"] in ACTIVE:
            if raw["spec"].get("cancel"):
                self.broken(9, f"{name} was claimed though it is cancelled")
            self._claims.judge_claim(uid, raw, old)
        if old.get("state") != new["state"] == "Skipped":
            self._claims.judge_skip(raw)
        if old.get("state") != new["state"] == "Canceled":
            self._see_canceled(raw)
        if old.get("state") in ACTIVE and new["state"] == "Waiting" and new.get("attempts"):
            self._see_backoff(raw, old)
        if raw["spec"].get("cancel"):
            self._canceled_at.setdefault(uid, self._server.clock.monotonic())
        for entry in status.get("attempts", ()):
            self.attempts[uid].setdefault(entry["number"], entry)
        if (report := new.get("report")) and report != old.get("report"):
            self._reported.add(report["podUID"])
        self._count_claim(uid, raw)

    def _see_canceled(self, raw: Object) -> None:
        ancestors = [self.jobs[uid] for uid in self.ancestors(raw) if uid in self.jobs]
        of_ancestor = any(one["spec"].get("cancel") or one["status"]["state"] == "Canceled" for one in ancestors)
        if not (raw["spec"].get("cancel") or of_ancestor or raw["status"]["reason"] == "Raised"):
            self.broken(9, f"{raw['metadata']['name']} is Canceled, and nobody has asked for it")

    def _see_backoff(self, raw: Object, old: Object) -> None:
        status, entry = raw["status"], raw["status"]["attempts"][-1]
        if entry in old.get("attempts", ()) or status["reason"] == "PodRejected":
            return
        least, most = delays_of(raw, entry["outcome"], status.get("failures", 0), status.get("disruptions", 0))
        delay = parse_time(status["nextAttemptAt"]) - parse_time(entry["finishedAt"])
        if not least - 0.001 <= delay <= most + 0.001:
            name, told = raw["metadata"]["name"], entry["outcome"]
            self.broken("backoff", f"{name} waits {delay:g} s after {told}, not {least:g} to {most:g}")

    def _see_retention(self, raw: Object) -> None:
        if raw["status"]["state"] not in TERMINAL:
            self.broken(1, f"{raw['metadata']['name']} was deleted by the operator as {raw['status']['state']}")
        window = raw["spec"].get("unique", {}).get("windowSeconds", 0) if "attempt" in raw["status"] else 0
        until = parse_time(raw["metadata"]["creationTimestamp"]) + window
        if window and START + self.now + self.clock_error < until:
            self.broken("records are kept for their window", f"{raw['metadata']['name']} was deleted before its end")
        parents = {raw["metadata"]["uid"]}
        while parents:
            children = [self.jobs[uid] for uid in self.alive if _parent(self.jobs[uid]).get("uid") in parents]
            for child in children:
                if child["status"]["state"] not in TERMINAL and not self._is_doomed(child):
                    name = child["metadata"]["name"]
                    self.broken(1, f"{raw['metadata']['name']} was deleted while {name} is not finished")
            parents = {child["metadata"]["uid"] for child in children}

    def _is_doomed(self, child: Object) -> bool:
        """Whether it never ran and never will: an attempt enqueued it that had lost its standing before."""
        parent, status = _parent(child), self.jobs[_parent(child)["uid"]]["status"]
        over = status["state"] in TERMINAL or status.get("attempt", 0) > parent["attempt"]
        return (
            over and parent["attempt"] not in status.get("succeededAttempts", ()) and "attempt" not in child["status"]
        )

    # Slots: invariant 3

    def _count_claim(self, uid: str, raw: Object) -> None:
        status, name, queue = raw["status"], raw["metadata"]["name"], raw["spec"].get("queue", "default")
        pod = f"{name}-{uid[:8]}-{status.get('attempt')}"
        report = status.get("report") or {}
        held = status["state"] in ACTIVE and report.get("attempt") != status["attempt"]
        if self._claim.get(uid) not in (None, pod) or not held:
            self._release_claim(uid, raw)
        known = self._live_pods.get(pod)
        if known is not None and known.uid in self._reported:
            self._held[queue].discard(pod)
        elif held and pod not in self._pods_that_ended:
            self._claim[uid] = pod
            self._hold(queue, pod)

    def _release_claim(self, uid: str, raw: Object) -> None:
        pod = self._claim.pop(uid, None)
        known = self._live_pods.get(pod or "")
        if pod is not None and (known is None or known.uid in self._reported):
            self._held[raw["spec"].get("queue", "default")].discard(pod)

    def _hold(self, queue: str, pod: str) -> None:
        if pod in self._held[queue]:
            return
        self._held[queue].add(pod)
        allowed = self._claims.slots_allowed(queue)
        if allowed is not None and len(self._held[queue]) > allowed:
            self.broken(3, f"queue {queue} of {allowed} slots holds {sorted(self._held[queue])}")

    # Pods

    def _see_pod(self, change: Change) -> None:
        pod = Pod.parse(change.object)
        if change.type == "ADDED":
            self._see_start(pod)
        if change.type == "DELETED" or not pod.live:
            self._live_pods.pop(pod.name, None)
            self._pods_that_ended.add(pod.name)
            self._held[pod.queue].discard(pod.name)
            return
        self._live_pods[pod.name] = pod
        others = [one.name for one in self._live_pods.values() if one.owner_uid == pod.owner_uid]
        if len(others) > 1 and change.type == "ADDED":
            self.broken(2, f"{pod.job} has the live pods {sorted(others)}")
        if pod.uid not in self._reported:
            self._hold(pod.queue, pod.name)

    def _see_start(self, pod: Pod) -> None:
        job = self.jobs.get(pod.owner_uid)
        if job is None:
            self.broken(8, f"pod {pod.name} is of no Job that ever was")
            return
        one: Object | None = job
        while one is not None:
            since = self._canceled_at.get(one["metadata"]["uid"], float("inf"))
            allowed = CALM_CANCEL_SECONDS if since >= self.calm_since else CANCEL_SECONDS
            if self._server.clock.monotonic() > since + allowed:
                self.broken(9, f"{pod.name} was created long after {one['metadata']['name']} was cancelled")
            ancestor = _parent(one).get("uid", "")
            one = self.jobs[ancestor] if ancestor in self.alive else None
        parent = _parent(job)
        if not parent or not parent.get("staged", True):
            return
        of_parent = self.jobs.get(parent["uid"], {}).get("status", {})
        if parent["attempt"] not in of_parent.get("succeededAttempts", ()):
            self.broken(5, f"{pod.name} was created; attempt {parent['attempt']} of its parent has not succeeded")
        elif parent["index"] >= of_parent["children"]["total"]:
            self.broken(4, f"{pod.name} was created; its parent reported {of_parent['children']['total']} children")

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
        for uid, job in self.jobs.items():
            self._judge_outcome(uid, job)
        self._judge_children(runs)
        self._claims.verdict()
        return self.violations

    def _judge_ends(self) -> None:
        for uid in self.alive:
            job = self.jobs[uid]
            status = job["status"]
            if status["state"] not in TERMINAL and not self.waits_for_a_missing_job(job):
                self.broken(1, f"{job['metadata']['name']} is {status['state']} ({status.get('reason')}) for ever")
            budget = 8 + 6 * status.get("attempt", 0) + 3 * self._edits[uid]
            if self._status_writes[uid] > budget:
                self.broken(
                    "writes", f"the status of {job['metadata']['name']} was written {self._status_writes[uid]} times"
                )
        for pod in self._live_pods.values():
            self.broken(9, f"pod {pod.name} still lives")
        for queue in self._server.store.peek_all(QUEUES):
            if queue.get("status", {}).get("running"):
                self.broken(3, f"queue {queue['metadata']['name']} still counts {queue['status']['running']} running")

    def waits_for_a_missing_job(self, job: Object) -> bool:
        """Whether a Job that it waits for does not exist, or itself waits so: it may wait for ever."""
        by_name = {self.jobs[uid]["metadata"]["name"]: self.jobs[uid] for uid in self.alive}
        stack, seen = [job], set()
        while stack:
            one = stack.pop()
            seen.add(one["metadata"]["name"])
            if "attempt" in one["status"]:
                continue  # once claimed, it waits for no other Job any more
            for name in (item["job"] for item in one["spec"].get("after", ())):
                if name not in by_name:
                    return True
                if name not in seen and by_name[name]["status"]["state"] not in TERMINAL:
                    stack.append(by_name[name])
        return False

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

    def _judge_outcome(self, uid: str, job: Object) -> None:
        """8 and 11: what the status says of an attempt is what its container did, and nothing else counts."""
        status, name, entries = job["status"], job["metadata"]["name"], self.attempts[uid]
        for number, entry in entries.items():
            told = self._told.get(entry.get("podUID", ""), "was killed")
            if entry["outcome"] == "Succeeded" and told != "Succeeded":
                self.broken(8, f"attempt {number} of {name} counts as Succeeded, but its container {told}")
            result = status.get("result")
            by = result.get("by") if isinstance(result, dict) else None
            if entry["outcome"] == "Succeeded" and by not in (None, entry["podUID"]):
                self.broken(8, f"{name} has the result of {by}, not of {entry['podUID']}")
            if entry["outcome"] in COUNTED and told not in COUNTED:
                self.broken(11, f"attempt {number} of {name} counts as {entry['outcome']}, but its container {told}")
        counted = [number for number, entry in entries.items() if entry["outcome"] in COUNTED]
        if status.get("failures", 0) != len(counted):
            self.broken(11, f"{name} has {status.get('failures', 0)} failures, but attempts {counted} failed")
        succeeded = [number for number, entry in entries.items() if entry["outcome"] == "Succeeded"]
        if succeeded != list(status.get("succeededAttempts", ())) or len(succeeded) != (status["state"] == "Succeeded"):
            self.broken(8, f"{name} is {status['state']}, but attempts {succeeded} succeeded")

    def _judge_children(self, runs: list[Run]) -> None:
        """4 and 5: one child an index, and a staged one runs only if its parent's container truly succeeded."""
        places: Counter[tuple[Any, ...]] = Counter()
        ran = {run.pod.rpartition("-")[0] for run in runs}
        for uid, job in self.jobs.items():
            parent = _parent(job)
            if not parent or uid in self.deleted_by_hand:
                continue  # deleted before its POST was answered, it may have been made once more
            name = job["metadata"]["name"]
            places[parent["uid"], parent["attempt"], parent["index"]] += 1
            if places[parent["uid"], parent["attempt"], parent["index"]] > 1:
                self.broken(4, f"{name} is the second child of {parent}")
            succeeded = self._told.get(parent["podUID"]) == "Succeeded"
            if parent.get("staged", True) and f"{name}-{uid[:8]}" in ran and not succeeded:
                self.broken(5, f"{name} ran, but its parent's container did not succeed")


def _parent(job: Object) -> dict[str, Any]:
    parent: dict[str, Any] = job["spec"].get("parent", {})
    return parent
