"""Judges Schedules: one Job a tick at most (invariant 10), none lost, none while suspended, and what overlaps.

The ticks are computed here from the few lines that lives use, not by the operator's calendar.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from questline_operator.core.records import ANNOTATION_REPLACES, ANNOTATION_SCHEDULE_UID, ANNOTATION_TICK
from questline_operator.core.states import TERMINAL
from questline_operator.core.times import parse_time
from questline_operator.shell.api import Object
from tests.simulation.clock import START
from tests.simulation.store import Change

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

PERIODS = {"* * * * *": 60, "*/2 * * * *": 120}
"""Seconds from one tick of a line to the next; the ticks are at multiples of it."""
IN_TIME_SECONDS = 30.0
ROUNDING_SECONDS = 1.0


@dataclass
class _Known:
    """A Schedule through its life. ``specs`` has every spec, and since when."""

    name: str
    specs: list[tuple[float, Object]] = field(default_factory=list)
    status: Object = field(default_factory=dict)
    gone_at: float = float("inf")
    made: dict[int, str] = field(default_factory=dict)
    """The UID of each tick's Job."""
    skipped: set[int] = field(default_factory=set)


class ScheduleJudge:
    """The part of a `Judge` for Schedules and the Jobs that their ticks make."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge
        self._known: dict[str, _Known] = {}
        self._replacing: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)

    def see_schedule(self, change: Change) -> None:
        """A Schedule was made, has changed or is gone."""
        uid, now = change.object["metadata"]["uid"], self._judge.now
        known = self._known.setdefault(uid, _Known(change.key[1]))
        if change.type == "DELETED":
            known.gone_at = now
            return
        spec, status = change.object["spec"], change.object.get("status", {})
        if not known.specs or known.specs[-1][1] != spec:
            known.specs.append((now, spec))
        if status != known.status:
            self._judge_cursor(known, known.status, status)
            known.status = status

    def _in_force(self, known: _Known) -> list[Object]:
        """The specs that the operator may go by now, the latest last."""
        ends = [since for since, _ in known.specs[1:]] + [float("inf")]
        return [spec for (_, spec), end in zip(known.specs, ends, strict=True) if end > self._judge.late_since]

    # The cursor

    def _judge_cursor(self, known: _Known, old: Object, new: Object) -> None:
        """nextTick moves on when its tick was made, or passed over for what is true; no tick is lost."""
        before, after = old.get("nextTick"), new.get("nextTick")
        skipped = new.get("skipped")
        if skipped == old.get("skipped") and (skipped is None or skipped["tick"] != before):
            skipped = None  # with a clock set back a tick may be passed over twice, in the same words
        if before is None or after is None or new.get("line") != old.get("line") or before == after:
            return
        first, last = int(parse_time(before)), int(parse_time(after))
        period = PERIODS.get(str(old.get("line", "")).removesuffix(" UTC"))
        ticks = range(first, last, period) if period else range(first, first + 1)
        if last < first and last > self._wall - self._judge.clock_error and max(known.made, default=0) < last:
            # A clock that was ahead had passed over what is still to come: it comes again, but for what was made.
            known.skipped = {tick for tick in known.skipped if tick < last}
            return
        if last < first:
            self._judge.broken(10, f"the cursor of {known.name} goes back from {before} to {after}")
        if skipped is None:
            lost = [tick for tick in ticks if tick not in known.made]
            if lost:
                self._judge.broken("no tick is lost", f"{known.name} passed over {_texts(lost)}, of which no Job is")
            return
        known.skipped.update(ticks)
        if skipped["reason"] == "Late":
            allowed = min(spec.get("catchUpSeconds", 0) for spec in self._in_force(known))
            due = self._wall + self._judge.clock_error + ROUNDING_SECONDS - max(allowed, IN_TIME_SECONDS)
            in_time = [tick for tick in ticks if tick > due]
            if in_time:
                self._judge.broken("no tick is lost", f"{known.name} calls {_texts(in_time)} late")
        elif not self._overlaps(known, first):
            self._judge.broken("a tick is passed over for what is true", f"{known.name}: {skipped['message']}")

    def _overlaps(self, known: _Known, tick: int) -> bool:
        """Whether overlap is Forbid, and an earlier run was not over lately."""
        if "Forbid" not in [spec.get("overlap") for spec in self._in_force(known)]:
            return False
        judge = self._judge
        for at, uid in known.made.items():
            for one in (uid, *judge.descendants(uid)):
                going_on = one in judge.alive and judge.jobs[one]["status"]["state"] not in TERMINAL
                lately = max(judge.ended_at.get(one, 0.0), judge.gone_at.get(one, 0.0)) > judge.late_since
                if at < tick and (going_on or lately):
                    return True
        return False

    # The Jobs

    def see_made(self, raw: Object) -> None:
        """A Job was created; perhaps that of a tick."""
        annotations = raw["metadata"].get("annotations", {})
        if ANNOTATION_TICK not in annotations:
            return
        judge, uid, name = self._judge, annotations[ANNOTATION_SCHEDULE_UID], raw["metadata"]["name"]
        tick, known = int(parse_time(annotations[ANNOTATION_TICK])), self._known[uid]
        if tick in known.made and not self._was_deleted_unnoted(known, tick):
            judge.broken(10, f"{name} is the second Job of tick {_text(tick)} of {known.name}")
        if tick in known.skipped:
            judge.broken(10, f"{name} was made, but tick {_text(tick)} of {known.name} was passed over")
        specs, replaces = self._in_force(known), annotations.get(ANNOTATION_REPLACES) == "true"
        periods = [PERIODS[spec["cron"]] for spec in specs if spec["cron"] in PERIODS]
        if not any(tick % period == 0 for period in periods):
            judge.broken("ticks are those of the line", f"{name} was made for {_text(tick)}")
        if known.gone_at < judge.late_since:
            judge.broken("a deleted Schedule makes no more", f"{name} was made")
        if tick > self._wall + judge.clock_error + ROUNDING_SECONDS:
            judge.broken("no tick comes early", f"{name} was made for {_text(tick)}")
        latest = max(IN_TIME_SECONDS, *(spec.get("catchUpSeconds", 0) for spec in specs))
        if self._wall - tick > latest + (judge.now - judge.late_since) + judge.clock_error + ROUNDING_SECONDS:
            judge.broken("no tick comes too late", f"{name} was made for {_text(tick)}")
        if raw["spec"] not in [spec["job"] for spec in specs]:
            judge.broken("a tick makes the Schedule's job", f"{name} is {raw['spec']}")
        self._judge_suspension(known, tick, name)
        overlaps = {spec.get("overlap", "Allow") for spec in specs}
        if replaces != ("Replace" in overlaps) and len(overlaps) == 1:
            judge.broken("overlap", f"{name} replaces: {replaces}, but overlap is {overlaps}")
        if overlaps == {"Forbid"}:
            self._judge_forbidden(known, tick, name)
        known.made[tick] = raw["metadata"]["uid"]
        if replaces:
            self._replacing[uid].append((tick, raw["metadata"]["uid"]))

    def _was_deleted_unnoted(self, known: _Known, tick: int) -> bool:
        """Whether somebody deleted the tick's Job before the status told that it was made: then nobody can know of it
        (docs/guarantees.md)."""
        noted = known.status.get("lastTick")
        return known.made[tick] in self._judge.deleted_by_hand and (noted is None or parse_time(noted) < tick)

    def _judge_suspension(self, known: _Known, tick: int, name: str) -> None:
        """No tick is made that came while the Schedule had long been suspended."""
        judge = self._judge
        late, at = judge.now - judge.late_since, tick - START
        ends = [since for since, _ in known.specs[1:]] + [float("inf")]
        since: float | None = None
        for (begins, spec), end in zip(known.specs, ends, strict=True):
            since = None if not spec.get("suspend") else begins if since is None else since
            if since is not None and since + late + judge.clock_error < at < end - judge.clock_error - ROUNDING_SECONDS:
                judge.broken("a suspended Schedule makes nothing", f"{name} was made for {_text(tick)}")

    def _judge_forbidden(self, known: _Known, tick: int, name: str) -> None:
        judge = self._judge
        for at, uid in known.made.items():
            going_on = self._going_on(uid) if at < tick else []
            if going_on:
                judge.broken("overlap Forbid", f"{name} was made while {going_on[0]['metadata']['name']} is not over")

    def _going_on(self, run: str) -> list[Object]:
        """What of a run has surely not ended, and may yet. A child that somebody runs again when the run's own Job is
        deleted belongs to none any more."""
        judge = self._judge
        if run not in judge.alive:
            return []
        jobs = [judge.jobs[uid] for uid in (run, *judge.descendants(run, alive=True))]
        return [
            one
            for one in jobs
            if one["status"]["state"] not in TERMINAL
            and judge.may_run(one)
            and not judge.is_parked(one)
            and not judge.is_lately_armed(one)
            and one["metadata"]["uid"] not in judge.born_in_rerun
        ]

    # Replace

    def replaced_since(self, raw: Object) -> float:
        """Since when a later tick's Job has been there in whose place it may not run; infinity where none is."""
        annotations = raw["metadata"].get("annotations", {})
        if ANNOTATION_TICK not in annotations or raw["spec"].get("rerun"):
            return float("inf")
        tick = parse_time(annotations[ANNOTATION_TICK])
        later = [
            self._judge.seen_at[uid]
            for at, uid in self._replacing[annotations[ANNOTATION_SCHEDULE_UID]]
            if at > tick and uid in self._judge.alive
        ]
        return min(later, default=float("inf"))

    def was_replaced(self, raw: Object) -> bool:
        """Whether there ever was such a Job."""
        annotations = raw["metadata"].get("annotations", {})
        if ANNOTATION_TICK not in annotations:
            return False
        tick = parse_time(annotations[ANNOTATION_TICK])
        return any(at > tick for at, _ in self._replacing[annotations[ANNOTATION_SCHEDULE_UID]])

    def judge_claim(self, raw: Object) -> None:
        """It was claimed for the first time: what it takes the place of is over."""
        annotations = raw["metadata"].get("annotations", {})
        if annotations.get(ANNOTATION_REPLACES) != "true":
            return
        tick, known = parse_time(annotations[ANNOTATION_TICK]), self._known[annotations[ANNOTATION_SCHEDULE_UID]]
        for at, uid in known.made.items():
            if at >= tick or self._judge.jobs[uid]["spec"].get("rerun"):
                continue
            going_on = [
                one for one in self._going_on(uid) if not self._judge.is_run_again(one) and not self._is_unseen(one)
            ]
            if going_on:
                names = raw["metadata"]["name"], going_on[0]["metadata"]["name"]
                self._judge.broken("overlap Replace", f"{names[0]} was claimed while {names[1]} is not over")

    def _is_unseen(self, raw: Object) -> bool:
        """Whether no watch may have told of it: then it has no pod, and is canceled when it comes."""
        lately = self._judge.seen_at[raw["metadata"]["uid"]] > self._judge.late_since
        return lately and "attempt" not in raw["status"]

    # The end

    def verdict(self) -> None:
        """In the calm each tick of a Schedule that is not suspended was made or passed over."""
        for known in self._known.values():
            for (since, spec), (end, _) in zip(known.specs, [*known.specs[1:], (known.gone_at, {})], strict=True):
                period = PERIODS.get(spec["cron"])
                first = max(since, self._judge.calm_since) + 1.0
                until = min(end, self._judge.now) - 2.0 - self._judge.clock_error
                if period is None or spec.get("suspend") or until < first:
                    continue
                begin = int(START + first + self._judge.clock_error) // period * period + period
                due = range(begin, int(START + until) + 1, period)
                missing = [tick for tick in due if tick not in known.made and tick not in known.skipped]
                if missing:
                    self._judge.broken("no tick is lost", f"{known.name} made nothing for {_texts(missing)}")

    @property
    def _wall(self) -> float:
        return START + self._judge.now


def _text(tick: int) -> str:
    return f"{(tick // 3600) % 24:02}:{(tick // 60) % 60:02}"


def _texts(ticks: list[int]) -> str:
    return ", ".join(map(_text, ticks))
