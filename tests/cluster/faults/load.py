"""The one load of all fault runs: some of everything that a Job can do, and what must have become of it at the end.

A unit is 42 Jobs (`JOBS_PER_UNIT`), 30 of which run, in 35 attempts: independent ones (one fails twice, one fails for
good), a fan-out with staged children, a parent that fails twice after it has enqueued, a join of either's children and
one of the fan-out's whole tree, a chain by `after`, one piece of work enqueued four times under a unique key, four Jobs
of two concurrency keys, and a tree that would run for long and is cancelled once its children run. They share queues:
`media` and `mail` of small concurrency, `keyed` with one slot a key.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from questline_operator.core.records import Job
from questline_operator.core.states import ACTIVE, OutcomeKind, State
from questline_operator.shell.api import JOBS, ApiError, NoAnswerError, Object
from tests.history import History
from tests.live import Live, a_job, a_queue
from tests.verdict import Limits

Kind = Literal["fake", "real"]

LIMITS: Limits = {"concurrency": {"media": 3, "mail": 2, "keyed": 4, "doomed": 40}, "per_key": {"keyed": 1}}
"""Of the queues. Parents and children share `doomed`, and no parent ends before its two children run: with more than
twice as many slots as units they never get stuck, and no test has more than 16 units at one time."""
JOBS_PER_UNIT = 42
ATTEMPTS_PER_UNIT = 35
"""Where no fault has cost an attempt."""
FAN_OUT = 5
FLAKY_FAN_OUT = 3
FLAKY_FAILURES = 2
BROKEN_ATTEMPTS = 2
UNIQUE = 4
KEYS, JOBS_PER_KEY = 2, 2
DOOMED = 2
DOOMED_SECONDS = 600
"""How long each of a doomed tree would run: longer than any test waits."""
BACKOFF = {"type": "Fixed", "baseSeconds": 1, "jitter": 0}


@dataclass(frozen=True)
class Load:
    """What was put into a namespace by `put_load`.

    Attributes:
        roots: the names of those that were created here.
        limits: of the queues, for `Verdict.of`.
    """

    roots: frozenset[str]
    limits: Limits
    _units: tuple["_Unit", ...]
    _cancels: asyncio.Future[Any]

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
        await asyncio.shield(self._cancels)  # whoever waits may give up, and another wait again

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

    Each doomed tree is cancelled in the background, as soon as there is something in it to cancel: earlier it would
    be a single Job that never ran, and an operator that has not begun by then would find it cancelled.

    Args:
        kind: what runs the pods: `fake` nodes, or the `real` kubelet with tests/e2e/tasks.py.
        prefix: of the Jobs' names and keys, where a namespace is given several loads; its queues are made with the
            first, whose prefix is "".
    """
    made = tuple(_Unit(f"{prefix}{number}", kind) for number in range(units))
    if not prefix:
        await live.apply(*_queues())
    await live.apply(*(manifest for unit in made for manifest in unit.manifests()))
    roots = frozenset(manifest["metadata"]["name"] for unit in made for manifest in unit.manifests())
    return Load(roots, LIMITS, made, asyncio.gather(*(unit.cancel_doomed(live) for unit in made)))


