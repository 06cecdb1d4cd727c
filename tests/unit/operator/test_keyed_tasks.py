"""One task a key: what runs, what an error costs, and when a key may be looked at again."""

import asyncio
import inspect

import pytest

from questline_operator.shell.keyed_tasks import KeyedTasks
from questline_operator.shell.lease import LeadershipLostError
from tests.simulation.clock import VirtualClock, simulated

DELAY_SECONDS = 10.0


class Bench:
    """Keyed tasks, what they raised, and when each key was free again."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.raised: list[tuple[str, str]] = []
        self.free_at: dict[str, float] = {}
        self.keyed: KeyedTasks[str] = KeyedTasks(self.clock, self._on_error)

    def start(
        self, tasks: asyncio.TaskGroup, key: str, error: Exception | None = None, *, seconds: float = 1.0
    ) -> None:
        self.keyed.start(tasks, key, self._act(error, seconds), then=lambda: self._note(key))

    async def _act(self, error: Exception | None, seconds: float) -> None:
        await self.clock.sleep(seconds)
        if error is not None:
            raise error

    def _note(self, key: str) -> None:
        assert key not in self.keyed
        self.free_at[key] = self.clock.monotonic()

    def _on_error(self, key: str, error: Exception) -> float:
        self.raised.append((key, str(error)))
        return DELAY_SECONDS


@simulated
async def test_a_key_is_busy_from_the_start_of_its_task_to_its_end_and_others_are_not() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as tasks:
        bench.start(tasks, "a", seconds=1.0)
        bench.start(tasks, "b", seconds=2.0)
        assert sorted(bench.keyed) == ["a", "b"]
        assert "c" not in bench.keyed
        await bench.clock.sleep(1.5)
        assert list(bench.keyed) == ["b"]
    assert list(bench.keyed) == []
    assert bench.free_at == {"a": 1.0, "b": 2.0}


@simulated
async def test_an_error_costs_its_key_a_delay_and_no_other_key_anything() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as tasks:
        bench.start(tasks, "a", ValueError("nobody foresaw it"))
        bench.start(tasks, "b", seconds=2.0)
        await bench.clock.sleep(DELAY_SECONDS)
        assert list(bench.keyed) == ["a"], "its delay is not over"
    assert bench.raised == [("a", "nobody foresaw it")]
    assert bench.free_at == {"a": 1.0 + DELAY_SECONDS, "b": 2.0}


@simulated
async def test_a_key_can_be_started_again_as_soon_as_it_is_free() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as tasks:

        def again() -> None:
            bench.start(tasks, "a", seconds=2.0)

        bench.keyed.start(tasks, "a", bench.clock.sleep(1.0), then=again)
    assert bench.free_at == {"a": 3.0}


@simulated
async def test_that_leadership_is_lost_ends_the_group_and_nothing_is_looked_at_again() -> None:
    bench = Bench()

    async def loop() -> None:
        async with asyncio.TaskGroup() as tasks:
            bench.start(tasks, "a", LeadershipLostError("another one leads"))
            bench.start(tasks, "b", seconds=3600.0)

    with pytest.raises(ExceptionGroup) as ended:
        await loop()
    assert ended.group_contains(LeadershipLostError)
    assert bench.clock.monotonic() == 1.0
    assert bench.raised == []
    assert bench.free_at == {}


@simulated
async def test_a_task_that_is_canceled_before_its_first_step_leaves_no_action_behind_that_was_never_awaited() -> None:
    bench = Bench()
    action = bench._act(None, 1.0)

    async def loop() -> None:
        async with asyncio.TaskGroup() as tasks:
            bench.keyed.start(tasks, "a", action)
            raise ValueError("the loop itself fails")

    with pytest.raises(ExceptionGroup):
        await loop()
    assert inspect.getcoroutinestate(action) == inspect.CORO_CLOSED
