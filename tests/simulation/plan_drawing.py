"""Draws plans: how often each thing is asked for, broken or changed, and how close together."""

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.simulation.plan import (
    CATCH_UPS,
    CRONS,
    EDITED,
    RATES,
    Ask,
    AwaitTick,
    Child,
    Compact,
    Deed,
    DeleteJob,
    DeleteSchedule,
    EditJob,
    EditQueue,
    EditSchedule,
    EditWorker,
    EndWatches,
    Freeze,
    JumpClock,
    Kill,
    Lag,
    LoseNode,
    MakeSchedule,
    Partition,
    Plan,
    Script,
    TakePod,
    Terminate,
    Trouble,
    Who,
)

T = TypeVar("T")

# The first value of a choice is what shrinking goes for; drawing must be cheap beside the run.

_ENDS = ("succeeded",) * 12 + ("failed",) * 4 + ("crashed", "retry", "snoozed", "fatal", "canceled")
_PAUSES = (0.0, 0.001, 0.003, 0.006, 0.02, 0.1, 0.25, 0.4, 0.6, 0.9, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0, 5.0)
_WORK = (0.0, 0.1, 0.5, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 6.0, 12.0, 25.0)
_indexes = st.integers(0, 15)
_resources = st.sampled_from(("questjobs", "pods", "pods", None, "questqueues"))
_who: SearchStrategy[Who] = st.sampled_from(("leader", "leader", "leader", "standby"))
_pauses = st.sampled_from(_PAUSES)
_scripts_of = st.lists(_indexes, min_size=1, max_size=3).map(tuple)
_down = st.sampled_from((0.0, 0.0, 0.5, 1.0, 4.0, 20.0))


def _some(strategy: SearchStrategy[T], most: int) -> SearchStrategy[Sequence[T]]:
    return st.lists(strategy, max_size=most).map(tuple)


