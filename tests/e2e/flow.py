"""A steady flow of short Jobs through one queue, such that at every moment one is about to be claimed."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from questline_operator.core.records import Job
from questline_operator.shell.api import JOBS
from tests.live import Live, a_job, a_queue

QUEUE = "steady"
CONCURRENCY = 6
WAITING = 12
"""How many Jobs wait while the flow runs."""
SECONDS = 0.5
"""How long each of them works."""


class Flow:
    """Runs while it is entered as an async context manager; at its end every Job and every pod has ended.

    Attributes:
        created: how many Jobs it has made.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._feeder: asyncio.Task[None] | None = None
        self.created = 0

    async def __aenter__(self) -> Self:
        await self._live.apply(a_queue(QUEUE, concurrency=CONCURRENCY))
        self._feeder = asyncio.create_task(self._feed())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._feeder is not None
        self._feeder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._feeder
        if error is None:
            await self._live.history.until(self._over, seconds=180)

    async def _feed(self) -> None:
        while True:
            await self._live.history.until(self._runs_low, seconds=300)
            job = a_job(f"steady-{self.created}", queue=QUEUE, command=["sleep", str(SECONDS)])
            await self._live.apply(job)
            self.created += 1

    def _runs_low(self) -> bool:
        # One that was created a moment ago may not be seen yet.
        seen = [job for job in self._live.history.jobs() if job.queue == QUEUE]
        return self.created - sum(job.active or job.terminal for job in seen) < WAITING

    def _over(self) -> bool:
        history = self._live.history
        ended = len(history.jobs()) == self.created and all(job.terminal for job in history.jobs())
        return ended and not any(pod.live for pod in history.pods())

    async def claims(self, count: int = 1, *, epoch: int = 0, seconds: float = 60.0) -> None:
        """Return once so many Jobs were claimed, from now on, in this epoch or a later one.

        Raises:
            AssertionError: they were not in time.
        """
        history = self._live.history
        place, claimed = len(history.events), 0
        attempts = {job.uid: job.attempt for job in history.jobs()}

        def reached() -> bool:
            nonlocal place, claimed
            for event in history.events[place:]:
                if event.resource == JOBS:
                    job = Job.parse(event.object)
                    claimed += job.epoch >= epoch and job.attempt > attempts.get(job.uid, 0)
                    attempts[job.uid] = job.attempt
            place = len(history.events)
            return claimed >= count

        await history.until(reached, seconds=seconds)
