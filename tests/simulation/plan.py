"""What a random life of the simulated cluster consists of: all that is asked, that breaks, and that tasks do.

A `Plan` is plain values, and a run is a pure function of it. Deeds name a Job, a pod or a replica by a number, taken
modulo what exists at that moment, so that a plan stays a plan whatever shrinking takes out of it. Its repr is Python
that makes it again: paste it into a test, or give it to `python -m tests.simulation.campaign --plan`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

QUEUES = ("default", "narrow", "wide", "later")
"""The queue `later` is made when everything is mended."""
Who = Literal["leader", "standby"]


class _Value:
    """Prints itself with the fields that are not the default alone."""

    def __repr__(self) -> str:
        told = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class Child(_Value):
    """An enqueue within an attempt. ``unique``: None, "" for the key of its args, or a key."""

    pause: float = 0.0
    queue: str = "default"
    staged: bool = True
    unique: str | None = None
    max_attempts: int = 1
    scripts: Sequence[int] = (0,)


@dataclass(frozen=True, repr=False)
class Script(_Value):
    """What the code of one attempt does.

    Args:
        reports: whether the SDK writes the outcome to the API before it exits.
        deaf: goes on after SIGTERM.
        stray: at last it sends an enqueue that it does not wait for, and that is none of its reported children.
    """

    work: float = 0.0
    end: str = "succeeded"
    children: Sequence[Child] = ()
    reports: bool = True
    deaf: bool = False
    stray: bool = False


@dataclass(frozen=True, repr=False)
class Ask(_Value):
    """A Job without a parent. ``after``: which of the Jobs asked for before; ``run_at``: seconds from now."""

    pause: float = 0.0
    queue: str = "default"
    command: bool = False
    scripts: Sequence[int] = (0,)
    max_attempts: int = 1
    base_seconds: int = 0
    priority: int = 0
    unique: str | None = None
    window: int = 0
    after: Sequence[int] = ()
    finished: bool = False
    suspend: bool = False
    ttl: int | None = None
    run_at: int = 0


@dataclass(frozen=True, repr=False)
class EditJob(_Value):
    """Somebody changes a Job. ``touch`` changes nothing that anybody looks at, but its version."""

    pause: float = 0.0
    job: int = 0
    what: Literal["cancel", "suspend", "resume", "priority", "touch"] = "touch"
    value: int = 0


@dataclass(frozen=True, repr=False)
class DeleteJob(_Value):
    """Somebody deletes a Job."""

    pause: float = 0.0
    job: int = 0


@dataclass(frozen=True, repr=False)
class EditQueue(_Value):
    """Somebody changes a queue: its concurrency, or with None whether it is paused."""

    pause: float = 0.0
    queue: Literal["narrow", "wide"] = "narrow"
    concurrency: int | None = None
    paused: bool = False


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
    kind: Literal["request", "answer", "slow", "late answer", "429", "500", "503", "quota", "stale"] = "request"
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
        notice: seconds from a container's end to its status, and from that to the pod's phase.
        rest: seconds from the last deed to the moment from which everything is mended.
    """

    seed: int = 0
    skews: tuple[float, float] = (0.0, 0.0)
    fence_lag: float = 0.0
    concurrency: tuple[int, int] = (1, 1)
    notice: tuple[float, float] = (0.05, 0.05)
    rest: float = 0.0
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


# Strategies. The first value of a choice is what shrinking goes for; drawing must be cheap beside the run.

_ENDS = ("succeeded",) * 12 + ("failed",) * 4 + ("crashed", "retry", "snoozed", "fatal", "canceled")
_PAUSES = (0.0, 0.001, 0.003, 0.006, 0.02, 0.1, 0.25, 0.4, 0.6, 0.9, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0, 5.0)
_WORK = (0.0, 0.1, 0.5, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 6.0)
_indexes = st.integers(0, 15)
_resources = st.sampled_from(("questjobs", "pods", "pods", None, "questqueues"))
_who: SearchStrategy[Who] = st.sampled_from(("leader", "leader", "leader", "standby"))
_pauses = st.sampled_from(_PAUSES)
_scripts_of = st.lists(_indexes, min_size=1, max_size=3).map(tuple)
_down = st.sampled_from((0.0, 0.0, 0.5, 1.0, 4.0, 20.0))


def _some(strategy: SearchStrategy[T], most: int) -> SearchStrategy[Sequence[T]]:
    return st.lists(strategy, max_size=most).map(tuple)