_keys = st.sampled_from((None, "k", "k", "l"))
_timeouts = st.sampled_from((None,) * 9 + (1, 3, 5, 20))
_finished = st.sampled_from((False, False, True))
_plain = st.builds(
    Child,
    pause=st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0)),
    queue=st.sampled_from(("default", "narrow", "wide", "keyed", "rated")),
    staged=st.sampled_from((True, True, True, False)),
    unique=st.sampled_from((None, None, None, "a", "b", "")),
    key=_keys,
    group=st.sampled_from((None, "a")),
    max_attempts=st.sampled_from((1, 2, 5, None)),
    timeout=_timeouts,
    ttl=st.sampled_from((None, None, None, 0)),
    scripts=_scripts_of,
)
_AFTER = (
    ("tree:parent",),
    ("job:last",),
    ("tree:root",),
    ("tree:last",),
    ("job:parent",),
    ("group:b",),
    ("group:a", "job:last"),
    ("job:other",),
)
_joins = st.builds(
    Child,
    queue=st.sampled_from(("default", "narrow", "keyed")),
    key=_keys,
    group=st.sampled_from((None, None, "b")),
    after=st.one_of(st.just(("group:a",)), st.just(("group:a",)), st.sampled_from(_AFTER)),
    finished=_finished,
    scripts=_scripts_of,
)
_in_group = st.builds(
    Child,
    queue=st.sampled_from(("default", "narrow", "wide", "keyed")),
    group=st.just("a"),
    unique=st.sampled_from((None, None, None, "a")),
    max_attempts=st.sampled_from((1, 2)),
    ttl=st.sampled_from((None, 0)),
    scripts=_scripts_of,
)
_fan_outs = st.tuples(st.lists(_in_group, min_size=1, max_size=2), _joins).map(lambda some: (*some[0], some[1]))
_fan_ins = st.tuples(_joins, st.lists(_plain, max_size=2)).map(lambda some: (some[0], *some[1]))
_scripts = st.builds(
    Script,
    work=st.sampled_from(_WORK),
    end=st.sampled_from(_ENDS),
    children=st.one_of(st.just(()), st.just(()), st.just(()), _some(_plain, 3), _fan_outs, _fan_ins),
    reports=st.sampled_from((True, True, True, True, False)),
    lingers=st.sampled_from((0.0,) * 12 + (4.0, 20.0, 45.0, 100.0)),
    deaf=st.sampled_from((False, False, True)),
    obeys=st.sampled_from((False,) * 5 + (True,)),
    stray=st.sampled_from((False,) * 7 + (True,)),
    delay=st.sampled_from((2.0, 0.0, 5.0, None, 12.0)),
)
_asks = st.builds(
    Ask,
    pause=st.sampled_from((0.0, 0.0, 0.0, 0.004, 0.3, 1.0)),
    queue=st.sampled_from(
        ("default", "narrow", "keyed", "wide", "rated", "default", "narrow", "later", "keyed", "rated", "wide")
    ),
    command=st.sampled_from((False,) * 5 + (True,)),
    scripts=_scripts_of,
    max_attempts=st.sampled_from((1, 3, 5, None)),
    timeout=_timeouts,
    base_seconds=st.sampled_from((0, 1, 2)),
    priority=st.sampled_from((0, 0, 0, 5, -5)),
    unique=st.sampled_from((None, None, None, "a", "b", "a", "b", "")),
    window=st.sampled_from((0, 0, 5, 30, 30)),
    key=_keys,
    after=st.one_of(st.just(()), st.just(()), st.lists(_indexes, min_size=1, max_size=2, unique=True).map(tuple)),
    tree=st.booleans(),
    finished=_finished,
    suspend=st.sampled_from((False,) * 9 + (True,)),
    ttl=st.sampled_from((None,) * 4 + (0, 1)),
    run_at=st.sampled_from((0,) * 7 + (3, 15)),
    kept=st.sampled_from((False,) * 11 + (True,)),
)
# When all is mended whatever could start has to, and in order.
_last_asks = st.builds(
    Ask,
    queue=st.sampled_from(("keyed", "keyed", "keyed", "narrow", "wide")),
    key=st.sampled_from(("k", "k", "k", "l", None)),
    scripts=_scripts_of,
    priority=st.sampled_from((0, 0, 5)),
)
_edits = st.builds(
    EditJob,
    pause=_pauses,
    job=_indexes,
    what=st.sampled_from(("touch", "priority", "resume", "suspend", "cancel", "cancel")),
    value=st.sampled_from((0, 9, -9)),
    ended=st.sampled_from((False, False, False, True)),
)
_reruns = st.builds(
    EditJob, pause=_pauses, job=_indexes, what=st.just("rerun"), ended=st.sampled_from((True, True, False))
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
    ("patch", "questschedules"),
    ("delete", "questjobs"),
)
_troubles = st.builds(
    Trouble,
    pause=_pauses,
    who=st.sampled_from(("operator-", "operator-", "pod/")),
    what=st.sampled_from(_REQUESTS),
    times=st.integers(1, 6),
    kind=st.sampled_from(
        ("request", "answer", "answer", "slow", "slow", "late answer", "403", "429", "500", "503", "quota", "stale")
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
_QUEUE_EDITS = (
    *((queue, "concurrency", value) for queue in EDITED for value in range(5)),
    *((queue, "paused", value) for queue in EDITED for value in (0, 1)),
    *((queue, "perKeyConcurrency", value) for queue in ("keyed", "keyed", "narrow") for value in range(3)),
    *((queue, "rateLimit", value) for queue in ("rated", "wide") for value in range(len(RATES))),
    *((queue, "priority", value) for queue in ("narrow", "wide") for value in (0, 3)),
    *(("wide", "timeoutSeconds", value) for value in (0, 2, 5, 20)),
    *((queue, "maxAttempts", value) for queue in ("narrow", "wide") for value in (0, 1, 2)),
)
_queue_edits = st.builds(
    lambda pause, edit: EditQueue(pause, *edit),
    _pauses,
    st.sampled_from(_QUEUE_EDITS),
)
_schedules = st.builds(
    MakeSchedule,
    pause=_pauses,
    name=st.sampled_from(("tick", "tick", "tock")),
    cron=st.sampled_from((0,) * 8 + (1, 2)),
    overlap=st.sampled_from((0, 1, 1, 2, 2)),
    catch_up=st.integers(0, len(CATCH_UPS) - 1),
    suspend=st.sampled_from((False,) * 7 + (True,)),
    queue=st.sampled_from(("default", "narrow", "wide", "keyed")),
    scripts=st.one_of(st.just((-3,)), st.just((-4,)), st.just((-4,)), _scripts_of),
    timeout=_timeouts,
    ttl=st.sampled_from((0, None)),
)
_LONG = (Script(work=0.5, children=(Child(scripts=(-3,)),)), Script(work=150.0))
"""Scripts of a life with Schedules: a run, or what it has enqueued, that is not over at the next tick."""
_ticks = st.builds(AwaitTick, offset=st.sampled_from((0.0, 0.004, 0.1, 0.3, 1.0, 2.5, 6.0, -0.5, -3.0)))
# An operator falls between the writes of a tick, or cannot note that its Job was made until that one is gone; or a
# finalizer keeps the Job of one when the next comes.
_tick_falls = st.one_of(
    st.builds(
        lambda write, after, down: (AwaitTick(offset=-0.5), Kill(write=write, after=after, down=down)),
        st.integers(1, 3),
        st.booleans(),
        _down,
    ),
    st.builds(
        lambda lost, pause: (
            AwaitTick(offset=-0.5),
            Trouble(what=("patch", "questschedules"), times=9, kind=lost, seconds=2.0),
            Kill(pause=pause),
        ),
        st.sampled_from(("request", "503")),
        st.sampled_from((8.0, 12.0, 16.0)),
    ),
    st.builds(
        lambda offset, job: (
            AwaitTick(offset=offset),
            EditJob(job=job, what="keep", of="tick"),
            DeleteJob(of="same"),
            AwaitTick(offset=3.0),
        ),
        st.sampled_from((1.0, 6.0)),
        _indexes,
    ),
)
_schedule_edits = st.one_of(
    _ticks,
    _ticks,
    _ticks,
    _schedules,
    st.builds(
        EditSchedule,
        pause=_pauses,
        name=st.sampled_from(("tick", "tick", "tock")),
        what=st.sampled_from(("suspend", "resume", "resume", "cron", "overlap", "catchUpSeconds", "job")),
        value=st.integers(0, len(CRONS) - 1),
    ),
    st.builds(DeleteSchedule, pause=_pauses, name=st.sampled_from(("tick", "tock"))),
)
_FAN_IN = Script(work=0.1, children=(Child(after=("group:a",)), Child(pause=0.5, group="a"), Child(group="a")))
_DEAF = Script(work=25.0, deaf=True)
_LAST_SCRIPTS = (_FAN_IN, _DEAF)
"""The last scripts of every life, -2 and -1; those of a life with Schedules are -4 and -3."""
_soon = st.sampled_from((0.0, 0.004, 0.1, 0.3, 1.0))
_of_key = st.builds(Ask, queue=st.just("keyed"), key=st.just("k"), scripts=_scripts_of)
_more: SearchStrategy[Sequence[Deed]] = st.one_of(
    st.just(()),
    st.builds(
        lambda pause, what: (EditJob(pause=pause, what=what, of="same"),),
        _pauses,
        st.sampled_from(("cancel", "rerun", "touch")),
    ),
)
_let_go: SearchStrategy[Sequence[Deed]] = st.one_of(
    st.just(()),
    st.builds(lambda pause, job: (EditJob(pause=pause, job=job, what="let go", of="kept"),), _pauses, _indexes),
)
_rated = st.builds(Ask, queue=st.just("rated"), scripts=_scripts_of)
# What breaks a promise only in a certain order, and is too rare where every deed is drawn by itself.
_in_a_row: SearchStrategy[Sequence[Deed]] = st.one_of(
    # A Job is deleted whose pod goes on, and the next of its key is there.
    st.tuples(
        st.just(Ask(queue="keyed", key="k", scripts=(-1,))),
        st.builds(DeleteJob, pause=st.sampled_from((0.3, 1.0, 2.0, 3.0)), job=_indexes, of=st.just("running")),
        _of_key,
        _of_key,
    ),
    # The next leader is there before a rate's period is over.
    st.tuples(_rated, _rated, _rated, st.builds(Terminate, pause=st.sampled_from((0.1, 1.0, 2.0, 4.0)))),
    # A join is known, and what it waits for is not yet.
    st.tuples(
        st.builds(Lag, resource=st.just("questjobs"), seconds=st.sampled_from((3.0, 8.0))),
        st.just(Ask(scripts=(-2,))),
        st.builds(Lag, pause=st.sampled_from((5.0, 13.0, 17.0)), resource=st.just("questjobs")),
    ),
    st.tuples(st.builds(DeleteJob, pause=_pauses, job=_indexes, of=st.just("grouped"))),
    # A write was applied, and its repeat is refused before anything is looked at.
    st.tuples(
        st.builds(
            Trouble,
            pause=_pauses,
            what=st.sampled_from((("patch", "questjobs"), ("create", "pods"), ("patch", "questschedules"))),
            kind=st.sampled_from(("answer", "late answer")),
        ),
        st.builds(
            Trouble,
            what=st.sampled_from((("patch", "questjobs"), ("get", "pods"), ("get", "questjobs"))),
            times=st.integers(1, 3),
            kind=st.just("403"),
        ),
    ),
    # A Job is deleted and made anew while nobody watches.
    st.tuples(
        st.builds(EndWatches, pause=_pauses, resource=st.just("questjobs"), how=st.sampled_from(("break", "expire"))),
        st.builds(DeleteJob, job=_indexes, anew=st.just(True)),
        st.just(Compact()),
    ),
    # A Job is deleted and a finalizer keeps it, whatever else becomes of it; perhaps it is let go in time.
    *[
        st.builds(
            lambda keep, delete, more, let_go: (keep, delete, *more, *let_go),
            st.builds(
                EditJob,
                pause=_pauses,
                job=_indexes,
                what=st.just("keep"),
                of=of,
                ended=st.sampled_from((False, False, True)),
            ),
            st.builds(DeleteJob, pause=_soon, of=st.just("same")),
            _more,
            _let_go,
        )
        for of in (st.just("running"), st.sampled_from(("any", "parent", "unique", "grouped")))
    ],
    # The next of its key is there when one that failed is kept.
    st.builds(
        lambda first, delete, second: (first, delete, second),
        st.builds(
            Ask,
            unique=st.just("a"),
            max_attempts=st.just(5),
            base_seconds=st.sampled_from((2, 30)),
            kept=st.just(True),
            scripts=_scripts_of,
        ),
        st.builds(DeleteJob, pause=st.sampled_from((0.0, 2.0, 5.0)), job=_indexes, of=st.just("unique")),
        st.builds(Ask, pause=st.sampled_from((0.0, 3.0)), unique=st.just("a"), scripts=_scripts_of),
    ),
    # Somebody takes a cancel back before it has gone through the tree.
    st.tuples(
        st.builds(EditJob, pause=_pauses, job=_indexes, what=st.just("cancel"), of=st.just("parent")),
        st.builds(EditJob, pause=_soon, what=st.just("rerun"), of=st.just("same")),
    ),
)
# Each of these choices is as likely as any other; what is wanted more often stands here more often.
_deeds: SearchStrategy[Deed] = st.one_of(
    _edits,
    _edits,
    _reruns,
    _reruns,
    _asks,
    _takes,
    _takes,
    _takes,
    _troubles,
    _troubles,
    _troubles,
    _troubles,
    st.builds(DeleteJob, pause=_pauses, job=_indexes),
    st.builds(DeleteJob, pause=_pauses, job=st.integers(0, 3), anew=st.booleans()),
    _queue_edits,
    _queue_edits,
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
    # Ticks are a minute apart: lives with a Schedule are long, so not all are.
    scheduled = draw(st.sampled_from((False, False, True)))
    if scheduled:
        deeds += (draw(_schedules), draw(_schedules))
    # An operator falls between other deeds, not at each: most of what happens needs one that works.
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        deeds += drawn(_deeds, 3, 10) + tuple(draw(_some(_falls, 2)))
        deeds += tuple(deed for row in draw(_some(_in_a_row, 2)) for deed in row)
        if scheduled:
            deeds += drawn(_schedule_edits, 1, 5) + draw(_tick_falls) + drawn(_falls, 1, 1) + (draw(_ticks),)
    return Plan(
        seed=draw(st.integers(0, 999)),
        skews=draw(st.tuples(*[st.sampled_from((0.0, 0.0, 1.5, -1.5))] * 2)),
        fence_lag=draw(st.sampled_from((0.0, 0.003, 0.004, 0.005))),
        concurrency=draw(st.tuples(st.integers(1, 2), st.integers(2, 5))),
        priorities=draw(st.sampled_from(((0, 0), (0, 3), (3, 0)))),
        per_key=draw(st.integers(1, 2)),
        rate=draw(st.integers(1, len(RATES) - 1)),
        max_running_pods=draw(st.sampled_from((None, None, 2, 4))),
        timeout=draw(st.sampled_from((None, None, None, 3, 10))),
        pod_ttls=draw(st.sampled_from((None, (0, 60), (5, 30)))),
        start_timeout=draw(st.sampled_from((300, 300, 10))),
        slow_starts=draw(st.sampled_from((0, 0, 0, 12))),
        let_go=draw(st.booleans()),
        notice=draw(st.tuples(*[st.sampled_from((0.05, 0.3, 1.0, 2.0))] * 2)),
        last=tuple(draw(st.lists(_last_asks, min_size=4, max_size=8))),
        rest=draw(st.sampled_from((0.0, 5.0, 20.0, 40.0))),
        scripts=(drawn(_scripts, 2, 6) or (Script(),)) + (_LONG if scheduled else ()) + _LAST_SCRIPTS,
        deeds=deeds,
    )
