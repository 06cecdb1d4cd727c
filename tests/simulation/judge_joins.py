"""Judges what comes after what: Jobs, groups and trees that others wait for (design 4), by the records alone.

Invariant 6: a join starts once all that it waits for has ended as its policy asks; one that is skipped was skipped for
what is true; what it waits for is kept.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from questline_operator.core.states import ACTIVE, TERMINAL
from questline_operator.shell.api import Object

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

NEVER_WAS = ("ParentFailed", "ParentGone", "LateChild")
"""A child that was skipped for one of these is none of what its parent's success has made."""


class JoinJudge:
    """The part of a `Judge` for `after`."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge

    # Claims

    def judge_claim(self, raw: Object) -> None:
        """It was claimed for the first time: all that it waits for has ended as it asks."""
        for item in raw["spec"].get("after", ()):
            ((kind, name),) = item.items()
            why = self._why_not(raw, kind, name)
            if why:
                self._judge.broken(6, f"{raw['metadata']['name']} was claimed, but {why}")

    def _why_not(self, raw: Object, kind: str, name: str) -> str:
        judge, policy = self._judge, raw["spec"].get("afterPolicy", "Succeeded")
        if kind == "group":
            parent = raw["spec"]["parent"]
            if parent["attempt"] not in judge.jobs[parent["uid"]]["status"].get("succeededAttempts", ()):
                return f"attempt {parent['attempt']} of its parent, which closes group {name}, has not succeeded"
            gone = self._gone_of_group(raw, name)
            if math.isinf(judge.totals[parent["uid"], parent["attempt"]]):
                gone = []  # a command does not tell how many it had: nobody misses one that is gone
            if policy == "Succeeded" and gone and max(judge.gone_at[uid] for uid in gone) < judge.late_since:
                return f"{len(gone)} Jobs of group {name} are deleted"
        elif not self._exists(name):
            return f"{name}, before it, does not exist"
        for member in self.members(raw, kind, name):
            if not self._is_met(member, policy) and not self._came_late(member):
                return f"{member['metadata']['name']} of {kind} {name}, before it, is {member['status']['state']}"
        return ""

    def _exists(self, name: str) -> bool:
        """Whether there is such a Job, or was until lately."""
        target = self._judge.by_name.get(name)
        uid = target["metadata"]["uid"] if target else ""
        return bool(target) and self._judge.gone_at.get(uid, float("inf")) > self._judge.late_since

    def _came_late(self, member: Object) -> bool:
        """Whether its parent had ended before, and ran again: who waited for that tree may not know yet."""
        uid = member["metadata"]["uid"]
        return uid in self._judge.born_in_rerun and self._judge.seen_at[uid] > self._judge.late_since

    def _is_met(self, target: Object, policy: str) -> bool:
        """Whether its end is what that policy asks for. Without its original a duplicate counts as what it is."""
        if self._met(target, policy) or self._met(target, policy, alive=True):
            return True
        armed = self._judge.armed.get(target["metadata"]["uid"])
        return armed is not None and armed.at > self._judge.late_since and self._met(armed.before, policy)

    def _met(self, target: Object, policy: str, *, alive: bool = False) -> bool:
        status = self._original(target, alive=alive)["status"]
        return bool(status.get("succeededAttempts")) or (policy == "Finished" and status.get("finishes", 0) > 0)

    def _original(self, target: Object, *, alive: bool) -> Object:
        """What it counts as. ``alive``: whether only an original counts that still exists."""
        seen = {target["metadata"]["name"]}
        while target["status"]["state"] == "Skipped" and target["status"].get("duplicateOf"):
            original = self._judge.by_name.get(target["status"]["duplicateOf"])
            if original is None or original["metadata"]["name"] in seen:
                break
            if alive and original["metadata"]["uid"] not in self._judge.alive:
                break
            target = original
            seen.add(target["metadata"]["name"])
        return target

    # Groups and trees

    def members(self, raw: Object, kind: str, name: str) -> list[Object]:
        """The Jobs that exist and that this entry of its `after` names: a tree without its own branch."""
        judge = self._judge
        target = judge.by_name.get(name)
        if kind == "job":
            return [target] if target else []
        if kind == "group":
            return [one for one in self._of_group(raw, name) if one["metadata"]["uid"] in judge.alive]
        found: list[Object] = []
        stack = [target["metadata"]["uid"]] if target else []
        while stack:
            uid = stack.pop()
            if uid not in judge.alive or uid == raw["metadata"]["uid"]:
                continue
            stack.extend(judge.children_of[uid])
            if self._counts(judge.jobs[uid]):
                found.append(judge.jobs[uid])
        return found

    def all_members(self, raw: Object) -> list[Object]:
        """All that its `after` names."""
        return [member for kind, name in _items(raw) for member in self.members(raw, kind, name)]

    def _of_group(self, raw: Object, name: str) -> list[Object]:
        """The children of its parent's attempt that are of the group, deleted ones too; the last of each name."""
        parent = raw["spec"].get("parent")
        if parent is None:
            return []
        beside = [self._judge.jobs[uid] for uid in self._judge.children_of[parent["uid"]]]
        of_group = {
            one["metadata"]["name"]: one
            for one in beside
            if one["spec"]["parent"].get("group") == name
            and all(one["spec"]["parent"][field] == parent[field] for field in ("attempt", "podUID"))
        }
        return [one for one in of_group.values() if self._counts(one)]

    def _gone_of_group(self, raw: Object, name: str) -> list[str]:
        """The UIDs of those of the group that are deleted, where their parent's record still tells how many it had."""
        parent = raw["spec"]["parent"]
        entries = self._judge.jobs[parent["uid"]]["status"].get("attempts", ())
        if parent["attempt"] not in [entry["number"] for entry in entries]:
            return []
        uids = [one["metadata"]["uid"] for one in self._of_group(raw, name)]
        return [uid for uid in uids if uid not in self._judge.alive]

    def _counts(self, member: Object) -> bool:
        """Whether it is, or may yet be, of what its parent's success makes."""
        status, parent = member["status"], member["spec"].get("parent")
        if status["state"] == "Skipped" and status.get("reason") in NEVER_WAS:
            return False
        if parent is None or "attempt" in status:
            return True
        of_parent = self._judge.jobs[parent["uid"]]["status"]
        if parent["attempt"] in of_parent.get("succeededAttempts", ()):
            return bool(parent["index"] < self._judge.totals[parent["uid"], parent["attempt"]])
        return of_parent.get("attempt") == parent["attempt"] and of_parent["state"] in ACTIVE

    # Skips

    def is_upstream_failed(self, raw: Object) -> bool:
        """Whether one of those that it waits for has ended otherwise, or had when that was decided."""
        if raw["spec"].get("afterPolicy", "Succeeded") != "Succeeded":
            return False
        return self._fails(raw)

    def _fails(self, raw: Object) -> bool:
        return any(self._has_failed(raw, kind, name) for kind, name in _items(raw))

    def _has_failed(self, raw: Object, kind: str, name: str) -> bool:
        judge = self._judge
        if kind == "group" and self._gone_of_group(raw, name):
            return True
        members = self.members(raw, kind, name)
        if kind == "tree":
            members += [judge.jobs[uid] for uid, gone in judge.gone_at.items() if gone > judge.late_since]
        return any(self._ended_unmet(one) for one in members)

    def _ended_unmet(self, target: Object) -> bool:
        judge = self._judge
        armed = judge.armed.get(target["metadata"]["uid"])
        lately = armed is not None and armed.at > judge.late_since and not self._met(armed.before, "Succeeded")
        for alive in (True, False):
            original = self._original(target, alive=alive)
            again = judge.armed.get(original["metadata"]["uid"])
            ended = original["status"]["state"] in TERMINAL or (again is not None and again.at > judge.late_since)
            if ended and not self._met(target, "Succeeded", alive=alive):
                return True
        return lately

    def is_of_another_tree(self, raw: Object) -> bool:
        """Whether it waits for a Job of another tree; where a record of a line is gone, that cannot be told."""
        roots = {self._root(raw)}
        for kind, name in _items(raw):
            target = self._judge.by_name.get(name) if kind != "group" else None
            if target is not None:
                roots.add(self._root(target))
        return len(roots) > 1 or "" in roots

    def _root(self, raw: Object) -> str:
        """The UID of the first Job of its tree, "" where one between is gone."""
        uid = raw["metadata"]["uid"]
        while (parent := self._judge.jobs[uid]["spec"].get("parent")) is not None:
            uid = parent["uid"]
            if uid not in self._judge.alive:
                return ""
        return str(uid)

    def is_in_a_cycle(self, raw: Object) -> bool:
        """Whether what it waits for leads back to itself."""
        stack, seen = [raw], set()
        while stack:
            for target in self._targets(stack.pop()):
                uid = target["metadata"]["uid"]
                if uid == raw["metadata"]["uid"]:
                    return True
                if uid not in seen:
                    seen.add(uid)
                    stack.append(target)
        return False

    def _targets(self, raw: Object) -> Iterator[Object]:
        """The Jobs that it waits for, or waited for."""
        duplicate_of = raw["status"].get("duplicateOf")
        names = [duplicate_of] if duplicate_of else [name for kind, name in _items(raw) if kind != "group"]
        yield from (self._judge.by_name[name] for name in names if name in self._judge.by_name)
        for kind, name in _items(raw):
            if kind != "job":
                yield from self.members(raw, kind, name)

    # Retention

    def judge_retention(self, raw: Object) -> None:
        """The operator deleted it: nobody may need it who had waited for long."""
        judge, uid = self._judge, raw["metadata"]["uid"]
        for waiter in (judge.jobs[one] for one in judge.alive):
            if waiter["status"]["state"] in TERMINAL or judge.unfinished_since(waiter) > judge.late_since:
                continue
            for kind, name in _items(waiter):
                needed = kind != "group" and name == raw["metadata"]["name"]
                needed |= kind == "group" and any(one["metadata"]["uid"] == uid for one in self._of_group(waiter, name))
                if needed:
                    name_of_it = waiter["metadata"]["name"]
                    judge.broken(6, f"{raw['metadata']['name']} was deleted while {name_of_it} waits for its {kind}")

    # Inputs

    def see_inputs(self, uid: str, inputs: Mapping[str, Any] | None) -> None:
        """What an attempt is told of those that its Job waited for."""
        raw = self._judge.jobs[uid]
        if (inputs is None) != (not raw["spec"].get("after")):
            self._judge.broken(6, f"{raw['metadata']['name']} has the inputs {inputs}")
        if not inputs:
            return
        summary, name = inputs["summary"], raw["metadata"]["name"]
        counted = sum(summary[how] for how in ("succeeded", "failed", "skipped", "canceled"))
        if counted != summary["total"] or len(inputs["jobs"]) > summary["total"]:
            self._judge.broken(6, f"{name} has the inputs {inputs}")
        members = self.all_members(raw)
        known = {one["metadata"]["name"] for one in members if one["metadata"]["uid"] in self._judge.alive}
        told = {one["name"]: one["state"] for one in inputs["jobs"]}
        if raw["spec"].get("afterPolicy", "Succeeded") == "Succeeded" and raw["status"]["attempt"] == 1:
            others = {
                one: state
                for one, state in told.items()
                if state != "Succeeded"
                and not self._came_late(self._judge.by_name[one])
                and not self._has_lost_its_original(self._judge.by_name[one])
            }
            if others and not any(self._judge.is_lately_armed(self._judge.by_name[one]) for one in others):
                self._judge.broken(6, f"{name} waited for success, and is told of {others}")
        # A later attempt waits for nobody: what was made anew since may have children that no watch has told of.
        since = self._judge.late_since if raw["status"]["attempt"] > 1 else float("inf")
        unseen = {one: self._judge.by_name[one] for one in known - told.keys()}
        missing = [
            one
            for one, its in unseen.items()
            if not self._came_late(its) and self._judge.seen_at[its["metadata"]["uid"]] <= since
        ]
        if missing and not inputs["truncated"]:
            self._judge.broken(6, f"{name} is not told of {sorted(missing)}")

    def _has_lost_its_original(self, raw: Object) -> bool:
        """Whether it is a duplicate of what has succeeded and is deleted: it counted as that when it was waited for."""
        original = self._original(raw, alive=False)
        return original["metadata"]["uid"] not in self._judge.alive and self._met(raw, "Succeeded")

    # The end

    def waits_for_a_missing_job(self, job: Object) -> bool:
        """Whether a Job that it waits for does not exist, or will not run since a finalizer alone keeps it, or itself
        waits so: it may wait for ever."""
        judge = self._judge
        stack, seen = [job], {job["metadata"]["uid"]}
        while stack:
            one = stack.pop()
            if "attempt" in one["status"]:
                continue  # once claimed, it waits for no other Job any more
            for kind, name in _items(one):
                target = judge.by_name.get(name) if kind != "group" else None
                if kind != "group" and (target is None or target["metadata"]["uid"] not in judge.alive):
                    return True
                for member in self.members(one, kind, name):
                    original = self._original(member, alive=True)
                    uid = original["metadata"]["uid"]
                    if judge.is_parked(original):
                        return True
                    if original["status"]["state"] not in TERMINAL and uid not in seen:
                        seen.add(uid)
                        stack.append(original)
        return False

    def _is_cut_off(self, raw: Object, upstream: Object) -> bool:
        """Whether what it was skipped for is waited for no more, since one above that was deleted, and has not run
        again: to delete a failure sets nobody waiting (docs/decisions.md)."""
        now = self._judge.jobs[upstream["uid"]]["status"]
        members = [one for kind, name in _items(raw) for one in self.members(raw, kind, name)]
        stand_for = {self._original(one, alive=True)["metadata"]["uid"] for one in members}
        went_on = now["state"] not in TERMINAL or now.get("finishes", 0) > upstream["finishes"]
        return upstream["uid"] not in stand_for and not went_on

    def verdict(self) -> None:
        """One that was skipped for an end is not skipped any more when nothing that it waits for has failed."""
        judge = self._judge
        for raw in (judge.jobs[uid] for uid in judge.alive):
            status = raw["status"]
            if status.get("reason") != "UpstreamFailed" or status["state"] != "Skipped" or judge.is_canceled(raw):
                continue
            upstream = status.get("upstream")
            if upstream is None or upstream["uid"] not in judge.alive:
                continue  # nobody can run again what is gone
            if self._is_cut_off(raw, upstream):
                continue
            if all(self._exists(name) for kind, name in _items(raw) if kind != "group") and not self._fails(raw):
                name = raw["metadata"]["name"]
                judge.broken(7, f"{name} is still skipped for {upstream['name']}, and nothing before it has failed")


def _items(raw: Object) -> list[tuple[str, str]]:
    return [entry for item in raw["spec"].get("after", ()) for entry in item.items()]
