"""Judges how attempts end (design 3): what is recorded of one, and what that makes of its Job.

An outcome is held to what stood in the API when it was written: the accepted report, else what the pod showed. A
write of a status goes by the record's version, so no report that came before it can have been overlooked; a pod is
seen by a watch, which may be late, so one that is gone may be told of as any that nobody saw end.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from questline_operator.core.records import CONTAINER
from questline_operator.core.states import ACTIVE
from questline_operator.core.times import parse_time
from questline_operator.shell.api import Object
from tests.simulation.judge_claims import delays_of
from tests.simulation.judge_slots import POD_TIME_SECONDS

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

_End = tuple[str, str | None]
"""An outcome, and the reason where it is one that the operator gives."""
COUNTED = ("Failed", "Retry", "Fatal")
MAX_ATTEMPTS = 5
PROMPT_SECONDS = 2.0
"""In the calm, from the moment from which an attempt's outcome is known to the write of it."""
_NEXT = {
    "Succeeded": ("Succeeded",),
    "Failed": ("Waiting", "Failed", "Canceled"),
    "Retry": ("Waiting", "Failed", "Canceled"),
    "Fatal": ("Failed",),
    "Snoozed": ("Waiting", "Canceled"),
    "Disrupted": ("Waiting",),
    "Canceled": ("Canceled",),
}
"""The states that an attempt of each outcome may leave its Job in."""


