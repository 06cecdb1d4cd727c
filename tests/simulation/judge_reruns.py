"""Judges what changes a terminal state: a rerun of the Job itself, or of what it was skipped for (invariant 7)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from questline_operator.core.states import TERMINAL
from questline_operator.shell.api import Object

if TYPE_CHECKING:
    from tests.simulation.judge import Judge


@dataclass(frozen=True)
class Armed:
    """A Job was last made to run again: when, after how many attempts, and as what it stood there before."""

    at: float
    attempt: int
    before: Object


class RerunJudge:
    """The part of a `Judge` for Jobs that have ended."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge

    def see_job(self, uid: str, raw: Object, before: Object) -> None:
        """A Job's record has changed."""
        old, new, name = before.get("status", {}), raw["status"], raw["metadata"]["name"]
        ended = new["state"] in TERMINAL and old.get("state") not in TERMINAL
        if new.get("finishes", 0) != old.get("finishes", 0) + ended:
            self._judge.broken(7, f"{name}: finishes {old.get('finishes', 0)} -> {new.get('finishes', 0)}")
        if old.get("state") not in TERMINAL or new == old:
            return
        if new["state"] == "Waiting":
            self._judge_arm(raw, before)
            self._judge.armed[uid] = Armed(self._judge.now, old.get("attempt", 0), before)
            return
        changed = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
        self._judge.broken(7, f"{name}: {old['state']} -> {new['state']}, {', '.join(changed)} changed")

    def _judge_arm(self, raw: Object, before: Object) -> None:
        judge, old, new = self._judge, before["status"], raw["status"]
        if "deletionTimestamp" in raw["metadata"]:
            judge.broken("nothing starts of a Job that is to go", f"{raw['metadata']['name']} runs again")
        name, asked = raw["metadata"]["name"], new.get("observedRerun", 0) > old.get("observedRerun", 0)
        if asked and new["observedRerun"] > raw["spec"].get("rerun", 0):
            judge.broken(7, f"{name} ran again for rerun {new['observedRerun']}, which nobody has asked for")
        if not asked and not self._went_on(old) and not self._duplicate_went_on(raw):
            judge.broken(7, f"{name}: {old['state']} {old.get('reason', '')} -> Waiting, and nobody has asked for it")
        if new.get("failures", 0):
            judge.broken(7, f"{name} runs again with {new['failures']} failures")
        since = judge.canceled_since(raw)
        if raw["spec"].get("cancel") or since < judge.late_since:
            judge.broken(9, f"{name} runs again, though it or an ancestor is canceled")
        if asked and old["state"] == "Canceled":
            below = [judge.jobs[uid] for uid in judge.descendants(raw["metadata"]["uid"]) if uid in judge.alive]
            going = [
                one["metadata"]["name"]
                for one in below
                if one["status"]["state"] not in TERMINAL
                and not judge.is_parked(one)
                and judge.unfinished_since(one) < judge.late_since
            ]
            if going:
                judge.broken(9, f"{name} runs again before its cancel has reached {going}")

    def _went_on(self, old: Object) -> bool:
        upstream = old.get("upstream")
        now = self._judge.jobs.get(upstream["uid"]) if upstream else None
        if upstream is None or now is None or old.get("reason") != "UpstreamFailed":
            return False
        return now["status"]["state"] not in TERMINAL or now["status"]["finishes"] > upstream["finishes"]

    def _duplicate_went_on(self, raw: Object) -> bool:
        """Whether a duplicate that it waits for, whose original it was skipped for, was made to run again since."""
        judge = self._judge
        armed = [judge.armed.get(one["metadata"]["uid"]) for one in judge.joins.all_members(raw)]
        return any(
            one is not None
            and one.at >= judge.ended_at[raw["metadata"]["uid"]]
            and one.before["status"].get("reason") == "Duplicate"
            for one in armed
        )

    def is_due(self, raw: Object) -> bool:
        """Whether it has ended, is to run again, and nothing keeps it from that."""
        status = raw["status"]
        raised = raw["spec"].get("rerun", 0) > status.get("observedRerun", 0)
        is_kept = "deletionTimestamp" in raw["metadata"]
        return status["state"] in TERMINAL and raised and not is_kept and not self._judge.is_canceled(raw)

    def verdict(self) -> None:
        """Every rerun that was asked for was acted on."""
        for raw in (self._judge.jobs[uid] for uid in self._judge.alive):
            if self.is_due(raw):
                self._judge.broken(7, f"{raw['metadata']['name']} is {raw['status']['state']}, its rerun is not done")
