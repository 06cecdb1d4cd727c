"""Judges what runs at once and what starts in a time: slots of queues and keys, rates, the operator's own limit.

An attempt holds its slot from its claim to its report or the end of its container; a pod counts for the operator's
limit until its container has ended.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from questline_operator.core.pod import Pod
from questline_operator.core.records import ANNOTATION_KEY
from questline_operator.core.states import ACTIVE
from questline_operator.core.times import parse_time
from questline_operator.shell.api import Object
from tests.simulation.store import Change

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

KEPT_ATTEMPTS = 10
"""What a new leader can know of a Job's starts."""
POD_TIME_SECONDS = 1.0
"""Times of pods have whole seconds, and what a new leader knows of ended attempts are these."""
JUMP_SECONDS = 30.0
"""A claim that was decided so long after a jump of a clock goes by times that are all after it."""


@dataclass(frozen=True)
class _Claim:
    """A claim by the operator's own clock, and the one rate that was in force for it."""

    uid: str
    attempt: int
    epoch: int
    decided_at: float
    written_at: float
    rate: tuple[int, float]
    rate_since: float


class SlotJudge:
    """The part of a `Judge` that counts. Invariant 3, rates, and maxRunningPods."""

    def __init__(self, judge: "Judge", max_running_pods: int | None) -> None:
        self._judge = judge
        self._max_running_pods = max_running_pods
        self._specs: defaultdict[str, list[tuple[float, Object]]] = defaultdict(list)
        self._live_pods: dict[str, Pod] = {}
        self._pods_that_ended: set[str] = set()
        self._reported: set[str] = set()
        self._holders: dict[str, tuple[str, str]] = {}
        """The queue and the key of each attempt that holds a slot, by its pod's name."""
        self._let_go_at: dict[str, tuple[float, tuple[str, str]]] = {}
        """When those that hold none any more let go of it, as far as the operator may not know it yet."""
        self._running: set[str] = set()
        """The pods that the operator's own limit counts."""
        self._claim: dict[str, str] = {}
        self._starts: defaultdict[str, list[_Claim]] = defaultdict(list)

    @property
    def live_pods(self) -> dict[str, Pod]:
        """By name."""
        return self._live_pods

    # Queues

    def see_queue(self, change: Change) -> None:
        """Note since when a queue is as it is."""
        specs = self._specs[change.key[1]]
        if not specs or specs[-1][1] != change.object["spec"]:
            specs.append((self._judge.now, change.object["spec"]))

    def in_force(self, queue: str, field: str) -> list[Any]:
        """The values that the operator may go by now, the latest last; [] for a queue that never was."""
        specs = self._specs.get(queue)
        if not specs:
            return []
        ends = [since for since, _ in specs[1:]] + [float("inf")]
        values = [spec.get(field) for (_, spec), end in zip(specs, ends, strict=True) if end > self._judge.late_since]
        return [value for place, value in enumerate(values) if value not in values[place + 1 :]]

    def has_free_slot(self, queue: str, key: str = "", *, known: bool = False) -> bool:
        """Whether one is surely free, of the key too, whatever the operator goes by.

        Args:
            known: whether it has been free for so long that the operator surely knows.
        """
        allowed, of_key = self.in_force(queue, "concurrency"), self.in_force(queue, "perKeyConcurrency")
        least = min((number for number in of_key if number is not None), default=None)
        held = [*self._holders.values(), *self._held_by_orphans()]
        if known:
            held += [place for at, place in self._let_go_at.values() if at >= self._judge.late_since]
        if key and least is not None and sum(place == (queue, key) for place in held) >= least:
            return False
        return bool(allowed) and sum(of == queue for of, _ in held) < min(allowed)

    def _held_by_orphans(self) -> Iterator[tuple[str, str]]:
        """Containers that run on after their report and whose Job somebody has deleted: with the record went what says
        that their slots are free."""
        for pod in self._live_pods.values():
            if pod.uid in self._reported and pod.owner_uid not in self._judge.alive:
                yield pod.queue, pod.concurrency_key

    @property
    def has_room(self) -> bool:
        """Whether the operator's own limit lets one more pod run."""
        return self._max_running_pods is None or len(self._running) < self._max_running_pods

    # Claims

    def see_job(self, uid: str, raw: Object, old: Object) -> None:
        """A Job's record has changed: its claim may have begun or ended."""
        status = raw["status"]
        report = status.get("report") or {}
        if report and report != old.get("report"):
            self._reported.add(report["podUID"])
        pod = f"{raw['metadata']['name']}-{uid[:8]}-{status.get('attempt')}"
        active = status["state"] in ACTIVE
        if self._claim.get(uid) not in (None, pod) or not active:
            self.release(uid)
        if active and pod not in self._pods_that_ended:
            self._claim[uid] = pod
            self._run(pod)
        held = active and report.get("attempt") != status["attempt"]
        known = self._live_pods.get(pod)
        if not held or (known is not None and known.uid in self._reported):
            if known is None or known.uid in self._reported:
                self._let_go(pod)
        elif pod not in self._pods_that_ended:
            self._hold(pod, raw["spec"].get("queue", "default"), raw["spec"].get("key", ""))
        if active and old.get("state") == "Waiting":
            self._note_start(uid, raw)
        elif status.get("reason") == "PodRejected" and old.get("state") in ACTIVE:
            starts = self._starts[raw["spec"].get("queue", "default")]
            starts[:] = [one for one in starts if (one.uid, one.attempt) != (uid, status["attempt"])]

    def release(self, uid: str) -> None:
        """The claim is over, or its Job is gone; its pod counts on while it lives."""
        pod = self._claim.pop(uid, "")
        known = self._live_pods.get(pod)
        if known is None:
            self._running.discard(pod)
        if known is None or known.uid in self._reported:
            self._let_go(pod)

    # Pods

    def see_pod(self, pod: Pod, change: Change) -> None:
        """A pod was made, has changed or is gone."""
        if change.type == "DELETED" or not pod.live:
            self._live_pods.pop(pod.name, None)
            self._pods_that_ended.add(pod.name)
            self._let_go(pod.name)
            self._running.discard(pod.name)
            return
        self._live_pods[pod.name] = pod
        self._run(pod.name)
        if pod.uid not in self._reported:
            job = self._judge.jobs.get(pod.owner_uid)
            annotated = change.object["metadata"].get("annotations", {}).get(ANNOTATION_KEY, "")
            self._hold(pod.name, pod.queue, job["spec"].get("key", "") if job else annotated)

    def _run(self, pod: str) -> None:
        if pod in self._running:
            return
        self._running.add(pod)
        most = self._max_running_pods
        if most is not None and len(self._running) > most:
            self._judge.broken(3, f"{sorted(self._running)} run or are about to, maxRunningPods is {most}")

    def _hold(self, pod: str, queue: str, key: str) -> None:
        if pod in self._holders:
            return
        self._holders[pod] = queue, key
        allowed = self.in_force(queue, "concurrency")
        held = sorted(name for name, (of, _) in self._holders.items() if of == queue)
        if allowed and len(held) > max(allowed):
            self._judge.broken(3, f"queue {queue} of {max(allowed)} slots holds {held}")
        of_key = self.in_force(queue, "perKeyConcurrency")
        held = sorted(name for name, place in self._holders.items() if place == (queue, key))
        if key and of_key and None not in of_key and len(held) > max(of_key):
            self._judge.broken(3, f"key {key} in queue {queue} of {max(of_key)} slots a key holds {held}")

    def _let_go(self, pod: str) -> None:
        place = self._holders.pop(pod, None)
        if place is not None:
            late_since = self._judge.late_since
            self._let_go_at = {name: one for name, one in self._let_go_at.items() if one[0] >= late_since}
            self._let_go_at[pod] = self._judge.now, place

    # Rates

    def _note_start(self, uid: str, raw: Object) -> None:
        queue, status = raw["spec"].get("queue", "default"), raw["status"]
        rates, now = self.in_force(queue, "rateLimit"), self._judge.now
        if len(rates) != 1 or rates[0] is None:
            return
        rate = rates[0]["count"], float(rates[0]["periodSeconds"])
        since = next(
            since
            for place, (since, spec) in enumerate(self._specs[queue])
            if all(later.get("rateLimit") == rates[0] for _, later in self._specs[queue][place:])
        )
        decided = parse_time(status["startedAt"])
        self._starts[queue].append(_Claim(uid, status["attempt"], status["epoch"], decided, now, rate, since))

    def _judge_rates(self) -> None:
        for queue, starts in self._starts.items():
            by_epoch: defaultdict[int, list[_Claim]] = defaultdict(list)
            for one in starts:
                by_epoch[one.epoch].append(one)
            for of_epoch in by_epoch.values():
                of_epoch.sort(key=lambda one: one.written_at)
                of_epoch.sort(key=lambda one: one.decided_at)
                self._judge_starts(queue, of_epoch, 0.002)
            starts.sort(key=lambda one: (one.epoch, one.decided_at))
            self._judge_starts(queue, starts, POD_TIME_SECONDS + 2 * self._judge.clock_error, known=True)

    def _judge_starts(self, queue: str, starts: list[_Claim], tolerance: float, *, known: bool = False) -> None:
        """Of so many and one in a row, the last comes a period after the first.

        Args:
            known: only where a leader could know of all that were claimed before it.
        """
        for place, first in enumerate(starts):
            count, period = first.rate
            if place + count >= len(starts):
                continue
            some = starts[place : place + count + 1]
            last = some[-1]
            if (last.rate, last.rate_since) != (first.rate, first.rate_since) or self._clock_jumped(some):
                continue
            if known and not all(self._is_known(one, last) for one in some[:-1]):
                continue
            if last.decided_at - first.decided_at < period - tolerance:
                names = [self._judge.jobs[one.uid]["metadata"]["name"] for one in some]
                took = last.decided_at - first.decided_at
                self._judge.broken("rate", f"queue {queue} of {count} in {period:g} s started {names} in {took:.3f} s")

    def _clock_jumped(self, some: list[_Claim]) -> bool:
        moments = [one.written_at for one in some]
        return any(min(moments) - JUMP_SECONDS <= jump <= max(moments) for jump in self._judge.clock_jumps)

    def _is_known(self, one: _Claim, last: _Claim) -> bool:
        """Whether the record of that claim was there when the last one was decided."""
        if one.epoch == last.epoch:
            return True
        gone_at = self._judge.gone_at.get(one.uid, float("inf"))
        later = self._judge.jobs[one.uid]["status"]["attempt"] - one.attempt
        return gone_at > last.written_at and later < KEPT_ATTEMPTS

    # The end

    def verdict(self) -> None:
        """What only the end shows."""
        self._judge_rates()
        for pod in self._live_pods:
            self._judge.broken(9, f"pod {pod} still lives")
