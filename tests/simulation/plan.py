"""What a random life of the simulated cluster consists of: all that is asked, that breaks, and that tasks do.

A `Plan` is plain values, and a run is a pure function of it. Deeds name a Job, a pod or a replica by a number, taken
modulo what exists at that moment, so that a plan stays a plan whatever shrinking takes out of it. Its repr is Python
that makes it again: paste it into a test, or give it to `python -m tests.simulation.campaign --plan`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

Queued = Literal["default", "narrow", "wide", "keyed", "rated", "later"]
"""The queue `later` is made when everything is mended."""
Edited = Literal["narrow", "wide", "keyed", "rated"]
EDITED: Sequence[Edited] = ("narrow", "wide", "keyed", "rated")
RATES: Sequence[tuple[int, int] | None] = (None, (1, 2), (1, 10), (2, 10), (3, 30))
"""Starts in so many seconds."""
Scheduled = Literal["tick", "tock"]
CRONS = ("* * * * *", "*/2 * * * *", "0 22-4 * * *")
"""The last one cannot be read."""
OVERLAPS = ("Allow", "Forbid", "Replace")
CATCH_UPS = (0, 90, 600)
Who = Literal["leader", "standby"]
Of = Literal["any", "same", "running", "grouped", "parent", "unique", "tick", "kept"]
"""Which Jobs a deed is about: the one of the deed on Jobs before it, those that run, that have not ended and are of a
group, whose children have not ended, that have not ended and are unique, or of a tick, or that a finalizer keeps; any,
where there is none of these."""


class _Value:
    """Prints itself with the fields that are not the default alone."""

    def __repr__(self) -> str:
        told = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class Child(_Value):
    """An enqueue within an attempt.

    Args:
        unique: None, "" for the key of its args, or a key.
        after: what it waits for, as ``group:a``, ``job:last`` or ``tree:last`` (the child before it), ``job:parent``,
            ``tree:parent``, ``tree:root``, or ``job:other``, the first Job that was ever asked for.
        finished: waits for their end alone.
    """

    pause: float = 0.0
    queue: Queued = "default"
    staged: bool = True
    unique: str | None = None
    key: str | None = None
    group: str | None = None
    after: Sequence[str] = ()
    finished: bool = False
    max_attempts: int | None = 1
    timeout: int | None = None
    ttl: int | None = None
    scripts: Sequence[int] = (0,)


@dataclass(frozen=True, repr=False)
class Script(_Value):
    """What the code of one attempt does.

    Args:
        reports: whether the SDK writes the outcome to the API before it exits.
        lingers: for so many seconds the container goes on after that.
        deaf: goes on after SIGTERM.
        obeys: ends at SIGTERM with exit code 0 and no outcome.
        stray: at last it sends an enqueue that it does not wait for, and that is none of its reported children.
        delay: what a retry or a snooze asks for, in seconds; a retry may leave it to the back-off.
    """

    work: float = 0.0
    end: str = "succeeded"
    children: Sequence[Child] = ()
    reports: bool = True
    lingers: float = 0.0
    deaf: bool = False
    obeys: bool = False
    stray: bool = False
    delay: float | None = 2.0


@dataclass(frozen=True, repr=False)
class Ask(_Value):
    """A Job without a parent.

    Args:
        after: which of the Jobs asked for by then, itself or the next one, if there will be one.
        tree: waits for their trees.
        run_at: seconds from now.
        kept: has a finalizer, so that it stays when it is deleted, until somebody lets it go.
    """

    pause: float = 0.0
    queue: Queued = "default"
    command: bool = False
    scripts: Sequence[int] = (0,)
    max_attempts: int | None = 1
    timeout: int | None = None
    base_seconds: int = 0
    priority: int = 0
    unique: str | None = None
    window: int = 0
    key: str | None = None
    after: Sequence[int] = ()
    tree: bool = False
    finished: bool = False
    suspend: bool = False
    ttl: int | None = None
    run_at: int = 0
    kept: bool = False


@dataclass(frozen=True, repr=False)
class EditJob(_Value):
    """Somebody changes a Job.

    Args:
        what: touch changes nothing that anybody looks at, but its version; rerun takes a cancel back; keep puts a
            finalizer on it, let go takes that away.
        ended: of those that have ended, if there are any; else of the others.
    """

    pause: float = 0.0
    job: int = 0
    of: Of = "any"
    what: Literal["cancel", "suspend", "resume", "priority", "touch", "rerun", "keep", "let go"] = "touch"
    value: int = 0
    ended: bool = False


@dataclass(frozen=True, repr=False)
class DeleteJob(_Value):
    """Somebody deletes a Job. ``anew``: one that has no parent and is of no tick is made again, in another queue."""

    pause: float = 0.0
    job: int = 0
    of: Of = "any"
    anew: bool = False


@dataclass(frozen=True, repr=False)
class EditQueue(_Value):
    """Somebody changes a queue. ``value``: the number; which of RATES; whether it is paused; 0 for no limit of keys, or
    for no default of its Jobs."""

    pause: float = 0.0
    queue: Edited = "narrow"
    what: Literal[
        "concurrency", "paused", "perKeyConcurrency", "rateLimit", "priority", "timeoutSeconds", "maxAttempts"
    ] = "concurrency"
    value: int = 0


@dataclass(frozen=True, repr=False)
class MakeSchedule(_Value):
    """A Schedule of that name, unless there is one. ``cron``, ``overlap``, ``catch_up``: which of those there are."""

    pause: float = 0.0
    name: Scheduled = "tick"
    cron: int = 0
    overlap: int = 0
    catch_up: int = 0
    suspend: bool = False
    queue: Queued = "default"
    scripts: Sequence[int] = (0,)
    timeout: int | None = None
    ttl: int | None = None


@dataclass(frozen=True, repr=False)
class EditSchedule(_Value):
    """Somebody changes a Schedule: its job's scripts, or to which of the crons, overlaps and catchUpSeconds."""

    pause: float = 0.0
    name: Scheduled = "tick"
    what: Literal["suspend", "resume", "cron", "overlap", "catchUpSeconds", "job"] = "suspend"
    value: int = 0