def _queues() -> list[Object]:
    keyed = {name: {"perKeyConcurrency": limit} for name, limit in LIMITS["per_key"].items()}
    return [a_queue(name, concurrency=limit, **keyed.get(name, {})) for name, limit in LIMITS["concurrency"].items()]


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
            self._work(f"join-{self.name}", 0.0, after=[{"tree": f"fan-{self.name}"}]),
            *(
                self._work(f"keyed-{self.name}-{key}-{index}", 0.3, queue="keyed", key=f"{self.name}-{key}")
                for index in range(JOBS_PER_KEY)
                for key in range(KEYS)
            ),
            self._doomed(f"doomed-{self.name}"),
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
            fake = {"children": children, "failures": failures, "child": child}
            args: Object = {"fake": {**fake, "group": "fan", "then": {"task": "tasks:work"}}}
        else:
            args = {"children": children, "failures": failures, "joined": True}
        return a_job(name, "tasks:flaky_parent", args=args, backoff=BACKOFF)

    def _doomed(self, name: str) -> Object:
        """It lives on with children that need not wait for its success, and a join of theirs, which is never due."""
        if self.kind == "real":
            args: Object = {"children": DOOMED, "seconds": DOOMED_SECONDS}
            return a_job(name, "tasks:lives_on", args=args, queue="doomed")
        child = {"task": "tasks:work", "queue": "doomed", "args": {"fake": {"seconds": DOOMED_SECONDS}}}
        family = {"children": DOOMED, "child": child, "group": "doomed", "then": {"task": "tasks:work"}}
        args = {"fake": {**family, "staged": False, "report": False, "lingerSeconds": DOOMED_SECONDS}}
        return a_job(name, "tasks:lives_on", args=args, queue="doomed")

    async def cancel_doomed(self, live: Live) -> None:
        """Cancel the doomed tree once all of it is there and all of its children were claimed."""
        name = f"doomed-{self.name}"
        await live.history.until(lambda: self._doomed_runs(live.history), seconds=DOOMED_SECONDS)
        while True:
            try:
                await live.edit(name, cancel=True)
            except (ApiError, NoAnswerError):
                await asyncio.sleep(0.2)  # the API server restarts, in some tests: it is to be cancelled all the same
            else:
                return

    def _doomed_runs(self, history: History) -> bool:
        if not history.has(f"doomed-{self.name}"):
            return False
        family = _children(history.job(f"doomed-{self.name}"), history.jobs())
        made = Counter(child.parent.attempt for child in family if child.parent is not None)
        claimed = Counter(child.parent.attempt for child in family if child.parent is not None and child.attempt)
        return any(made[attempt] == DOOMED + 1 and claimed[attempt] == DOOMED for attempt in made)

    def faults(self, history: History, jobs: list[Job], order: "_Order") -> list[str]:
        """What became of its Jobs otherwise than it must."""
        found: list[str] = []
        for manifest in self.manifests():
            name = manifest["metadata"]["name"]
            job, kind = history.job(name), name.split("-")[0]
            if kind == "once":
                continue
            wanted = {"broken": State.FAILED, "doomed": State.CANCELED}.get(kind, State.SUCCEEDED)
            if job.state is not wanted:
                found.append(f"{name} is {job.state} {job.reason}, not {wanted}")
            meant = {"broken": BROKEN_ATTEMPTS, "flaky": FLAKY_FAILURES}.get(kind, 0)
            failures = BROKEN_ATTEMPTS if kind == "broken" else len({*range(1, meant + 1)} - _lost(job))
            if job.failures != failures:
                told = [entry.get("message", "") for entry in job.status.get("attempts", ())]
                found.append(f"{name} has failed {job.failures} times, not {failures}: {told}")
        for parent, children in ((f"fan-{self.name}", FAN_OUT), (f"flaky-fan-{self.name}", FLAKY_FAN_OUT)):
            found += self._family_faults(history.job(parent), jobs, children + 1, order)
        found += self._doomed_faults(history.job(f"doomed-{self.name}"), jobs, order)
        once = Counter((job.state, job.reason) for job in self._once(history))
        if once != {(State.SUCCEEDED, ""): 1, (State.SKIPPED, "Duplicate"): UNIQUE - 1}:
            found.append(f"once-{self.name}: {dict(once)}, not one that ran and {UNIQUE - 1} duplicates")
        for step in (1, 2):
            first, second = f"chain-{self.name}-{step - 1}", f"chain-{self.name}-{step}"
            found += order.too_early(history.job(second), [history.job(first)])
        fan = history.job(f"fan-{self.name}")
        tree = [fan, *(child for child in _children(fan, jobs) if child.state is not State.SKIPPED)]
        found += order.too_early(history.job(f"join-{self.name}"), tree)
        return found

    def _once(self, history: History) -> list[Job]:
        return [history.job(f"once-{self.name}-{index}") for index in range(UNIQUE)]

    def _family_faults(self, parent: Job, jobs: list[Job], children: int, order: "_Order") -> list[str]:
        """Each attempt's children: those of the one that succeeded have run, their join last, all others never did."""
        found: list[str] = []
        family = _children(parent, jobs)
        for child in family:
            assert child.parent is not None
            wanted = State.SUCCEEDED if parent.attempt_succeeded(child.parent.attempt) else State.SKIPPED
            if child.state is not wanted:
                found.append(f"{child.name} of {parent.name} is {child.state} {child.reason}, not {wanted}")
            if wanted is State.SKIPPED and child.attempt:
                found.append(f"{child.name} was claimed, though its parent's attempt did not succeed")
            if wanted is State.SUCCEEDED and child.after:
                found += order.too_early(child, _members(child, family))
        made = Counter(child.parent.attempt for child in family if child.parent is not None)
        found += [
            f"attempt {attempt} of {parent.name} has {made[attempt]} children, not {children}"
            for attempt in range(1, parent.attempt + 1)
            if made[attempt] != children and attempt not in _lost(parent)
        ]
        return found

    def _doomed_faults(self, parent: Job, jobs: list[Job], order: "_Order") -> list[str]:
        """The cancelled tree: what was claimed of it is Canceled, and none of it, its join least, was claimed then."""
        found: list[str] = []
        for child in _children(parent, jobs):
            if order.last_claimed.get(child.name, 0) > order.ended.get(parent.name, 0):
                found.append(f"{child.name} was claimed after {parent.name} had ended, which was cancelled")
            if child.state is not State.CANCELED and (child.attempt or child.state is not State.SKIPPED):
                found.append(f"{child.name} of {parent.name} is {child.state} {child.reason}, not {State.CANCELED}")
            if child.after and child.attempt:
                found.append(f"{child.name} was claimed, though all that it waits for was cancelled")
        return found


