"""The same small scenarios in the kit and in the simulation, which runs the operator's real shell, end the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from questline import options
from questline import testing as kit
from questline_operator.core.records import Job
from questline_operator.shell.api import QUEUES, WORKERS
from tests.simulation.clock import START, simulated
from tests.simulation.cluster import Cluster
from tests.simulation.sdk import Attempt, Ended, canceled, failed, fatal, retry, snoozed, succeeded
from tests.unit.testing.scenarios import Node, Step, call_of, end_of, manifest_of, random_tree

NOW = datetime.fromtimestamp(START, UTC)
Manifest = dict[str, Any]
Summary = list[tuple[Any, ...]]


def summary_of(raws: Sequence[Manifest]) -> Summary:
    """What became of each Job, by its label."""
    jobs = [Job.parse(raw) for raw in raws]
    label = {job.name: job.spec["args"]["label"] for job in jobs}
    found: Summary = [
        (
            label[job.name],
            str(job.state),
            job.reason,
            job.failures,
            [str(entry["outcome"]) for entry in job.status.get("attempts", ())],
            label.get(job.duplicate_of, ""),
            job.status.get("result"),
            job.status.get("children"),
        )
        for job in jobs
    ]
    return sorted(found, key=repr)


def order_of(raws: Sequence[Manifest]) -> list[str]:
    """The labels of the Jobs that ran, in the order of their claims."""
    ran = [job for job in map(Job.parse, raws) if job.started_at is not None]
    return [job.spec["args"]["label"] for job in sorted(ran, key=lambda job: job.started_at or 0.0)]


def in_the_kit(manifests: list[Manifest], steps: list[Step]) -> list[Any]:
    with kit.cluster(now=NOW, strict=True) as cluster:
        cluster.apply(*manifests)
        cluster.advance(400)
        for verb, what in steps:
            match verb:
                case "advance":
                    cluster.advance(what)
                case "cancel":
                    cluster.cancel(what)
                case "rerun":
                    cluster.rerun(what)
                case _:
                    cluster.queue(what, paused=False)
            cluster.advance(400)
        # The operator writes the reason of a wait once it has lasted; the kit tells it to whoever asks.
        return [{**job.manifest, "status": {**job.manifest["status"], "reason": job.reason}} for job in cluster.jobs()]


async def in_the_simulation(manifests: list[Manifest], steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    async with Cluster({"act": play}) as cluster:
        monkeypatch.setattr(options, "now", cluster.clock.now)
        for manifest in manifests:
            if manifest["kind"] == "Worker":
                await cluster.edit(manifest["metadata"]["name"], WORKERS, **manifest["spec"])
            else:
                await cluster.apply(manifest)
        await asyncio.sleep(400)
        for verb, what in steps:
            match verb:
                case "advance":
                    await asyncio.sleep(float(what))
                case "cancel":
                    await cluster.edit(what, cancel=True)
                case "rerun":
                    await cluster.edit(what, rerun=cluster.job(what).rerun + 1, cancel=False)
                case _:
                    await cluster.edit(what, QUEUES, paused=False)
            await asyncio.sleep(400)
        assert cluster.watcher.violations == []
        return [job.raw for job in cluster.jobs()]


async def play(attempt: Attempt) -> Ended:
    """What `act` does, by the simulation's own SDK."""
    node = attempt.args["node"]
    for child in node.get("children", ()):
        call = call_of(child)
        spec = call.spec()
        if child.get("after"):
            spec["after"] = [{"group": name} for name in child["after"]]
            if child.get("policy") == "Finished":
                spec["afterPolicy"] = "Finished"
        own = {"unique": spec.pop("unique", None), "staged": call.options.stage, "group": call.options.group}
        await attempt.enqueue(spec.pop("task"), **own, **spec)
    attempt.groups.update(
        {name: 0 for child in node.get("children", ()) for name in child.get("after", ()) if name not in attempt.groups}
    )
    await attempt.work(1.0)
    how = end_of(node, attempt.number)
    match how.partition(":"):
        case ("ok", _, _):
            return succeeded(attempt.args["label"])
        case ("retry", _, seconds):
            return retry(float(seconds))
        case ("snooze", _, seconds):
            return snoozed(float(seconds))
        case ("takes", _, seconds):
            await attempt.work(float(seconds))
        case ("fatal", _, _):
            return fatal()
        case ("cancel", _, _):
            return canceled()
    return failed()


