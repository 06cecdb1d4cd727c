"""Virtual time: what waits comes in its order, at once, and what can never come is told."""

import asyncio
from contextlib import suppress

import pytest

from tests.simulation.clock import DeadlockError, run_simulated, simulated


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_day_passes_at_once_and_in_order() -> None:
    @simulated
    async def play() -> list[float]:
        times = []

        async def note(seconds: float) -> None:
            await asyncio.sleep(seconds)
            times.append(now())

        await asyncio.gather(note(86_400.0), note(0.001), note(3600.0))
        return times

    assert play() == pytest.approx([0.001, 3600.0, 86_400.0])


def test_a_program_that_waits_for_nothing_is_told_so_instead_of_hanging() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="no timer is set"):
        run_simulated(wait())


def test_several_that_wait_for_a_moment_so_near_that_it_counts_as_now_see_it_come() -> None:
    @simulated
    async def play() -> None:
        async def wait(moment: float, rounds: int) -> None:
            for _ in range(rounds):
                await asyncio.sleep(0)
            while now() < moment:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(moment):
                        await asyncio.Event().wait()

        await asyncio.gather(*(wait(1e-7, rounds) for rounds in range(4)))

    play()
