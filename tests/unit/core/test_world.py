"""The indexes stay right under any sequence of changes: a world that lived through them equals one made anew."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from questline_operator.core.pod import Pod
from questline_operator.core.records import ANNOTATION_REPLACES, ANNOTATION_SCHEDULE_UID, ANNOTATION_TICK, Job, Tick
from questline_operator.core.tallies import Standing, Tally, counts, standing_of
from questline_operator.core.world import UniqueKey, World, newest_first
from tests.unit.core.builders import T0, a_job, a_pod, a_world, child_of, put, time_of, uid_of

NAMES = ("a", "b", "c", "d")
QUEUES = ("default", "media")
CONCURRENCY_KEYS = ("", "x", "y")
STATES = ("Waiting", "Starting", "Running", "Succeeded", "Failed", "Canceled", "Skipped")
KEYS: list[UniqueKey] = [
    ("default", what, f"key:{key}") for what in ("task:tasks:work", "command:true") for key in ("k", "l")
]


VARIANTS = ("", "2")
GROUPS = ("g", "h")
GROUP_KEYS = [
    ("default", uid_of(name) + variant, 1, "p", group) for name in NAMES for variant in VARIANTS for group in GROUPS
]


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """What never changes while a Job has its UID."""
    spec: dict[str, Any] = {"queue": draw(st.sampled_from(QUEUES))}
    if draw(st.booleans()):
        spec["command"] = ["true"]
    if draw(st.booleans()):
        parent = draw(st.sampled_from(NAMES))
        uid = uid_of(parent) + draw(st.sampled_from(VARIANTS))
        index = draw(st.integers(0, 2))
        spec["parent"] = {"name": parent, "uid": uid, "attempt": 1, "podUID": "p", "index": index}
        if draw(st.booleans()):
            spec["parent"]["group"] = draw(st.sampled_from(GROUPS))
    if draw(st.booleans()):
        spec["unique"] = {"key": draw(st.sampled_from("kl"))}
    if key := draw(st.sampled_from(CONCURRENCY_KEYS)):
        spec["key"] = key
    spec["after"] = [{"job": other} for other in sorted(draw(st.sets(st.sampled_from(NAMES), max_size=2)))]
    spec["after"] += [{"group": group} for group in sorted(draw(st.sets(st.sampled_from(GROUPS), max_size=2)))]
    spec["after"] += [{"tree": root} for root in sorted(draw(st.sets(st.sampled_from(NAMES), max_size=2)))]
    return spec


SPECS = st.shared(
    st.fixed_dictionaries({(name, variant): specs() for name in NAMES for variant in VARIANTS}), key="specs"
)


ANNOTATIONS: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.builds(
        lambda uid, minute, replaces: {
            ANNOTATION_SCHEDULE_UID: uid,
            ANNOTATION_TICK: time_of(60.0 * minute),
            ANNOTATION_REPLACES: replaces,
        },
        st.sampled_from("st"),
        st.integers(0, 5),
        st.sampled_from(["true", "false"]),
    ),
)
TICKS = st.shared(
    st.fixed_dictionaries({(name, variant): ANNOTATIONS for name in NAMES for variant in VARIANTS}), key="ticks"
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any Job under one of a few names, so that one replaces another, by a newer record or by a new Job."""
    name, variant = draw(st.sampled_from(NAMES)), draw(st.sampled_from(VARIANTS))
    status: dict[str, Any] = {"state": draw(st.sampled_from(STATES))}
    status["attempt"] = 0 if status["state"] == "Skipped" else draw(st.integers(0, 2))
    if status["state"] == "Skipped" and draw(st.booleans()):
        status["duplicateOf"] = draw(st.sampled_from(NAMES))
    elif status["state"] == "Skipped":
        status["reason"] = draw(st.sampled_from(["ParentFailed", "UpstreamFailed"]))
        if status["reason"] == "UpstreamFailed":
            status["upstream"] = {"name": draw(st.sampled_from(NAMES)), "uid": "u", "finishes": 1}
    created = len(variant)
    job = a_job(name, uid=uid_of(name) + variant, created=created, spec=draw(SPECS)[name, variant], **status)
    tick = draw(TICKS)[name, variant]
    return Job.parse({**job.raw, "metadata": {**job.raw["metadata"], "annotations": tick}})


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    """Any pod of one of those Jobs, live or not."""
    name = draw(st.sampled_from(NAMES))
    job = a_job(name, uid=uid_of(name) + draw(st.sampled_from(VARIANTS)), attempt=1)
    ends: list[dict[str, Any]] = [{}, {"running": 1}, {"exit_code": 0}, {"running": 1, "gone": True}]
    end = draw(st.sampled_from(ends))
    queue, key = draw(st.sampled_from(QUEUES)), draw(st.sampled_from(CONCURRENCY_KEYS))
    owner = draw(st.sampled_from([job.uid, ""]))
    return a_pod(job, attempt=draw(st.integers(0, 2)), queue=queue, owner=owner, concurrency_key=key, **end)


Change = Callable[[World], object]


def _removal(name: str) -> Change:
    return lambda world: world.remove_job(("default", name))