_children = st.builds(
    Child,
    pause=st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0)),
    queue=st.sampled_from(("default", "narrow", "wide")),
    staged=st.sampled_from((True, True, True, False)),
    unique=st.sampled_from((None, None, None, "a", "b", "")),
    max_attempts=st.sampled_from((1, 2, 5)),
    scripts=_scripts_of,
)
_scripts = st.builds(
    Script,
    work=st.sampled_from(_WORK),
    end=st.sampled_from(_ENDS),
    children=st.one_of(st.just(()), st.just(()), _some(_children, 3)),
    reports=st.sampled_from((True, True, True, True, False)),
    deaf=st.sampled_from((False, False, False, False, True)),
    stray=st.sampled_from((False,) * 7 + (True,)),
)
_asks = st.builds(
    Ask,
    pause=st.sampled_from((0.0, 0.0, 0.0, 0.004, 0.3, 1.0)),
    queue=st.sampled_from(("default", "narrow", "narrow", "wide", "wide", "default", "narrow", "later")),
    command=st.sampled_from((False,) * 5 + (True,)),
    scripts=_scripts_of,
    max_attempts=st.sampled_from((1, 3, 5)),
    base_seconds=st.sampled_from((0, 1, 2)),
    priority=st.sampled_from((0, 0, 0, 5, -5)),
    unique=st.sampled_from((None, None, None, "a", "b", "a", "b", "")),
    window=st.sampled_from((0, 0, 5, 30, 30)),
    after=st.one_of(st.just(()), st.just(()), st.lists(_indexes, min_size=1, max_size=2, unique=True).map(tuple)),
    finished=st.booleans(),
    suspend=st.sampled_from((False,) * 9 + (True,)),
    ttl=st.sampled_from((None,) * 4 + (0, 1)),
    run_at=st.sampled_from((0,) * 7 + (3, 15)),
)
_edits = st.builds(
    EditJob,
    pause=_pauses,
    job=_indexes,
    what=st.sampled_from(("touch", "priority", "resume", "suspend", "cancel", "cancel")),
    value=st.sampled_from((0, 9, -9)),
)
_REQUESTS: tuple[tuple[str | None, str | None], ...] = (
    ("patch", "questjobs"),
    ("create", "pods"),
    ("patch", "questjobs"),
    ("create", "pods"),
    (None, None),
    ("create", "questjobs"),
    ("delete", "pods"),
    ("get", "pods"),
    ("get", "questjobs"),
    ("list", None),
    ("watch", None),
    ("replace", None),
    ("patch", "questworkers"),
    ("delete", "questjobs"),
)
_troubles = st.builds(
    Trouble,
    pause=_pauses,
    who=st.sampled_from(("operator-", "operator-", "pod/")),
    what=st.sampled_from(_REQUESTS),
    times=st.integers(1, 6),
    kind=st.sampled_from(
        ("request", "answer", "answer", "slow", "slow", "late answer", "429", "500", "503", "quota", "stale")
    ),
    seconds=st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)),
)
_kills = st.builds(
    Kill, pause=_pauses, who=_who, write=st.integers(0, 12), after=st.booleans(), down=_down, new_pod=st.booleans()
)
_freezes = st.builds(
    Freeze,
    pause=_pauses,
    who=_who,
    seconds=st.sampled_from((0.5, 3.0, 8.0, 9.9, 10.1, 14.0, 15.5, 17.0, 20.0, 30.0)),
    hold=st.sampled_from((None, 0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.008, 0.1, 2.0)),
)
_takes = st.builds(
    TakePod, pause=_pauses, pod=_indexes, how=st.sampled_from(("delete", "force", "evict", "pressure", "lose"))
)
_queues = st.sampled_from(("narrow", "wide"))
# Each of these choices is as likely as any other; what is wanted more often stands here more often.
_deeds: SearchStrategy[Deed] = st.one_of(
    _edits,
    _edits,
    _asks,
    _takes,
    _takes,
    _takes,
    _troubles,
    _troubles,
    _troubles,
    _troubles,
    st.builds(DeleteJob, pause=_pauses, job=_indexes),
    st.builds(EditQueue, pause=_pauses, queue=_queues, concurrency=st.integers(0, 4)),
    st.builds(EditQueue, pause=_pauses, queue=_queues, paused=st.booleans()),
    st.builds(EditWorker, pause=_pauses),
    st.builds(EndWatches, pause=_pauses, resource=_resources, how=st.sampled_from(("end", "break", "break", "expire"))),
    st.builds(Lag, pause=_pauses, resource=_resources, seconds=st.sampled_from((0.0, 0.05, 0.5, 3.0, 8.0, 13.0))),
    st.builds(Compact, pause=_pauses, ended=st.booleans()),
    st.builds(LoseNode, pause=_pauses, node=_indexes),
    st.builds(JumpClock, pause=_pauses, who=_who, seconds=st.sampled_from((1, -1, 10, -10, 60, -60))),
)
_falls: SearchStrategy[Deed] = st.one_of(
    _kills,
    _kills,
    _kills,
    _freezes,
    _freezes,
    st.builds(Terminate, pause=_pauses, who=_who, down=_down),
    st.builds(
        Partition, pause=_pauses, who=_who, seconds=st.sampled_from((1.0, 5.0, 9.0, 12.0, 20.0)), answers=st.booleans()
    ),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of some ten Jobs and some thirty deeds. Lists in a row, since Hypothesis takes single ones for short."""

    def drawn(strategy: SearchStrategy[Any], times: int, most: int) -> tuple[Any, ...]:
        return tuple(one for _ in range(times) for one in draw(_some(strategy, most)))

    deeds = drawn(_asks, 3, 8)
    # An operator falls between other deeds, not at each: most of what happens needs one that works.
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        deeds += drawn(_deeds, 3, 10) + tuple(draw(_some(_falls, 2)))
    return Plan(
        seed=draw(st.integers(0, 999)),
        skews=draw(st.tuples(*[st.sampled_from((0.0, 0.0, 1.5, -1.5))] * 2)),
        fence_lag=draw(st.sampled_from((0.0, 0.003, 0.004, 0.005))),
        concurrency=draw(st.tuples(st.integers(1, 2), st.integers(2, 5))),
        notice=draw(st.tuples(*[st.sampled_from((0.05, 0.3, 1.0, 2.0))] * 2)),
        rest=draw(st.sampled_from((0.0, 5.0, 20.0, 40.0))),
        scripts=drawn(_scripts, 2, 6) or (Script(),),
        deeds=deeds,
    )