@dataclass(frozen=True, repr=False)
class DeleteSchedule(_Value):
    """Somebody deletes a Schedule."""

    pause: float = 0.0
    name: Scheduled = "tick"


@dataclass(frozen=True, repr=False)
class AwaitTick(_Value):
    """Nothing happens until the next full minute, and some seconds more or less."""

    pause: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True, repr=False)
class EditWorker(_Value):
    """Somebody changes the Worker, which is then checked anew."""

    pause: float = 0.0


@dataclass(frozen=True, repr=False)
class TakePod(_Value):
    """A pod is taken from its node, or out of the API."""

    pause: float = 0.0
    pod: int = 0
    how: Literal["evict", "pressure", "lose", "delete", "force"] = "delete"


@dataclass(frozen=True, repr=False)
class LoseNode(_Value):
    """All pods of a node are lost."""

    pause: float = 0.0
    node: int = 0


@dataclass(frozen=True, repr=False)
class Trouble(_Value):
    """The next ``times`` requests of that verb and kind go wrong. ``seconds``: how slow, or until the loss shows."""

    pause: float = 0.0
    who: Literal["operator-", "pod/"] = "operator-"
    what: tuple[str | None, str | None] = (None, None)
    times: int = 1
    kind: Literal["request", "answer", "slow", "late answer", "403", "429", "500", "503", "quota", "stale"] = "request"
    seconds: float = 0.0


@dataclass(frozen=True, repr=False)
class EndWatches(_Value):
    """Watches of operators end as they do in time, break, or are told 410."""

    pause: float = 0.0
    resource: str | None = None
    how: Literal["end", "break", "expire"] = "end"


@dataclass(frozen=True, repr=False)
class Lag(_Value):
    """From now on events of a kind take so long to operators; of no kind where None."""

    pause: float = 0.0
    resource: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, repr=False)