def _question(name: str) -> Change:
    """Trees are counted from the first question on."""
    return lambda world: world.tree(world.jobs["default", name]) if ("default", name) in world.jobs else None


def _removal_of_pod(place: int) -> Change:
    return lambda world: world.remove_pod(sorted(world.pods)[place % len(world.pods)]) if world.pods else None


CHANGES: st.SearchStrategy[Change] = st.one_of(
    jobs().map(lambda job: lambda world: world.put_job(job)),
    jobs().map(lambda job: lambda world: world.put_job(job)),
    pods().map(lambda pod: lambda world: world.put_pod(pod)),
    st.sampled_from(NAMES).map(_removal),
    st.sampled_from(NAMES).map(_question),
    st.sampled_from(NAMES).map(_question),
    st.integers(0, 9).map(_removal_of_pod),
)


def _replacement(world: World, uid: str, minute: int) -> Job | None:
    return world.replacement_after(Tick(uid, T0 + 60.0 * minute, replaces=False))


def view(world: World) -> dict[str, Any]:
    """Everything that the indexes answer, in an order of its own."""
    by_name = {job.name: job for job in world.jobs.values()}
    queues = [("default", queue) for queue in QUEUES]

    def names(found: Any) -> list[str]:
        return sorted(record.name for record in found)

    return {
        "children": {name: names(world.children_of(job)) for name, job in by_name.items()},
        "descendants": {name: names(world.descendants_of(job)) for name, job in by_name.items()},
        "parents": {name: parent.name if (parent := world.parent_of(job)) else "" for name, job in by_name.items()},
        "dependants": {name: names(world.dependants_of(("default", name))) for name in NAMES},
        "skipped for": {name: names(world.skipped_for(("default", name))) for name in NAMES},
        "group dependants": {key: names(world.group_dependants(key)) for key in GROUP_KEYS},
        "tree dependants": {name: names(world.tree_dependants(("default", name))) for name in NAMES},
        "groups": {key: standings(world.group(key)) for key in GROUP_KEYS},
        "trees": {name: standings(world.tree(job)) for name, job in by_name.items()},
        "duplicates": {name: names(world.duplicates_of(("default", name))) for name in NAMES},
        "unfinished": {queue: names(world.unfinished_of_queue(queue)) for queue in queues},
        "active": {queue: names(world.active_of_queue(queue)) for queue in queues},
        "finished": {queue: names(world.finished_of_queue(queue)) for queue in queues},
        "queues": world.queue_keys(),
        "unclaimed": {key: [job.name for job in world.unclaimed_rivals(key)] for key in KEYS},
        "admitted": {key: names(world.admitted_rivals(key)) for key in KEYS},
        "pods": {name: names(world.pods_of_job(("default", name))) for name in NAMES},
        "live pods": {queue: names(world.live_pods_of_queue(queue)) for queue in queues},
        "slots": {queue: world.slots_held(queue) for queue in queues},
        "slots of keys": {(queue, key): world.slots_of_key(queue, key) for queue in queues for key in "xy"},
        "running pods": world.running_pods(),
        "ticks": {uid: names(world.jobs_of_schedule(uid)) for uid in "st"},
        "replacements": {
            (uid, minute): replacement.tick if (replacement := _replacement(world, uid, minute)) else None
            for uid in "st"
            for minute in range(-1, 6)
        },
    }


def standings(tally: Tally) -> dict[str, list[str]]:
    """Who stands where; the counts and the lists of a tally must say the same."""
    found: dict[str, list[str]] = {}
    for standing in Standing:
        alone = [key for key in tally if tally.count(standing) - tally.count(standing, without=key)]
        assert len(alone) == tally.count(standing)
        found[standing.name] = sorted(name for _, name in alone)
    assert sum(len(names) for names in found.values()) == len(tally)
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=10))
def test_a_world_after_any_changes_equals_one_made_anew(changes: list[Change]) -> None:
    world = World()
    for change in changes:
        change(world)

        assert view(world) == view(a_world(*world.jobs.values(), *world.pods.values()))


@settings(max_examples=50, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=10))
def test_a_world_whose_records_are_all_removed_holds_nothing(changes: list[Change]) -> None:
    """Not even an empty set a key: an operator runs for months."""
    world = World()
    for change in changes:
        change(world)
    for key in list(world.jobs):
        world.remove_job(key)
    for key in list(world.pods):
        world.remove_pod(key)

    assert {name: value for name, value in vars(world).items() if value} == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(jobs(), pods()), max_size=12))
