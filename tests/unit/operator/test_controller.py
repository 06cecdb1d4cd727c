"""The controller's loop, as far as it needs no API: how it shares the process with everything else."""

import asyncio
from typing import Any, cast

import pytest

from questline_operator.core.world import World
from questline_operator.shell.actions import Actions
from questline_operator.shell.controller import Controller
from tests.unit.core.builders import a_job, a_queue, put


class BusyClock:
    """Time that passes only while the process computes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def test_a_pass_whose_looks_are_slow_lets_the_lease_be_renewed_and_shows_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, world = BusyClock(), World()
    controller = Controller(clock, world, epoch=1)
    put(world, a_queue(), *(a_job(f"job-{n}") for n in range(150)))
    looked_at: list[Any] = []

    def slow_look(key: Any, *_: Any) -> None:
        looked_at.append(key)
        clock.seconds += 0.5

    monkeypatch.setattr(controller, "_look_at", slow_look)
    longest = oldest = 0.0

    async def scenario() -> None:
        nonlocal longest, oldest
        running = asyncio.create_task(controller.run(cast(Actions, None)))
        last = clock.monotonic()
        while len(looked_at) < 150:
            await asyncio.sleep(0)
            longest = max(longest, clock.monotonic() - last)
            oldest = max(oldest, clock.monotonic() - controller.last_look)
            last = clock.monotonic()
        running.cancel()

    asyncio.run(scenario())

    assert longest <= 1.0, "of 10 s a renewal of the Lease has to be within"
    assert oldest <= 1.0, "of 30 s the liveness probe grants"
