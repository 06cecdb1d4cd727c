"""Judges a simulated cluster by its whole history and by what truly ran, never by what the operator believes.

Each check names the invariant of the design's section 9 that it holds. `Judge.violations` fills as changes are applied;
`Judge.verdict` adds what only the end shows.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from questline_operator.core.records import LABEL_JOB, Pod
from questline_operator.core.states import ACTIVE, TERMINAL
from questline_operator.shell.api import JOBS, PODS, QUEUES, Object
from tests.simulation.apiserver import ApiServer
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
        deleted_by_hand: UIDs of the Jobs that the test itself deleted.
        violations: what broke an invariant, each with its number.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.violations: list[str] = []
        self.calm_since = float("inf")
        self.deleted_by_hand: set[str] = set()
        self.jobs: dict[str, Object] = {}
        """Every Job that ever was, by UID, as it was last."""
        self.attempts: defaultdict[str, dict[int, Object]] = defaultdict(dict)
        """Every entry that status.attempts ever had, by the Job's UID and the attempt."""
        self._alive: set[str] = set()
        self._canceled_at: dict[str, float] = {}
        self._live_pods: dict[str, Pod] = {}
        self._pods_that_ended: set[str] = set()
        self._reported: set[str] = set()
        self._held: defaultdict[str, set[str]] = defaultdict(set)
        self._claim: dict[str, str] = {}
        self._told: Mapping[str, str] = {}
        server.store.observers.append(self._see)

    def _see(self, change: Change) -> None:
        if change.resource == JOBS:
            self._see_job(change)
        elif change.resource == PODS and LABEL_JOB in change.object["metadata"].get("labels", {}):
            self._see_pod(change)

    def _break(self, number: int, what: str) -> None:
        self.violations.append(f"invariant {number}: {what} (at {self._server.clock.monotonic():.3f} s)")

    # Jobs

    def _see_job(self, change: Change) -> None:
        raw, meta = change.object, change.object["metadata"]
        uid, name, status = meta["uid"], meta["name"], change.object.get("status", {})
        before = self.jobs.get(uid, {})
        self.jobs[uid] = raw
        if change.type == "DELETED":
            self._alive.discard(uid)
            self._release_claim(uid, raw)
            if uid not in self.deleted_by_hand:
                self._see_retention(raw)
            return
        self._alive.add(uid)
        old, new = before.get("status", {}), status
        if old.get("state") in TERMINAL and new["state"] != old["state"]:
            self._break(7, f"{name}: {old['state']} -> {new['state']}")
        if new.get("attempt", 0) not in (old.get("attempt", 0), old.get("attempt", 0) + 1):
            self._break(12, f"{name}: attempt {old.get('attempt', 0)} -> {new.get('attempt', 0)}")
        if new.get("epoch", 0) < old.get("epoch", 0):
            self._break(12, f"{name}: epoch {old['epoch']} -> {new['epoch']}")
        if old.get("state") == "Waiting" and new["state"] in ACTIVE and raw["spec"].get("cancel"):
            self._break(9, f"{name} was claimed though it is cancelled")
        if raw["spec"].get("cancel"):
            self._canceled_at.setdefault(uid, self._server.clock.monotonic())
        for entry in status.get("attempts", ()):
            self.attempts[uid].setdefault(entry["number"], entry)
        if (report := new.get("report")) and report != old.get("report"):
            self._reported.add(report["podUID"])
        self._count_claim(uid, raw)

    def _see_retention(self, raw: Object) -> None:
        if raw["status"]["state"] not in TERMINAL:
            self._break(1, f"{raw['metadata']['name']} was deleted by the operator as {raw['status']['state']}")
        parents = {raw["metadata"]["uid"]}
        while parents:
            children = [self.jobs[uid] for uid in self._alive if _parent(self.jobs[uid]).get("uid") in parents]
            for child in children:
                if child["status"]["state"] not in TERMINAL and not self._is_doomed(child):
                    name = child["metadata"]["name"]
                    self._break(1, f"{raw['metadata']['name']} was deleted while {name} is not finished")
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
        record = self._server.store.peek(QUEUES, "default", queue)
        if record is not None and len(self._held[queue]) > record["spec"]["concurrency"]:
            held = sorted(self._held[queue])
            self._break(3, f"queue {queue} of {record['spec']['concurrency']} slots holds {held}")

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
            self._break(2, f"{pod.job} has the live pods {sorted(others)}")
        if pod.uid not in self._reported:
            self._hold(pod.queue, pod.name)

    def _see_start(self, pod: Pod) -> None:
        job = self.jobs.get(pod.owner_uid)
        if job is None:
            self._break(8, f"pod {pod.name} is of no Job that ever was")
            return
        one: Object | None = job
        while one is not None:
            since = self._canceled_at.get(one["metadata"]["uid"], float("inf"))
            allowed = CALM_CANCEL_SECONDS if since >= self.calm_since else CANCEL_SECONDS
            if self._server.clock.monotonic() > since + allowed:
                self._break(9, f"{pod.name} was created long after {one['metadata']['name']} was cancelled")
            ancestor = _parent(one).get("uid", "")
            one = self.jobs[ancestor] if ancestor in self._alive else None
        parent = _parent(job)
        if not parent or not parent.get("staged", True):
            return
        succeeded = self.jobs.get(parent["uid"], {}).get("status", {}).get("succeededAttempts", ())
        if parent["attempt"] not in succeeded:
            self._break(5, f"{pod.name} was created; attempt {parent['attempt']} of its parent has not succeeded")

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
        return self.violations

    def _judge_ends(self) -> None:
        for uid in self._alive:
            job = self.jobs[uid]
            status = job["status"]
            if status["state"] not in TERMINAL and not self.waits_for_a_missing_job(job):
                self._break(1, f"{job['metadata']['name']} is {status['state']} ({status.get('reason')}) for ever")
        for pod in self._live_pods.values():
            self._break(9, f"pod {pod.name} still lives")

    def waits_for_a_missing_job(self, job: Object) -> bool:
        """Whether a Job that it waits for does not exist, or itself waits so: it may wait for ever."""
        by_name = {self.jobs[uid]["metadata"]["name"]: self.jobs[uid] for uid in self._alive}
        stack, seen = [job], set()
        while stack:
            one = stack.pop()
            seen.add(one["metadata"]["name"])
            for name in (item["job"] for item in one["spec"].get("after", ())):
                if name not in by_name:
                    return True
                if name not in seen and by_name[name]["status"]["state"] not in TERMINAL:
                    stack.append(by_name[name])
        return False

    def _judge_runs(self, runs: list[Run]) -> None:
        for pod, number in Counter(run.pod for run in runs).items():
            if number > 1:
                self._break(12, f"pod {pod} ran {number} times")
        of_job: defaultdict[str, list[Run]] = defaultdict(list)
        for run in runs:
            of_job[run.pod.rpartition("-")[0]].append(run)
        for job, its in of_job.items():
            its.sort(key=lambda run: run.started_at)
            for first, second in itertools.pairwise(its):
                if first.ended_at is None or first.ended_at > second.started_at:
                    self._break(2, f"{job}: attempts {first.attempt} and {second.attempt} ran at once")
                if first.attempt >= second.attempt:
                    self._break(12, f"{job}: attempt {first.attempt} ran before attempt {second.attempt}")

    def _judge_outcome(self, uid: str, job: Object) -> None:
        """8 and 11: what the status says of an attempt is what its container did, and nothing else counts."""
        status, name, entries = job["status"], job["metadata"]["name"], self.attempts[uid]
        for number, entry in entries.items():
            told = self._told.get(entry.get("podUID", ""), "was killed")
            if entry["outcome"] == "Succeeded" and told != "Succeeded":
                self._break(8, f"attempt {number} of {name} counts as Succeeded, but its container {told}")
            if entry["outcome"] in COUNTED and told not in COUNTED:
                self._break(11, f"attempt {number} of {name} counts as {entry['outcome']}, but its container {told}")
        counted = [number for number, entry in entries.items() if entry["outcome"] in COUNTED]
        if status.get("failures", 0) != len(counted):
            self._break(11, f"{name} has {status.get('failures', 0)} failures, but attempts {counted} failed")
        succeeded = [number for number, entry in entries.items() if entry["outcome"] == "Succeeded"]
        if succeeded != list(status.get("succeededAttempts", ())) or len(succeeded) != (status["state"] == "Succeeded"):
            self._break(8, f"{name} is {status['state']}, but attempts {succeeded} succeeded")

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
                self._break(4, f"{name} is the second child of {parent}")
            succeeded = self._told.get(parent["podUID"]) == "Succeeded"
            if parent.get("staged", True) and f"{name}-{uid[:8]}" in ran and not succeeded:
                self._break(5, f"{name} ran, but its parent's container did not succeed")


def _parent(job: Object) -> dict[str, Any]:
    parent: dict[str, Any] = job["spec"].get("parent", {})
    return parent
