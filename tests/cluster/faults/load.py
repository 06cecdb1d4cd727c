"""The one load of all fault runs: some of everything that a Job can do, and what must have become of it at the end.

A unit is 29 Jobs (`JOBS_PER_UNIT`), 20 of which run, in 25 attempts: independent ones (one fails twice, one fails for
good), a fan-out with staged children, a parent that fails twice after it has enqueued, a chain by `after`, and one
piece of work enqueued four times under a unique key. They share the queues `media` and `mail` of small concurrency.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from questline_operator.core.records import Job
from questline_operator.core.states import ACTIVE, OutcomeKind, State
from questline_operator.shell.api import JOBS, Object
from tests.history import History
from tests.live import Live, a_job, a_queue

Kind = Literal["fake", "real"]

CONCURRENCY = {"media": 3, "mail": 2}
JOBS_PER_UNIT = 29
ATTEMPTS_PER_UNIT = 25
"""Where no fault has cost an attempt."""
FAN_OUT = 5
FLAKY_FAN_OUT = 3
FLAKY_FAILURES = 2
BROKEN_ATTEMPTS = 2
UNIQUE = 4
BACKOFF = {"type": "Fixed", "baseSeconds": 1, "jitter": 0}


@dataclass(frozen=True)
class Load:
    """What was put into a namespace by `put_load`.

    Attributes:
        roots: the names of those that were created here.
        concurrency: of the queues, for `Verdict.of`.
    """

    roots: frozenset[str]
    concurrency: dict[str, int]
    _units: tuple["_Unit", ...]

    def ended(self, history: History) -> bool:
        """Whether every Job has ended, and every pod."""
        jobs = {job.name: job for job in history.jobs()}
        # The last child of an attempt was created before its report, and the history shows Jobs in that order.
        return (
            self.roots <= jobs.keys()
            and all(job.terminal for job in jobs.values())
            and not any(pod.live for pod in history.pods())
        )

    async def done(self, history: History, *, seconds: float = 120.0) -> None:
        """Wait until every Job has ended, and every pod.

        Raises:
            AssertionError: they have not in time, with the states that are.
        """
        await history.until(lambda: self.ended(history), seconds=seconds)

    def faults(self, history: History) -> list[str]:
        """What became of it otherwise than it must, once it is done; a fault of the cluster may cost attempts only."""
        found: list[str] = []
        jobs = history.jobs()
        order = _order(history)
        for unit in self._units:
            found += unit.faults(history, jobs, order)
        return found


async def put_load(live: Live, *, units: int = 1, kind: Kind = "fake", prefix: str = "") -> Load:
    """Put so many units of the load into the namespace, all at one moment.

    Args:
        kind: what runs the pods: `fake` nodes, or the `real` kubelet with tests/e2e/tasks.py.
        prefix: of the Jobs' names and keys, where a namespace is given several loads; its queues are made with the
            first, whose prefix is "".
    """
    made = tuple(_Unit(f"{prefix}{number}", kind) for number in range(units))
    if not prefix:
        await live.apply(*(a_queue(name, concurrency=limit) for name, limit in CONCURRENCY.items()))
    await live.apply(*(manifest for unit in made for manifest in unit.manifests()))
    roots = frozenset(manifest["metadata"]["name"] for unit in made for manifest in unit.manifests())
    return Load(roots, dict(CONCURRENCY), made)


@dataclass(frozen=True)
class _Unit:
    name: str
    kind: Kind

    def manifests(self) -> list[Object]:
        """The Jobs that are created from outside."""
        chain = [f"chain-{self.name}-{step}" for step in range(3)]
        unique = {"key": f"once-{self.name}", "scope": "Alive"}
        return [
            *(self._work(f"work-{self.name}-{index}", 0.1 * index, queue="media") for index in range(4)),
            self._fails(f"flaky-{self.name}", failures=FLAKY_FAILURES, attempts=5, queue="media"),
            self._fails(f"broken-{self.name}", failures=99, attempts=BROKEN_ATTEMPTS, queue="media"),
            self._parent(f"fan-{self.name}", children=FAN_OUT, failures=0),
            self._parent(f"flaky-fan-{self.name}", children=FLAKY_FAN_OUT, failures=FLAKY_FAILURES),
            self._work(chain[0], 0.2),
            self._work(chain[1], 0.1, after=[{"job": chain[0]}]),
            self._work(chain[2], 0.0, after=[{"job": chain[1]}]),
            *(self._work(f"once-{self.name}-{index}", 1.0, queue="mail", unique=unique) for index in range(UNIQUE)),
        ]

    def _work(self, name: str, seconds: float, **spec: Any) -> Object:
        args = {"fake": {"seconds": seconds}} if self.kind == "fake" else {"seconds": seconds}
        return a_job(name, args=args, **spec)

    def _fails(self, name: str, *, failures: int, attempts: int, **spec: Any) -> Object:
        options = {"maxAttempts": attempts, "backoff": BACKOFF, **spec}
        if self.kind == "fake":
            return a_job(name, args={"fake": {"failures": failures}}, **options)
        return a_job(name, "tasks:flaky_parent", args={"children": 0, "failures": failures}, **options)

    def _parent(self, name: str, *, children: int, failures: int) -> Object:
        if self.kind == "fake":
            child = {"task": "tasks:work", "queue": "mail", "args": {"fake": {"seconds": 0.1}}}
            args: Object = {"fake": {"children": children, "failures": failures, "child": child}}
        else:
            args = {"children": children, "failures": failures}
        return a_job(name, "tasks:flaky_parent", args=args, backoff=BACKOFF)

    def faults(self, history: History, jobs: list[Job], order: "_Order") -> list[str]:
        """What became of its Jobs otherwise than it must."""
        found: list[str] = []
        for manifest in self.manifests():
            name = manifest["metadata"]["name"]
            job, kind = history.job(name), name.split("-")[0]
            if kind == "once":
                continue
            wanted = State.FAILED if kind == "broken" else State.SUCCEEDED
            if job.state is not wanted:
                found.append(f"{name} is {job.state} {job.reason}, not {wanted}")
            meant = {"broken": BROKEN_ATTEMPTS, "flaky": FLAKY_FAILURES}.get(kind, 0)
            failures = BROKEN_ATTEMPTS if kind == "broken" else len({*range(1, meant + 1)} - _lost(job))
            if job.failures != failures:
                told = [entry.get("message", "") for entry in job.status.get("attempts", ())]
                found.append(f"{name} has failed {job.failures} times, not {failures}: {told}")
        found += self._family_faults(history.job(f"fan-{self.name}"), jobs, FAN_OUT)
        found += self._family_faults(history.job(f"flaky-fan-{self.name}"), jobs, FLAKY_FAN_OUT)
        once = Counter((job.state, job.reason) for job in self._once(history))
        if once != {(State.SUCCEEDED, ""): 1, (State.SKIPPED, "Duplicate"): UNIQUE - 1}:
            found.append(f"once-{self.name}: {dict(once)}, not one that ran and {UNIQUE - 1} duplicates")
        for step in (1, 2):
            first, second = f"chain-{self.name}-{step - 1}", f"chain-{self.name}-{step}"
            if order.claimed.get(second, 0) < order.ended.get(first, 0):
                found.append(f"{second} was claimed before {first} had ended")
        return found

    def _once(self, history: History) -> list[Job]:
        return [history.job(f"once-{self.name}-{index}") for index in range(UNIQUE)]

    def _family_faults(self, parent: Job, jobs: list[Job], children: int) -> list[str]:
        """Each attempt's children: those of the one that succeeded have run, all others never did."""
        found: list[str] = []
        family = [job for job in jobs if job.parent is not None and job.parent.uid == parent.uid]
        for child in family:
            assert child.parent is not None
            wanted = State.SUCCEEDED if parent.attempt_succeeded(child.parent.attempt) else State.SKIPPED
            if child.state is not wanted:
                found.append(f"{child.name} of {parent.name} is {child.state} {child.reason}, not {wanted}")
            if wanted is State.SKIPPED and child.attempt:
                found.append(f"{child.name} was claimed, though its parent's attempt did not succeed")
        made = Counter(child.parent.attempt for child in family if child.parent is not None)
        found += [
            f"attempt {attempt} of {parent.name} has {made[attempt]} children, not {children}"
            for attempt in range(1, parent.attempt + 1)
            if made[attempt] != children and attempt not in _lost(parent)
        ]
        return found


@dataclass(frozen=True)
class _Order:
    """The resourceVersions at which Jobs were first claimed and first ended, by name."""

    claimed: dict[str, int]
    ended: dict[str, int]


def _order(history: History) -> _Order:
    claimed: dict[str, int] = {}
    ended: dict[str, int] = {}
    for event in history.in_order():
        if event.resource == JOBS:
            job = Job.parse(event.object)
            if job.state in ACTIVE:
                claimed.setdefault(job.name, event.version)
            elif job.terminal:
                ended.setdefault(job.name, event.version)
    return _Order(claimed, ended)


def _lost(job: Job) -> set[int]:
    """The attempts that a fault has cost: no task of theirs came to its end."""
    ended = {entry["number"] for entry in job.status["attempts"] if entry["outcome"] != OutcomeKind.DISRUPTED}
    return {*range(1, job.attempt + 1)} - ended
