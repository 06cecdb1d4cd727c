"""Unique Jobs on a real API server under contention (behaviour 7 of the main job)."""

import asyncio
import time

from questline_operator.core.states import State
from tests.live import Live, a_job

CLIENTS, ROUNDS = 50, 10


async def test_of_fifty_clients_at_one_moment_one_runs_ten_rounds_over(live: Live) -> None:
    for run in range(ROUNDS):
        names = [f"round-{run}-{n:02}" for n in range(CLIENTS)]
        await live.apply(*(a_job(name, args={"seconds": 3}, unique={"key": f"k{run}"}) for name in names))
        jobs = await live.history.settled(*names)
        winners = [job for job in jobs if job.state is State.SUCCEEDED]
        losers = [job for job in jobs if job.state is State.SKIPPED]
        assert (len(winners), len(losers)) == (1, CLIENTS - 1)
        assert {(job.reason, job.duplicate_of) for job in losers} == {("Duplicate", winners[0].name)}
        assert {job.attempt for job in losers} == {0}


async def test_a_unique_job_enqueued_after_the_end_of_the_last_one_runs_again(live: Live) -> None:
    for name in ("first", "second", "third"):
        await live.job(name, unique={"key": "k"})
        await live.history.settled(name)
        assert live.history.job(name).state is State.SUCCEEDED


async def test_a_window_holds_over_the_winners_end_and_passes(live: Live) -> None:
    unique = {"key": "k", "scope": "Window", "windowSeconds": 12}
    await live.job("first", unique=unique)
    await live.history.settled("first")
    await live.job("early", unique=unique)
    await live.history.settled("early")
    assert live.history.job("early").duplicate_of == "first"
    # The window is the API server's clock's, in whole seconds: nothing announces its end.
    await asyncio.sleep(live.history.job("first").created_at + 13 - time.time())
    await live.job("late", unique=unique)
    await live.history.settled("late")
    assert live.history.job("late").state is State.SUCCEEDED


async def test_canonical_args_ignore_key_order_and_integral_floats_but_not_types(live: Live) -> None:
    await live.apply(a_job("one", args={"seconds": 2, "value": {"a": 1, "b": 2}}, unique={}))
    await live.apply(a_job("same", args={"value": {"b": 2.0, "a": 1.0}, "seconds": 2}, unique={}))
    await live.apply(a_job("other", args={"seconds": 2, "value": {"a": True, "b": 2}}, unique={}))
    await live.history.settled("one", "same", "other")
    states = {job.name: job.state for job in live.history.jobs()}
    assert states == {"one": State.SUCCEEDED, "same": State.SKIPPED, "other": State.SUCCEEDED}