def queue(name: str, **spec: Any) -> Manifest:
    return {"kind": "Queue", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def child(label: str, *ends: str, after: str = "", policy: str = "Succeeded", **options: Any) -> Node:
    made: Node = {"label": label, "ends": list(ends), "options": options}
    return made | {"after": [after], "policy": policy} if after else made


SCENARIOS: dict[str, tuple[list[Node], list[Manifest], list[Step]]] = {
    "a chain of children": (
        [{"label": "a", "children": [{"label": "b", "children": [{"label": "c"}]}]}], [], []),
    "a retried parent": (
        [{"label": "a", "ends": ["fail", "fail", "ok"], "children": [child("b"), child("c")]}], [], []),
    "a parent that fails for good": ([{"label": "a", "ends": ["fail"], "children": [child("b")]}], [], []),
    "every other end": (
        [{"label": "a", "children": [child("retry", "retry:5", "ok"), child("snooze", "snooze:5", "snooze:1", "ok"),
                                     child("fatal", "fatal"), child("cancel", "cancel"), child("retries", "retry:1")]}],
        [], []),
    "joins": (
        [{"label": "a", "children": [
            child("b", group="x"), child("c", "fail", group="x"), child("d", group="y"),
            child("after x", after="x"), child("after the end of x", after="x", policy="Finished"),
            child("after y", after="y"), child("after none", after="z")]}],
        [], []),
    "a join of duplicates": (
        [{"label": "a", "children": [child("b", group="x", key="k", window="1h")]},
         {"label": "c", "options": {"delay": "1m"},
          "children": [child("d", group="x", key="k", window="1h"), child("e", after="x")]}],
        [], []),
    "unique children of one attempt": (
        [{"label": "a", "children": [child("b", key="k"), child("c", key="l"), child("d", key="k")]}], [], []),
    "unique Jobs": (
        [{"label": "a", "options": {"key": "k"}}, {"label": "b", "options": {"key": "k"}},
         {"label": "c", "options": {"key": "l"}, "ends": ["fail"]}, {"label": "d", "options": {"key": "l"}}], [], []),
    "unique in a window": (
        [{"label": "a", "options": {"key": "k", "window": "1h"}, "ends": ["fatal"]},
         {"label": "b", "options": {"key": "k", "window": "1h", "delay": "5m"}}], [], []),
    "unique while alive": (
        [{"label": "a", "options": {"key": "k"}}, {"label": "b", "options": {"key": "k", "delay": "5m"}}], [], []),
    "a doomed staged child holds up nobody": (
        [{"label": "a", "ends": ["snooze:60", "fatal"], "children": [child("b", key="k")]},
         {"label": "c", "children": [child("d", key="k")]}], [], []),
    "children that are not staged": (
        [{"label": "a", "ends": ["fatal"], "children": [child("b", stage=False), child("c")]}], [], []),
    "a queue of one": (
        [{"label": "a", "options": {"queue": "one"}}, {"label": "b", "options": {"queue": "one"}},
         {"label": "c", "options": {"queue": "one", "priority": 5}}, {"label": "d", "options": {"queue": "one"}}],
        [queue("one", concurrency=1, paused=True)], [("resume", "one")]),
    "keys": (
        [{"label": f"{key}{n}", "options": {"queue": "keys", "concurrency_key": key}} for key in "xy" for n in (0, 1)],
        [queue("keys", perKeyConcurrency=1, concurrency=3)], []),
    "defaults of a queue": (
        [{"label": "a", "ends": ["fail"], "options": {"queue": "short", "max_attempts": None}}],
        [queue("short", defaults={"maxAttempts": 2})], []),
    "a timeout": (
        [{"label": "a", "ends": ["takes:90", "ok"], "options": {"timeout": 30}, "children": [child("b")]}], [], []),
    "a chain of manifests": (
        [{"label": "c", "after": ["b"]}, {"label": "b", "after": ["a"]}, {"label": "a"}], [], []),
    "a chain that fails and is run again": (
        [{"label": "a", "ends": ["ok"]}, {"label": "b", "after": ["a"], "ends": ["fail", "fail", "fail", "ok"]},
         {"label": "c", "after": ["b"]}, {"label": "d", "after": ["c"]},
         {"label": "e", "after": ["b"], "policy": "Finished"}],
        [], [("rerun", "b")]),
    "a chain of manifests that is run again, link by link": (
        [{"label": "d", "after": ["c"]}, {"label": "c", "after": ["b"]}, {"label": "b", "after": ["a"]},
         {"label": "a", "ends": ["fatal", "ok"]}],
        [], [("rerun", "a")]),
    "a parent that is run again": ([{"label": "a", "children": [child("b")]}], [], [("rerun", "a")]),
    "a cycle": (
        [{"label": "a", "after": ["b"]}, {"label": "b", "after": ["a"]}, {"label": "c", "after": ["b"]}], [], []),
    "a Job that is missing": ([{"label": "a", "after": ["nobody"]}], [], []),
    "a cancel": (
        [{"label": "a", "children": [child("b", delay="1h"), {"label": "c", "children": [child("d", delay="1h")]}]},
         {"label": "e", "after": ["a"]}], [], [("cancel", "a")]),
    "a cancel that is taken back": (
        [{"label": "a", "options": {"delay": "1h"}, "children": [child("b")]}], [],
        [("cancel", "a"), ("rerun", "a"), ("advance", "3600")]),
    "a suspended Job": ([{"label": "a", "spec": {"suspend": True}}, {"label": "b", "after": ["a"]}], [], []),
    "a paused queue": (
        [{"label": "a", "options": {"queue": "held"}}, {"label": "b", "after": ["a"]}],
        [queue("held", paused=True)], [("resume", "held")]),
    "no such queue, no such worker": (
        [{"label": "a", "options": {"queue": "none"}}, {"label": "b", "options": {"worker": "none"}}], [], []),
    "queues that a worker may not use": (
        [{"label": "a", "children": [child("b", queue="media"), child("c")]}],
        [queue("media"), {"kind": "Worker", "metadata": {"name": "default"}, "spec": {"allowedQueues": ["default"]}}],
        []),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_ends_as_with_the_operators_own_shell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    roots, around, steps = SCENARIOS[name]
    ours, theirs = both(roots, around, steps, monkeypatch)
    assert summary_of(ours) == summary_of(theirs)
    if name == "a queue of one":
        assert order_of(ours) == order_of(theirs) == ["c", "a", "b", "d"]


@pytest.mark.parametrize("seed", range(30))
def test_a_random_tree_ends_as_with_the_operators_own_shell(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = both([random_tree(seed)], [], [], monkeypatch)
    assert summary_of(ours) == summary_of(theirs)


@pytest.mark.parametrize("overlap", ["Allow", "Forbid", "Replace"])
def test_a_schedule_makes_the_same_jobs(overlap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node: Node = {"label": "a", "ends": ["snooze:150", "ok"], "children": [child("b")]}
    spec = {"cron": "*/2 * * * *", "overlap": overlap, "job": call_of(node).spec()}
    schedule = {"kind": "Schedule", "metadata": {"name": "every", "namespace": "default"}, "spec": spec}
    ours, theirs = both([], [schedule], [("advance", "1000")], monkeypatch, rest=False)
    made = [[job["metadata"]["annotations"]["questline.dev/tick"] for job in jobs if "parent" not in job["spec"]]
            for jobs in (ours, theirs)]  # fmt: skip
    assert sorted(made[0]) == sorted(made[1])
    assert len(made[0]) > 3


def both(
    roots: Sequence[Node],
    around: list[Manifest],
    steps: list[Step],
    monkeypatch: pytest.MonkeyPatch,
    *,
    rest: bool = True,
) -> tuple[list[Any], list[Any]]:
    """The Jobs at the end, of the kit and of the simulation."""
    found: list[Any] = []

    @simulated
    async def run() -> None:
        manifests = around + [manifest_of(root) for root in roots]
        found.extend(await in_the_simulation(manifests, steps, monkeypatch))

    with monkeypatch.context() as patch:
        patch.setattr(options, "now", lambda: START)
        run()
    with kit.cluster(now=NOW):
        manifests = around + [manifest_of(root) for root in roots]
    return in_the_kit(manifests, steps), found
