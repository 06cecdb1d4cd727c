"""Joins through the operator's real shell: over groups, under both policies, whatever becomes of those."""

import asyncio
from collections import Counter
from unittest import mock

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, QUEUES
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue
from tests.simulation.joins import Join, ended_before, fan_out, of_task, outcome, some_fail
from tests.simulation.sdk import Attempt, Ended, canceled, failed, succeeded


@simulated
async def test_a_join_runs_once_after_all_of_its_group_with_their_results_in_order() -> None:
    join = Join()
    async with Cluster({"root": fan_out(60), "child": some_fail(), "join": join}) as cluster:
        await cluster.apply(a_queue("wide", concurrency=100), a_job("root"))
        await cluster.until_settled()
        assert outcome(cluster) == "Succeeded"
        assert join.summary == {"total": 60, "succeeded": 60}
        assert [job["result"] for job in join.inputs[0]["jobs"]] == list(range(50))
        assert join.inputs[0]["truncated"]
        assert ended_before(cluster, "join", "child")
        assert cluster.job("root").status["children"] == {"total": 61, "groups": {"g": 60}}
        assert cluster.watcher.violations == []


@simulated
async def test_a_join_for_success_is_skipped_at_the_first_failure_and_names_it() -> None:
    async def child(attempt: Attempt) -> Ended:
        if attempt.args["index"] == 3:
            return failed()
        await attempt.work(100.0)
        return succeeded()

    async with Cluster({"root": fan_out(10), "child": child}) as cluster:
        await cluster.apply(a_queue("wide", concurrency=100, defaults={"maxAttempts": 1}), a_job("root"))
        await cluster.until(lambda: any(job.terminal for job in of_task(cluster, "join")), seconds=20)
        (join,) = of_task(cluster, "join")
        (broken,) = [job for job in cluster.jobs() if job.state is State.FAILED]
        assert (join.state, join.reason, join.upstream.uid) == (State.SKIPPED, "UpstreamFailed", broken.uid)
        assert f"Job {broken.name} of group g, which it waits for, ended Failed" in join.status["message"]
        assert cluster.watcher.violations == []


@simulated
async def test_a_join_for_the_end_runs_whatever_became_of_them() -> None:
    join = Join()
    behaviours = {"root": fan_out(10, policy="Finished"), "child": some_fail(1, 2), "join": join}
    async with Cluster(behaviours) as cluster:
        await cluster.apply(a_queue("wide", concurrency=3, defaults={"maxAttempts": 2}), a_job("root"))
        await cluster.until(lambda: len(cluster.jobs()) == 12)
        await cluster.until(lambda: cluster.state("root") == "Succeeded")
        child = next(job for job in of_task(cluster, "child") if job.spec["args"]["index"] == 9)
        await cluster.edit(child.name, cancel=True)
        await cluster.until_settled()
        assert outcome(cluster) == "Succeeded"
        assert join.summary == {"total": 10, "succeeded": 7, "failed": 2, "canceled": 1}
        states = [job["state"] for job in join.inputs[0]["jobs"]]
        assert (states[1], states[2], states[9]) == ("Failed", "Failed", "Canceled")
        assert [job["result"] for job in join.inputs[0]["jobs"]][:3] == [0, None, None]


@pytest.mark.parametrize("policy", ["Succeeded", "Finished"])
def test_an_empty_group_runs_at_once(policy: str) -> None:
    @simulated
    async def run() -> None:
        join = Join()
        async with Cluster({"root": fan_out(0, policy=policy), "join": join}) as cluster:
            await cluster.apply(a_job("root"))
            await cluster.until(lambda: len(join.inputs) == 1, seconds=10)
            assert join.inputs[0]["summary"]["total"] == 0

    run()


@simulated
async def test_a_retried_parent_has_one_join_over_its_own_children() -> None:
    join = Join()

    async def root(attempt: Attempt) -> Ended:
        await fan_out(4)(attempt)
        return failed() if attempt.number < 3 else succeeded()

    async with Cluster({"root": root, "child": some_fail(), "join": join}) as cluster:
        await cluster.apply(a_queue("wide"), a_job("root"))
        await cluster.until_settled()
        assert join.summary == {"total": 4, "succeeded": 4}
        ends = Counter(f"{job.state} {job.reason}".strip() for job in of_task(cluster, "join"))
        assert ends == {"Succeeded": 1, "Skipped ParentFailed": 2}
        assert cluster.watcher.violations == []