class OutcomeJudge:
    """The part of a `Judge` for the ends of attempts."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge
        self._pods: dict[str, Object] = {}
        """Every pod by UID, as it was last."""
        self._uids: dict[str, str] = {}
        """The UIDs of pods by name."""
        self._gone: set[str] = set()
        self._taken: set[str] = set()
        """UIDs of pods that somebody deleted, or whose node gave them up, or that are gone."""
        self._shown: defaultdict[str, set[_End]] = defaultdict(set)
        """The ends that a pod has shown so far, by its UID: of several things that befell it each may be seen first."""
        self._successes: Counter[str] = Counter()
        self._known_since: dict[str, float] = {}
        """Jobs whose open attempt has an outcome that anybody can read, by UID: since when."""

    # Pods

    def see_pod(self, raw: Object, *, gone: bool) -> None:
        """A pod was made, has changed or is gone."""
        meta = raw["metadata"]
        uid = meta["uid"]
        self._pods[uid], self._uids[meta["name"]] = raw, uid
        disrupted = any(one["type"] == "DisruptionTarget" for one in raw["status"].get("conditions", ()))
        if gone or disrupted or "deletionTimestamp" in meta:
            self._taken.add(uid)
        if gone:
            self._gone.add(uid)
        job = self._judge.jobs.get(next((owner["uid"] for owner in meta.get("ownerReferences", ())), ""))
        if job is not None:
            self._shown[uid].update(self._ends(job, raw))
            self._note_known(job)

    def _ends(self, job: Object, pod: Object) -> Iterator[_End]:
        """What may be read from a pod that has ended: an outcome, and where the pod itself says nothing, a reason."""
        status, ended, is_task = pod["status"], _terminated(pod), "task" in job["spec"]
        if not ended and status.get("phase") not in ("Succeeded", "Failed"):
            return
        told = ended.get("message") if is_task else None
        if told:
            yield json.loads(told)["outcome"], None
        elif status.get("reason") == "DeadlineExceeded":
            yield "Failed", "Timeout"
        elif not self._was_taken_first(pod, ended):
            if is_task:
                yield "Failed", "NoOutcome"
            elif ended["exitCode"]:
                yield "Failed", "NonZeroExit"
            else:
                yield "Succeeded", None

    def _was_taken_first(self, pod: Object, ended: Mapping[str, Any]) -> bool:
        """Whether the pod was surely to go before its container had ended."""
        meta, conditions = pod["metadata"], pod["status"].get("conditions", ())
        if "deletionTimestamp" in meta:
            asked = parse_time(meta["deletionTimestamp"]) - meta["deletionGracePeriodSeconds"]
            return "finishedAt" not in ended or parse_time(ended["finishedAt"]) > asked
        return any(one["type"] == "DisruptionTarget" for one in conditions)

    # Jobs

    def see_job(self, uid: str, raw: Object, before: Object) -> None:
        """A Job's record has changed."""
        self._note_known(raw)
        old, new = before.get("status", {}), raw["status"]
        if new.get("attempts") != old.get("attempts"):
            self._see_entries(uid, raw)
        self._successes[uid] += new["state"] == "Succeeded" != old.get("state")
        self._judge_counts(uid, raw)
        if before and old != new:
            self._judge_end(raw, before)

    def _see_entries(self, uid: str, raw: Object) -> None:
        """What is recorded of an attempt stays; a rerun adds what children it had."""
        for entry in raw["status"].get("attempts", ()):
            known = self._judge.attempts[uid].setdefault(entry["number"], entry)
            if known is entry:
                self._judge.pods.see_recorded(raw, entry)
            elif {**entry, "children": None} != {**known, "children": None}:
                self._broken(raw, f"had the attempt {known}, now {entry}")

    def _judge_end(self, raw: Object, before: Object) -> None:
        old, new = before["status"], raw["status"]
        if old["state"] not in ACTIVE:
            if new["state"] == "Failed" != old["state"]:
                self._broken(raw, f"is Failed ({new.get('reason')}), and no attempt was open")
            return
        if new["state"] in ACTIVE and new["attempt"] == old["attempt"]:
            return
        entry = next((one for one in new.get("attempts", ()) if one["number"] == old["attempt"]), None)
        if entry is None:
            if new.get("reason") != "PodRejected":
                self._broken(raw, f"is {new['state']}, and nothing is recorded of its attempt {old['attempt']}")
            return
        self._judge_entry(raw, before, entry)
        self._judge_next(raw, entry)
        if new["state"] == "Waiting":
            self._judge_backoff(raw, entry)

    def _broken(self, raw: Object, what: str) -> None:
        self._judge.broken("outcomes", f"{raw['metadata']['name']} {what}")

    # What is recorded

    def _judge_entry(self, raw: Object, before: Object, entry: Mapping[str, Any]) -> None:
        """The outcome is what the pod reported, else what it left behind, else what became of it."""
        uid, number, outcome = entry.get("podUID", ""), entry["number"], entry["outcome"]
        report = before["status"].get("report") or {}
        if report.get("attempt") == number:
            if (outcome, uid) != (report["outcome"], report["podUID"]):
                self._broken(raw, f"reported {report['outcome']}, and attempt {number} is recorded as {outcome}")
            return
        ends = set(self._shown[uid])
        if uid in self._taken or uid not in self._pods:
            ends |= {("Canceled", None)}
            # What a task left behind counts, where it could be read.
            unread = uid in self._gone or uid not in self._pods or "task" not in raw["spec"]
            if unread or not any(why is None and kind != "Canceled" for kind, why in ends):
                ends |= {("Disrupted", None)}
        if uid in self._pods:
            ends |= {("Failed", "StartTimeout")}
        if not ends & {(outcome, None), (outcome, entry.get("reason"))}:
            shown = ", ".join(sorted(f"{kind} {why or ''}".strip() for kind, why in self._shown[uid])) or "no end"
            recorded = f"{outcome} {entry.get('reason', '')}".strip()
            self._broken(raw, f"records attempt {number} as {recorded}, and its pod shows {shown}")
        if entry.get("reason") == "StartTimeout":
            self._judge_start_timeout(raw, uid, entry)

    def _judge_start_timeout(self, raw: Object, uid: str, entry: Mapping[str, Any]) -> None:
        """It had not started when that was decided."""
        state = _container(self._pods[uid])
        started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
        if started is None:
            return
        late = parse_time(entry["finishedAt"]) - parse_time(started) - self._judge.clock_error
        if late > POD_TIME_SECONDS:
            self._broken(raw, f"counts attempt {entry['number']} as not started, {late:.1f} s after it had")

    # What follows

    def _judge_next(self, raw: Object, entry: Mapping[str, Any]) -> None:
        """It is tried as often as it may be, and no oftener."""
        uid, status, outcome = raw["metadata"]["uid"], raw["status"], entry["outcome"]
        state, limits = status["state"], self.limits(raw)
        if state not in _NEXT[outcome]:
            self._broken(raw, f"is {state} after an attempt that ended as {outcome}")
        if outcome not in ("Failed", "Retry") or state == "Canceled":
            return
        failed = len(self._failed(uid))
        if state == "Waiting" and failed >= max(limits):
            self._broken(raw, f"is tried once more after {failed} failures of {max(limits)}")
        if state == "Failed" and failed < min(limits):
            self._broken(raw, f"is Failed after {failed} failures of {min(limits)}")
        if state == "Failed" and status.get("reason") != entry.get("reason"):
            self._broken(raw, f"is Failed for {status.get('reason')}, its last attempt for {entry.get('reason')}")

    def _failed(self, uid: str) -> list[int]:
        """The attempts that count as failures of its present run."""
        armed, entries = self._judge.armed_attempt(uid), self._judge.attempts[uid]
        return [number for number, entry in entries.items() if number > armed and entry["outcome"] in COUNTED]

    def _judge_counts(self, uid: str, job: Object) -> None:
        """8 and 11: what the status counts is what its attempts came to."""
        status, name, entries = job["status"], job["metadata"]["name"], self._judge.attempts[uid]
        armed, counted = self._judge.armed_attempt(uid), self._failed(uid)
        if status.get("failures", 0) != len(counted):
            self._judge.broken(11, f"{name} has {status.get('failures', 0)} failures, but attempts {counted} failed")
        disrupted = [number for number, entry in entries.items() if entry["outcome"] == "Disrupted"]
        if status.get("disruptions", 0) != len(disrupted):
            number = status.get("disruptions", 0)
            self._judge.broken(11, f"{name} has {number} disruptions, but attempts {disrupted} were disrupted")
        succeeded = [number for number, entry in entries.items() if entry["outcome"] == "Succeeded"]
        once = any(number > armed for number in succeeded) == (status["state"] == "Succeeded")
        if succeeded != list(status.get("succeededAttempts", ())) or len(succeeded) != self._successes[uid] or not once:
            self._judge.broken(8, f"{name} is {status['state']}, but attempts {succeeded} succeeded")

    def limits(self, raw: Object) -> set[int]:
        """The numbers of failures that may end it now: its own, else what its queue says or lately said."""
        return {MAX_ATTEMPTS if one is None else one for one in self.settings(raw, "maxAttempts")}

    def settings(self, raw: Object, field: str) -> set[Any]:
        """What it may go by now: its own value, else those of its queue's defaults that are or lately were."""
        if field in raw["spec"]:
            return {raw["spec"][field]}
        in_force = self._judge.slots.in_force(raw["spec"].get("queue", "default"), "defaults") or [None]
        return {(defaults or {}).get(field) for defaults in in_force}

    def _judge_backoff(self, raw: Object, entry: Mapping[str, Any]) -> None:
        status = raw["status"]
        asked = self._judge.delays.get(entry.get("podUID", ""))
        failures, disruptions = status.get("failures", 0), status.get("disruptions", 0)
        least, most = delays_of(raw, entry["outcome"], failures, disruptions, asked)
        delay = parse_time(status["nextAttemptAt"]) - parse_time(entry["finishedAt"])
        if not least - 0.001 <= delay <= most + 0.001:
            name, told = raw["metadata"]["name"], entry["outcome"]
            self._judge.broken("backoff", f"{name} waits {delay:g} s after {told}, not {least:g} to {most:g}")

    # When

    def _note_known(self, raw: Object) -> None:
        """Note since when the outcome of its open attempt can be read. That of a canceled one waits for its pod."""
        judge, status, meta = self._judge, raw["status"], raw["metadata"]
        known = False
        if status["state"] in ACTIVE and meta["uid"] in judge.alive:
            report = status.get("report") or {}
            pod = self._uids.get(f"{meta['name']}-{meta['uid'][:8]}-{status['attempt']}", "")
            told = report.get("attempt") == status["attempt"] or bool(self._shown.get(pod))
            known = pod in self._gone or (told and not judge.was_canceled_lately(raw))
        if known:
            self._known_since.setdefault(meta["uid"], judge.now)
        else:
            self._known_since.pop(meta["uid"], None)

    def judge_promptness(self) -> None:
        """In the calm an outcome is written as soon as it is known, whatever else becomes of the Job."""
        judge = self._judge
        for uid, since in self._known_since.items():
            if judge.now > max(since, judge.calm_since) + PROMPT_SECONDS and uid in judge.alive:
                self._known_since[uid] = float("inf")
                attempt = judge.jobs[uid]["status"]["attempt"]
                self._broken(judge.jobs[uid], f"has not the outcome of attempt {attempt}, known for {PROMPT_SECONDS} s")

    # The end

    def verdict(self, told: Mapping[str, str]) -> None:
        """8 and 11: what the status says of an attempt is what its container did, and nothing else counts.

        Args:
            told: how the code in each pod ended by itself, by the pod's UID.
        """
        for uid, job in self._judge.jobs.items():
            for entry in self._judge.attempts[uid].values():
                self._judge_truth(job, entry, told.get(entry.get("podUID", ""), "was killed"))

    def _judge_truth(self, job: Object, entry: Mapping[str, Any], told: str) -> None:
        status, name, number = job["status"], job["metadata"]["name"], entry["number"]
        if entry["outcome"] == "Succeeded" and told != "Succeeded":
            self._judge.broken(8, f"attempt {number} of {name} counts as Succeeded, but its container {told}")
        result = status.get("result")
        by = result.get("by") if isinstance(result, dict) else None
        is_last = entry["outcome"] == "Succeeded" and number == max(status["succeededAttempts"])
        if is_last and by not in (None, entry["podUID"]):
            self._judge.broken(8, f"{name} has the result of {by}, not of {entry['podUID']}")
        cut_off = entry.get("reason") in ("Timeout", "StartTimeout")
        if entry["outcome"] in COUNTED and told not in COUNTED and not cut_off:
            self._judge.broken(11, f"attempt {number} of {name} counts as {entry['outcome']}, but its container {told}")


def _container(pod: Object) -> dict[str, Any]:
    """The state of the container `worker` as the API shows it."""
    statuses = pod["status"].get("containerStatuses", ())
    state: dict[str, Any] = next((one["state"] for one in statuses if one["name"] == CONTAINER), {})
    return state


def _terminated(pod: Object) -> dict[str, Any]:
    ended: dict[str, Any] = _container(pod).get("terminated", {})
    return ended
