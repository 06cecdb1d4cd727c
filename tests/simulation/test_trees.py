"""Joins over trees through the operator's real shell, and Jobs that wait for each other."""

import asyncio

from questline_operator.core.states import State
from tests.simulation.clock import simulated
from tests.simulation.cluster import Cluster, a_job, a_queue
from tests.simulation.joins import Join, ended_before, fan_out, of_task, outcome
from tests.simulation.sdk import Attempt, Ended, failed, succeeded

# Trees


async def grows(attempt: Attempt) -> Ended:
    """Each level enqueues the next, down to args.depth 0."""
    depth = attempt.args["depth"]
    for _ in range(2 if depth else 0):
        await attempt.enqueue("tasks:grows", args={"depth": depth - 1})
    await attempt.work(0.5)
    return succeeded(depth)


@simulated
async def test_a_tree_that_grows_while_it_is_waited_for_is_waited_for_to_its_last_leaf() -> None:
    join = Join()
    async with Cluster({"grows": grows, "after": join}) as cluster:
        await cluster.apply(a_job("after", after=[{"tree": "top"}]))
        await cluster.until(lambda: cluster.job("after").reason == "DependencyMissing", seconds=5)
        await cluster.apply(a_job("top", task="tasks:grows", args={"depth": 3}))
        await cluster.until_settled()
        assert join.summary == {"total": 15, "succeeded": 15}
        assert join.inputs[0]["jobs"][0]["name"] == "top"
        assert len(join.inputs[0]["jobs"]) == 15
        assert ended_before(cluster, "after", "grows")


@simulated
async def test_a_child_waits_for_the_tree_of_its_parent_without_itself() -> None:
    join = Join()

    async def root(attempt: Attempt) -> Ended:
        for _ in range(2):
            await attempt.enqueue("tasks:grows", args={"depth": 1})
        await attempt.enqueue("tasks:join", after=[{"tree": attempt.job}])
        return succeeded() if attempt.number > 1 else failed()

    async with Cluster({"root": root, "grows": grows, "join": join}) as cluster:
        await cluster.apply(a_job("root"))
        await cluster.until_settled()
        assert join.summary == {"total": 7, "succeeded": 7}, "the children of the failed attempt are none of it"
        assert cluster.watcher.violations == []


@simulated
async def test_a_failure_deep_in_a_tree_skips_its_join_and_a_rerun_arms_it() -> None:
    join = Join()

    async def leaf(attempt: Attempt) -> Ended:
        return failed() if attempt.number == 1 else succeeded()

    async def root(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:middle")
        await attempt.enqueue("tasks:join", after=[{"tree": attempt.job}])
        return succeeded()

    async def middle(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:leaf", maxAttempts=1)
        return succeeded()

    async with Cluster({"root": root, "middle": middle, "leaf": leaf, "join": join}) as cluster:
        await cluster.apply(a_job("root"))
        await cluster.until_settled()
        assert outcome(cluster) == "Skipped UpstreamFailed"
        await cluster.crash_operator()
        cluster.start_operator()
        await asyncio.sleep(1)
        await cluster.edit(of_task(cluster, "leaf")[0].name, rerun=1)
        await cluster.until(lambda: outcome(cluster) == "Succeeded", seconds=30)
        assert join.summary == {"total": 3, "succeeded": 3}
        assert cluster.watcher.violations == []


@simulated
async def test_a_join_is_armed_once_all_that_had_failed_run_again() -> None:
    join = Join()

    async def child(attempt: Attempt) -> Ended:
        return failed() if attempt.number == 1 and attempt.args["index"] < 2 else succeeded()

    async with Cluster({"root": fan_out(5, maxAttempts=1), "child": child, "join": join}) as cluster:
        await cluster.apply(a_queue("wide"), a_job("root"))
        await cluster.until_settled()
        broken = [job.name for job in cluster.jobs() if job.state is State.FAILED]
        assert len(broken) == 2
        for name in broken:
            assert outcome(cluster) == "Skipped UpstreamFailed"
            await cluster.edit(name, rerun=1)
            await asyncio.sleep(10)
        assert outcome(cluster) == "Succeeded"
        assert join.summary == {"total": 5, "succeeded": 5}
        assert cluster.watcher.violations == []


# Cycles


@simulated
async def test_two_that_wait_for_the_tree_in_which_both_are_end_for_their_cycle() -> None:
    async def root(attempt: Attempt) -> Ended:
        for name in ("first", "second"):
            await attempt.enqueue(f"tasks:{name}", after=[{"tree": attempt.job}])
        return succeeded()

    async with Cluster({"root": root}) as cluster:
        await cluster.apply(a_job("root"))
        await cluster.until_settled(seconds=30)
        assert {outcome(cluster, name) for name in ("first", "second")} == {"Skipped DependencyCycle"}


@simulated
async def test_a_join_in_its_own_group_ends_for_its_cycle() -> None:
    async def root(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:join", group="g", after=[{"group": "g"}])
        return succeeded()

    async with Cluster({"root": root}) as cluster:
        await cluster.apply(a_job("root"))
        await cluster.until_settled(seconds=30)
        assert outcome(cluster) == "Skipped DependencyCycle"