@simulated
async def test_a_duplicate_counts_as_its_original_wherever_that_runs() -> None:
    join = Join()
    unique = {"key": "k"}

    async def root(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:work", group="g", unique=unique)
        await attempt.enqueue("tasks:join", after=[{"group": "g"}])
        return succeeded()

    async def original(attempt: Attempt) -> Ended:
        await attempt.work(30.0)
        return succeeded("of the original")

    async with Cluster({"root": root, "original": original, "join": join}) as cluster:
        await cluster.apply(a_job("original", unique=unique))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.apply(a_job("root"))
        await cluster.until(lambda: any(job.duplicate_of == "original" for job in cluster.jobs()))
        await asyncio.sleep(10)
        assert join.inputs == []
        await cluster.until_settled()
        assert join.summary == {"total": 1, "succeeded": 1}
        assert join.inputs[0]["jobs"][0]["result"] == "of the original"


@simulated
async def test_a_join_of_joins() -> None:
    joins = {"left": Join(), "right": Join(), "last": Join()}

    async def root(attempt: Attempt) -> Ended:
        for side in ("left", "right"):
            for index in range(5):
                await attempt.enqueue("tasks:child", group=side, args={"index": index}, queue="wide")
            await attempt.enqueue(f"tasks:{side}", after=[{"group": side}], group="joins")
        await attempt.enqueue("tasks:last", after=[{"group": "joins"}])
        return succeeded()

    async with Cluster({"root": root, "child": some_fail(), **joins}) as cluster:
        await cluster.apply(a_queue("wide"), a_job("root"))
        await cluster.until_settled()
        assert joins["left"].summary == joins["right"].summary == {"total": 5, "succeeded": 5}
        assert joins["last"].summary == {"total": 2, "succeeded": 2}
        assert ended_before(cluster, "last", "child")
        assert cluster.watcher.violations == []


@simulated
async def test_a_child_that_was_deleted_counts_as_canceled() -> None:
    for policy, end in (("Finished", "Succeeded"), ("Succeeded", "Skipped UpstreamFailed")):
        join = Join()
        async with Cluster({"root": fan_out(3, policy=policy), "child": some_fail(), "join": join}) as cluster:
            await cluster.apply(a_queue("wide", paused=True), a_job("root"))
            await cluster.until(lambda: cluster.state("root") == "Succeeded")
            gone = next(job for job in of_task(cluster, "child") if job.spec["args"]["index"] == 1)
            await cluster.server.delete(JOBS, NAMESPACE, gone.name, uid=gone.uid)
            await cluster.server.patch(
                QUEUES, NAMESPACE, "wide", [{"op": "add", "path": "/spec/paused", "value": False}]
            )
            await cluster.until_settled()
            assert outcome(cluster) == end
            if policy == "Finished":
                assert join.summary == {"total": 3, "succeeded": 2, "canceled": 1}
            else:
                assert "1 of the 3 Jobs of group g" in of_task(cluster, "join")[0].status["message"]


@simulated
async def test_a_child_of_an_attempt_that_failed_makes_no_cycle() -> None:
    join = Join()

    async def flaky(attempt: Attempt) -> Ended:
        await attempt.work(1.0)
        if attempt.number > 1:
            return succeeded()
        await attempt.enqueue("tasks:never", after=[{"tree": "root"}])
        return failed()

    async def root(attempt: Attempt) -> Ended:
        child = await attempt.enqueue("tasks:flaky", maxAttempts=2)
        await attempt.enqueue("tasks:join", after=[{"tree": child}])
        return succeeded()

    async with Cluster({"root": root, "flaky": flaky, "join": join}) as cluster:
        await cluster.apply(a_job("root", task="tasks:root"))
        await cluster.until_settled()
        assert outcome(cluster) == "Succeeded"
        assert outcome(cluster, "never") == "Skipped ParentFailed"


@simulated
async def test_the_last_of_a_tree_that_was_deleted_is_waited_for_no_more() -> None:
    join = Join()

    async def root(attempt: Attempt) -> Ended:
        for index in range(2):
            await attempt.enqueue("tasks:child", args={"index": index}, queue="wide")
        return succeeded()

    async with Cluster({"root": root, "join": join}) as cluster:
        await cluster.apply(a_queue("wide", paused=True), a_job("root", task="tasks:root"))
        await cluster.apply(a_job("join", task="tasks:join", after=[{"tree": "root"}], afterPolicy="Finished"))
        await cluster.until(lambda: cluster.state("root") == "Succeeded" and len(of_task(cluster, "child")) == 2)
        for child in of_task(cluster, "child"):
            await cluster.clock.sleep(40.0)
            assert cluster.state("join") == "Waiting"
            await cluster.server.delete(JOBS, NAMESPACE, child.name, uid=child.uid)
        await cluster.until(lambda: cluster.state("join") == "Succeeded", seconds=10)
        assert join.summary == {"total": 1, "succeeded": 1}


@pytest.mark.parametrize("policy", ["Succeeded", "Finished"])
@pytest.mark.parametrize("after", ["group", "tree"])
def test_a_join_never_goes_by_a_success_that_the_watch_has_not_told_of(policy: str, after: str) -> None:
    """The operator's own write brings the parent's success ahead of the watch, and so ahead of its last children."""

    @simulated
    async def run() -> None:
        join = Join()

        async def root(attempt: Attempt) -> Ended:
            named = {"group": "g"} if after == "group" else {"tree": attempt.job}
            await attempt.enqueue("tasks:join", after=[named], afterPolicy=policy)
            await attempt.work(5.0)
            cluster.server.watch_lag = lambda client, resource: 3.0 if resource == JOBS else 0.0
            for index in range(5):
                await attempt.enqueue("tasks:child", group="g", args={"index": index})
            return succeeded()

        async with Cluster({"root": root, "child": some_fail(), "join": join}) as cluster:
            await cluster.apply(a_job("root"))
            await cluster.until_settled()
            assert outcome(cluster) == "Succeeded"
            assert join.summary["succeeded"] == 5 + (after == "tree")
            assert ended_before(cluster, "join", "child")

    run()


@pytest.mark.parametrize("moment", [0.0, 0.1, 1.0, 1.02, 1.1, 1.5, 2.0, 2.1, 2.2, 3.0, 4.0])
def test_a_join_through_an_operator_killed_at_any_moment(moment: float) -> None:
    @simulated
    async def run() -> None:
        join = Join()
        async with Cluster({"root": fan_out(8), "child": some_fail(), "join": join}) as cluster:
            await cluster.apply(a_queue("wide", concurrency=4), a_job("root"))
            await asyncio.sleep(moment)
            await cluster.crash_operator()
            await asyncio.sleep(0.7)
            cluster.start_operator()
            await cluster.until_settled(seconds=120)
            assert join.summary == {"total": 8, "succeeded": 8}
            assert ended_before(cluster, "join", "child")
            assert cluster.watcher.violations == []

    run()


# Cancel


@pytest.mark.parametrize("moment", [0.5, 1.05, 1.2, 2.0, 2.5, 4.0, 7.0, 20.0])
def test_cancel_of_a_tree_with_joins_ends_all_of_it(moment: float) -> None:
    async def root(attempt: Attempt) -> Ended:
        for side in range(4):
            for index in range(12):
                await attempt.enqueue("tasks:child", group=f"g{side}", args={"index": index}, queue="wide")
            policy = "Finished" if side % 2 else "Succeeded"
            await attempt.enqueue("tasks:join", after=[{"group": f"g{side}"}], afterPolicy=policy, group="joins")
        await attempt.enqueue("tasks:last", after=[{"group": "joins"}], afterPolicy="Finished")
        await attempt.enqueue("tasks:whole", after=[{"tree": attempt.job}], afterPolicy="Finished", runAt=FAR)
        await attempt.work(1.0)
        return succeeded()

    @simulated
    async def run() -> None:
        async with Cluster({"root": root, "child": some_fail(3, 4)}) as cluster:
            await cluster.apply(a_queue("wide", concurrency=7), a_job("root"))
            await asyncio.sleep(moment)
            await cluster.edit("root", cancel=True)
            await cluster.until_settled(seconds=120)
            await cluster.until(lambda: not any(pod.live for pod in cluster.pods()), seconds=31)
            for job in cluster.jobs():
                assert not job.active
            ended = len(cluster.kubelet.runs)
            await asyncio.sleep(60)
            assert len(cluster.kubelet.runs) == ended
            assert cluster.watcher.violations == []

    run()


FAR = "2999-01-01T00:00:00Z"


# Retention and cost


@simulated
async def test_what_a_join_needs_is_kept_until_it_has_run() -> None:
    join = Join()
    async with Cluster({"root": fan_out(5, ttlSecondsAfterFinished=0), "child": some_fail(), "join": join}) as cluster:
        await cluster.apply(a_queue("wide", concurrency=1), a_job("root", ttlSecondsAfterFinished=0))
        await cluster.until(lambda: bool(of_task(cluster, "join")))
        (name,) = [job.name for job in of_task(cluster, "join")]
        await cluster.edit(name, suspend=True)
        await cluster.until(lambda: sum(job.terminal for job in cluster.jobs()) == 6)
        await asyncio.sleep(60)
        assert len(cluster.jobs()) == 7
        await cluster.edit(name, suspend=False)
        await cluster.until(lambda: len(join.inputs) == 1)
        assert join.summary == {"total": 5, "succeeded": 5}
        await cluster.until(lambda: [job.name for job in cluster.jobs()] == [name], seconds=30)


@simulated
async def test_children_that_end_while_their_parent_runs_are_kept_for_a_join_that_comes_later() -> None:
    join = Join()

    async def root(attempt: Attempt) -> Ended:
        for index in range(3):
            await attempt.enqueue(
                "tasks:child", group="g", args={"index": index}, staged=False, ttlSecondsAfterFinished=0
            )
        await attempt.work(60.0)
        await attempt.enqueue("tasks:join", after=[{"group": "g"}])
        return succeeded()

    async with Cluster({"root": root, "child": some_fail(), "join": join}) as cluster:
        await cluster.apply(a_job("root"))
        await cluster.until(lambda: len(join.inputs) == 1)
        assert join.summary == {"total": 3, "succeeded": 3}


@simulated
async def test_a_join_is_not_looked_at_for_each_of_its_many_children() -> None:
    join = Join()
    async with Cluster({"root": fan_out(80, policy="Finished"), "child": some_fail(), "join": join}) as cluster:
        controller = cluster.leader.controller
        with mock.patch.object(controller, "_look_at", wraps=controller._look_at) as look_at:
            await cluster.apply(a_queue("wide", concurrency=50), a_job("root"))
            await cluster.until_settled()
        assert join.summary == {"total": 80, "succeeded": 80}
        (name,) = [job.name for job in of_task(cluster, "join")]
        assert sum(call.args[0][1] == name for call in look_at.call_args_list) < 20


@simulated
async def test_a_tree_is_joined_though_a_child_of_an_attempt_that_was_canceled_is_still_there() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child")
        if attempt.number == 1:
            return canceled()
        await attempt.enqueue("tasks:join", after=[{"tree": "parent"}])
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until_settled()
        assert sorted(cluster.states().values()) == ["Canceled AncestorCanceled", "Canceled Raised"]
        await cluster.edit("parent", rerun=1)
        await cluster.until(lambda: len(cluster.jobs()) == 4)
        await cluster.until_settled()
        assert Counter(cluster.states().values()) == {"Succeeded": 3, "Canceled AncestorCanceled": 1}


@simulated
async def test_a_tree_is_joined_though_a_duplicate_that_a_failed_attempt_left_has_lost_its_original() -> None:
    async def parent(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            await attempt.enqueue("tasks:child", unique={"key": "k"}, staged=False)
            await attempt.work(2.0)
            return failed()
        await attempt.work(20.0)
        return succeeded()

    async with Cluster({"parent": parent}, seconds=100.0) as cluster:
        await cluster.apply(a_job("original", task="tasks:child", unique={"key": "k"}))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.apply(a_job("parent"), a_job("next", after=[{"tree": "parent"}]))
        await cluster.until(lambda: cluster.job("parent").failures == 1)
        assert "Skipped Duplicate" in cluster.states().values()
        cluster.server.store.delete(JOBS, NAMESPACE, "original")
        await cluster.until_settled()
        assert (cluster.states()["parent"], cluster.states()["next"]) == ("Succeeded", "Succeeded")
