"""Judges pods: what an attempt's is made as, and for how long it is kept (design 2, Queue.spec.defaults, and 3)."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from questline_operator.core.pod import Pod
from questline_operator.core.records import ANNOTATION_PAYLOAD
from questline_operator.core.states import ACTIVE
from questline_operator.core.times import parse_time
from questline_operator.shell.api import PODS, Object
from tests.simulation.clock import START
from tests.simulation.judge_outcomes import COUNTED
from tests.simulation.judge_slots import POD_TIME_SECONDS
from tests.simulation.store import Change, Review

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

LINGER_SECONDS = 30.0
"""A pod that lives so long after its report is deleted."""
POD_TTL_SECONDS, FAILED_POD_TTL_SECONDS = 600, 86_400
MANY_PODS = 100
"""Of a queue that has more ended ones the oldest may go before their time: the rule says 200, and an operator may not
know yet which are gone."""
PROMPT_SECONDS = 2.0


@dataclass(frozen=True)
class _Lingering:
    """A pod whose attempt's outcome is recorded. ``since``: the moment that is recorded as its end."""

    pod: str
    job: str
    since: float


class PodJudge:
    """The part of a `Judge` for pods as such."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge
        self._over_since: dict[str, float] = {}
        """When each pod was seen to be over, by UID."""
        self._ended: defaultdict[str, set[str]] = defaultdict(set)
        """The UIDs of those that are over and still there, by queue."""
        self._lingering: dict[str, _Lingering] = {}

    def see_pod(self, pod: Pod, change: Change) -> None:
        """A pod was made, has changed or is gone."""
        if change.type == "ADDED":
            self._judge_made(pod, change.object)
        if pod.over:
            self._over_since.setdefault(pod.uid, self._judge.now)
            self._ended[pod.queue].add(pod.uid)
        if change.type == "DELETED":
            self._ended[pod.queue].discard(pod.uid)
        if pod.over or pod.deleting or change.type == "DELETED":
            self._lingering.pop(pod.name, None)

    def _judge_made(self, pod: Pod, raw: Object) -> None:
        """It has the time-out of its Job, and is told whether it is the last attempt."""
        judge, job = self._judge, self._judge.jobs.get(pod.owner_uid)
        if job is None:
            return
        allowed = judge.outcomes.settings(job, "timeoutSeconds")
        if pod.deadline_seconds not in allowed:
            judge.broken("time-outs", f"{pod.name} has {pod.deadline_seconds} s, its Job {sorted(map(str, allowed))}")
        told = json.loads(raw["metadata"]["annotations"][ANNOTATION_PAYLOAD])["isLastAttempt"]
        failures = job["status"].get("failures", 0)
        if told not in {failures + 1 >= limit for limit in judge.outcomes.limits(job)}:
            judge.broken("outcomes", f"{pod.name} is told isLastAttempt: {told}, after {failures} failures")

    def see_recorded(self, raw: Object, entry: Object) -> None:
        """The outcome of an attempt was recorded."""
        meta = raw["metadata"]
        name = f"{meta['name']}-{meta['uid'][:8]}-{entry['number']}"
        pod = self._judge.slots.live_pods.get(name)
        if pod is not None and not pod.deleting:
            self._lingering[name] = _Lingering(name, meta["uid"], parse_time(entry["finishedAt"]) - START)

    # Deletions

    def review(self, review: Review) -> None:
        """An operator is about to delete a pod: see `store.Admission`."""
        if review.resource != PODS or review.new is not None or not review.client.startswith("operator-"):
            return
        judge, raw = self._judge, review.old
        assert raw is not None
        pod = Pod.parse(raw)
        job = judge.jobs.get(pod.owner_uid)
        if job is None or pod.owner_uid not in judge.alive:
            return
        entry = judge.attempts[pod.owner_uid].get(pod.attempt)
        status, canceled = job["status"], judge.was_canceled_lately(job)
        if status["state"] in ACTIVE and status["attempt"] == pod.attempt:
            if not canceled:
                judge.broken("pods", f"{pod.name} is deleted, and its attempt is open")
            return
        kept = self._kept_for(pod, job) if pod.over else ""
        # An operator whose watch is late takes one that is over for one that lingers.
        if pod.over and (not kept or self._over_since[pod.uid] < judge.late_since):
            if kept:
                judge.broken("pods", kept)
        elif entry is not None and not canceled:
            given_up = entry["outcome"] in ("Disrupted", "Canceled") or entry.get("reason") == "StartTimeout"
            early = parse_time(entry["finishedAt"]) + LINGER_SECONDS - START - judge.now - judge.clock_error
            if early > 0.0 and not given_up:
                judge.broken("pods", f"{pod.name} is deleted {early:.1f} s before it had its time to end")

    def _kept_for(self, pod: Pod, job: Object) -> str:
        """Why a pod that is over is to be kept, or ""."""
        entries = self._judge.attempts[pod.owner_uid]
        failed = [number for number, entry in entries.items() if entry["outcome"] in COUNTED]
        last_failed = pod.attempt == max(failed, default=0)
        field, built_in = (
            ("failedPodTTLSeconds", FAILED_POD_TTL_SECONDS) if last_failed else ("podTTLSeconds", POD_TTL_SECONDS)
        )
        ttl = min(built_in if one is None else one for one in self._judge.outcomes.settings(job, field))
        ended = pod.finished_at or pod.started_at or pod.created_at
        early = ended + ttl - START - self._judge.now - self._judge.clock_error - POD_TIME_SECONDS
        if early <= 0.0 or len(self._ended[pod.queue]) > MANY_PODS:
            return ""
        what = "the last failed attempt's" if last_failed else "an ended attempt's"
        return f"{pod.name}, {what}, is deleted {early:.0f} s before its {ttl} s are over"

    # Promptness

    def judge_promptness(self) -> None:
        """In the calm a pod that lingers is told to end."""
        judge = self._judge
        for name, one in list(self._lingering.items()):
            since = max(one.since + LINGER_SECONDS + judge.clock_error, judge.calm_since)
            if judge.now > since + PROMPT_SECONDS:
                del self._lingering[name]
                if one.job in judge.alive:
                    judge.broken("pods", f"{name} lives on, {judge.now - one.since:.0f} s after its attempt's end")