class Compact(_Value):
    """History is compacted, and with ``ended`` all watches break, so that none can go on."""

    pause: float = 0.0
    ended: bool = False


@dataclass(frozen=True, repr=False)
class Kill(_Value):
    """SIGKILL of an operator: now, or right before or after its ``write``-th write from now."""

    pause: float = 0.0
    who: Who = "leader"
    write: int = 0
    after: bool = False
    down: float = 0.0
    new_pod: bool = False


@dataclass(frozen=True, repr=False)
class Terminate(_Value):
    """SIGTERM of an operator."""

    pause: float = 0.0
    who: Who = "leader"
    down: float = 0.0


@dataclass(frozen=True, repr=False)
class Freeze(_Value):
    """SIGSTOP of an operator, and SIGCONT after some seconds.

    Args:
        hold: what it has sent and has not arrived, arrives only this long after its successor has raised the epoch.
    """

    pause: float = 0.0
    who: Who = "leader"
    seconds: float = 0.0
    hold: float | None = None


@dataclass(frozen=True, repr=False)
class Partition(_Value):
    """An operator reaches the API server no more, or with ``answers`` only the answers are lost."""

    pause: float = 0.0
    who: Who = "leader"
    seconds: float = 0.0
    answers: bool = False


@dataclass(frozen=True, repr=False)
class JumpClock(_Value):
    """The wall clock of an operator's machine is set."""

    pause: float = 0.0
    who: Who = "leader"
    seconds: int = 0


Deed = (
    Ask
    | EditJob
    | DeleteJob
    | EditQueue
    | EditWorker
    | MakeSchedule
    | EditSchedule
    | DeleteSchedule
    | AwaitTick
    | TakePod
    | LoseNode
    | Trouble
    | EndWatches
    | Lag
    | Compact
    | Kill
    | Terminate
    | Freeze
    | Partition
    | JumpClock
)


@dataclass(frozen=True, repr=False)
class Plan(_Value):
    """A whole life. Each deed follows ``pause`` seconds after the one before it.

    Args:
        seed: of UIDs and of how long pods take to start.
        skews: seconds by which each operator's wall clock is fast.
        fence_lag: seconds from the write of an epoch to the moment from which the fence goes by it.
        concurrency: of the queues narrow and wide.
        priorities: of these two.
        per_key: of the queue keyed, how many of a key.
        rate: of the queue rated, which of RATES.
        max_running_pods: the operators' own limit.
        timeout: the time-out of Jobs of the queue wide that say none.
        pod_ttls: for how long that queue keeps an ended pod, and the last failed attempt's.
        start_timeout: seconds within which an attempt has to start.
        slow_starts: of so many pods one takes longer than ten seconds to start; 0 for none.
        notice: seconds from a container's end to its status, and from that to the pod's phase.
        let_go: whether Jobs that a finalizer keeps are let go once all is mended; else when nothing happens any more.
        rest: seconds from the last deed to the moment from which everything is mended.
        last: what is asked for when all is mended, before anything that waits goes on.
    """

    seed: int = 0
    skews: tuple[float, float] = (0.0, 0.0)
    fence_lag: float = 0.0
    concurrency: tuple[int, int] = (1, 1)
    priorities: tuple[int, int] = (0, 0)
    per_key: int = 1
    rate: int = 1
    max_running_pods: int | None = None
    timeout: int | None = None
    pod_ttls: tuple[int, int] | None = None
    start_timeout: int = 300
    slow_starts: int = 0
    let_go: bool = False
    notice: tuple[float, float] = (0.05, 0.05)
    rest: float = 0.0
    last: Sequence[Ask] = ()
    scripts: Sequence[Script] = (Script(),)
    deeds: Sequence[Deed] = ()


def parse(text: str) -> Plan:
    """The plan that printed itself so.

    Raises:
        TypeError: it is no plan.
    """
    plan = eval(text, {"__builtins__": {}}, globals())
    if not isinstance(plan, Plan):
        raise TypeError(f"not a Plan: {text[:80]}")
    return plan