def _children(parent: Job, jobs: Iterable[Job]) -> list[Job]:
    """Those of all its attempts."""
    return [job for job in jobs if job.parent is not None and job.parent.uid == parent.uid]


def _members(join: Job, family: Iterable[Job]) -> list[Job]:
    """Those of the group that a child waits for: its parent's same attempt has enqueued them."""
    assert join.parent is not None
    groups = {(join.parent.attempt, one.name) for one in join.after if one.kind == "group"}
    return [one for one in family if one.parent is not None and (one.parent.attempt, one.parent.group) in groups]


@dataclass(frozen=True)
class _Order:
    """The resourceVersions at which Jobs were first claimed, last claimed and first ended, by name."""

    claimed: dict[str, int]
    last_claimed: dict[str, int]
    ended: dict[str, int]

    def too_early(self, job: Job, waited: Iterable[Job]) -> list[str]:
        """Those that it waited for and that had not ended when it was claimed."""
        if job.name not in self.claimed:
            return []  # it was claimed and ended in a gap of the history
        return [
            f"{job.name} was claimed before {one.name} had ended"
            for one in waited
            if self.claimed[job.name] < self.ended.get(one.name, 0)
        ]


def _order(history: History) -> _Order:
    claimed: dict[str, int] = {}
    attempts: dict[tuple[str, int], int] = {}
    ended: dict[str, int] = {}
    for event in history.in_order():
        if event.resource == JOBS:
            job = Job.parse(event.object)
            if job.state in ACTIVE:
                claimed.setdefault(job.name, event.version)
                attempts.setdefault((job.name, job.attempt), event.version)
            elif job.terminal:
                ended.setdefault(job.name, event.version)
    return _Order(claimed, {name: version for (name, _), version in attempts.items()}, ended)


def _lost(job: Job) -> set[int]:
    """The attempts that a fault has cost: no task of theirs came to its end."""
    ended = {entry["number"] for entry in job.status["attempts"] if entry["outcome"] != OutcomeKind.DISRUPTED}
    return {*range(1, job.attempt + 1)} - ended
