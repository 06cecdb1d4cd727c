"""A steady flow of short Jobs, such that at every moment one is about to be claimed."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from questline_operator.core.records import Job
from questline_operator.shell.api import JOBS
from tests.live import Live, a_job, a_queue

STEADY, SPARE = "steady", "spare"
CONCURRENCY = {STEADY: 6, SPARE: 100}
WAITING = 12
"""How many Jobs of the queue `steady`, all of whose slots are taken, wait while the flow runs."""
SECONDS = 0.5
"""How long each of them works."""
SPARE_SECONDS = 0.5
"""From one Job of the queue `spare` to the next at least: with a slot free, none of them waits while anyone leads."""


class Flow:
    """Runs while it is entered as an async context manager; at its end every Job and every pod has ended.

    Attributes:
        created: how many Jobs it has made.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._feeders: list[asyncio.Task[None]] = []
        self._stopping = False
        self.created = 0

    async def __aenter__(self) -> Self:
        await self._live.apply(*(a_queue(name, concurrency=limit) for name, limit in CONCURRENCY.items()))
        self._feeders = [
            asyncio.create_task(self._feed(STEADY, lambda: self._unclaimed(STEADY) < WAITING, ["sleep", str(SECONDS)])),
            asyncio.create_task(self._feed(SPARE, lambda: not self._unclaimed(SPARE), ["true"], pause=SPARE_SECONDS)),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if error is not None:
            for feeder in self._feeders:
                feeder.cancel()
            await asyncio.gather(*self._feeders, return_exceptions=True)
            return
        await asyncio.gather(*self._feeders)
        await self._live.history.until(self._over, seconds=180)

    async def _feed(self, queue: str, short: Callable[[], bool], command: list[str], *, pause: float = 0.0) -> None:
        number = 0
        while True:
            # While any Job runs, there are events at which this is looked at again.
            await self._live.history.until(lambda: self._stopping or short(), seconds=300)
            if self._stopping:
                return
            name = f"{queue}-{number}"
            await self._live.apply(a_job(name, queue=queue, command=command))
            number += 1
            self.created += 1
            await self._live.history.until(lambda name=name: self._live.history.has(name))  # type: ignore[misc]
            await asyncio.sleep(pause)

    def _unclaimed(self, queue: str) -> int:
        return sum(job.queue == queue and not job.attempt for job in self._live.history.jobs())

    def _over(self) -> bool:
        history = self._live.history
        ended = len(history.jobs()) == self.created and all(job.terminal for job in history.jobs())
        return ended and not any(pod.live for pod in history.pods())

    async def claims(self, *, epoch: int = 0, seconds: float = 60.0) -> None:
        """Return once a Job was claimed, from now on, in this epoch or a later one.

        Raises:
            AssertionError: none was in time.
        """
        history = self._live.history
        place, claimed = len(history.events), False
        attempts = {job.uid: job.attempt for job in history.jobs()}

        def reached() -> bool:
            nonlocal place, claimed
            for event in history.events[place:]:
                if event.resource == JOBS:
                    job = Job.parse(event.object)
                    claimed |= job.epoch >= epoch and job.attempt > attempts.get(job.uid, 0)
                    attempts[job.uid] = job.attempt
            place = len(history.events)
            return claimed

        await history.until(reached, seconds=seconds)