def test_the_indexes_agree_with_a_search_through_all(records: list[Job | Pod]) -> None:
    world = a_world(*records)
    everyone = list(world.jobs.values())

    for queue in (("default", name) for name in QUEUES):
        mine = [job for job in everyone if job.queue_key == queue]
        assert {job.name for job in world.active_of_queue(queue)} == {job.name for job in mine if job.active}
        assert {job.name for job in world.finished_of_queue(queue)} == {job.name for job in mine if job.terminal}
    for key in KEYS:
        rivals = [job for job in everyone if world.unique_key(job) == key]
        unclaimed = [job for job in rivals if not job.admitted and not job.terminal]
        assert list(world.unclaimed_rivals(key)) == sorted(unclaimed, key=lambda job: job.order)
        assert {job.name for job in world.admitted_rivals(key)} == {job.name for job in rivals if job.admitted}
    for uid in "st":
        ticks = [job.tick for job in everyone if job.tick and job.tick.schedule_uid == uid]
        for minute in range(-1, 6):
            later = [tick.at for tick in ticks if tick.replaces and tick.at > T0 + 60.0 * minute]
            found = _replacement(world, uid, minute)
            assert (found.tick.at if found and found.tick else None) == max(later, default=None)
    for name in NAMES:
        dependants = {job.name for job in everyone for one in job.after if one.name == name and one.kind != "group"}
        assert {job.name for job in world.dependants_of(("default", name))} == dependants


@settings(max_examples=100, deadline=None)
@given(st.lists(CHANGES, max_size=12))
def test_groups_and_trees_are_what_a_walk_through_all_finds(changes: list[Change]) -> None:
    world = World()
    for change in changes:
        change(world)
    everyone = list(world.jobs.values())

    def is_left_behind(job: Job) -> bool:
        parent = next((one for one in everyone if job.parent and one.uid == job.parent.uid), None)
        if parent is None or job.parent is None or not job.terminal or job.attempt:
            return False
        runs = parent.active and parent.attempt == job.parent.attempt
        return not runs and not parent.attempt_succeeded(job.parent.attempt)

    def expected(members: list[Job]) -> dict[str, list[str]]:
        return {
            standing.name: sorted(
                job.name
                for job in members
                if counts(job) and not is_left_behind(job) and standing_of(world.original_of(job)) is standing
            )
            for standing in Standing
        }

    for key in GROUP_KEYS:
        assert standings(world.group(key)) == expected([job for job in everyone if job.group == key])
    for root in everyone:
        assert standings(world.tree(root)) == expected([root, *world.descendants_of(root)])


def test_a_parent_that_is_made_anew_under_its_name_is_gone_for_the_children_of_the_former() -> None:
    child = a_job("c", state="Canceled", spec={"parent": {**child_of(a_job("p")), "group": "g"}})
    world = a_world(a_job("p"), child)
    assert child.group is not None
    assert list(world.group(child.group)) == []

    world.put_job(a_job("p", uid="another"))

    assert list(world.group(child.group)) == [child.key]


def test_a_tree_that_nobody_waits_for_any_more_is_not_counted() -> None:
    world = a_world(a_job("root"), waiter := a_job("waiter", spec={"after": [{"tree": "root"}]}))
    world.tree(world.jobs["default", "root"])

    assert [tree.root for tree in world.trees_of(world.jobs["default", "root"])] == [("default", "root")]
    put(world, a_job("waiter", state="Starting", spec=waiter.spec))
    assert world.trees_of(world.jobs["default", "root"]) == []


def test_put_and_remove_return_what_was_there() -> None:
    world = World()
    old, new = a_job("a"), a_job("a", state="Running")
    pod = a_pod(new)

    assert world.put_job(old) is None
    assert world.put_job(new) is old
    assert world.remove_job(new.key) is new
    assert world.remove_job(new.key) is None
    assert world.put_pod(pod) is None
    assert world.put_pod(pod) is pod
    assert world.remove_pod(pod.key) is pod
    assert world.remove_pod(pod.key) is None


def test_a_parent_of_another_uid_is_none() -> None:
    parent = {"name": "p", "uid": uid_of("p"), "attempt": 1, "podUID": "x", "index": 0}
    child = a_job("c", spec={"parent": parent})

    assert a_world(child, a_job("p")).parent_of(child) is not None
    assert a_world(child, a_job("p", uid="other")).parent_of(child) is None


def test_the_pod_of_an_attempt_has_its_name_and_no_other_owner() -> None:
    job = a_job("a", attempt=2)
    mine, last = a_pod(job), a_pod(job, attempt=1)
    world = a_world(job, last)

    assert world.attempt_pod(job) is None
    put(world, mine)
    assert world.attempt_pod(job) is mine
    put(world, a_pod(job, owner="another"))
    assert world.attempt_pod(job) is None
    put(world, ownerless := a_pod(job, owner=""))
    assert world.attempt_pod(job) is ownerless


def test_descendants_that_name_each_other_as_parents_are_told_once() -> None:
    """No honest API server lets them be; a forged record must not end the operator."""

    def of(name: str, parent: str) -> Job:
        reference = {"name": parent, "uid": uid_of(parent), "attempt": 1, "podUID": "x", "index": 0}
        return a_job(name, spec={"parent": reference})

    a = of("a", "b")

    assert [job.name for job in a_world(a, of("b", "a")).descendants_of(a)] == ["b"]


def test_newest_first_puts_the_last_to_finish_first() -> None:
    finished = [a_job(name, state="Succeeded", finishedAt=at) for name, at in (("a", 1), ("b", 3), ("c", 2))]

    assert [job.name for job in newest_first(finished)] == ["b", "c", "a"]
    assert finished[0].finished_at == T0 + 1
