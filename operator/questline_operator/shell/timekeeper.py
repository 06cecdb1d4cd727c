"""The Schedules' Jobs: made when their ticks come, each tick dealt with to its end before the next."""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from questline_operator.core.records import Key
from questline_operator.core.schedule import CalendarError, Schedule
from questline_operator.core.status import MESSAGE_LIMIT, Change
from questline_operator.core.ticks import (
    JOB_REFUSED,
    MakeJob,
    Rest,
    WriteSchedule,
    made,
    next_step_of_schedule,
    ready,
)
from questline_operator.core.world import World
from questline_operator.cron import next_tick
from questline_operator.shell.agenda import Agenda
from questline_operator.shell.api import JOBS, SCHEDULES, Api, ApiError, Object
from questline_operator.shell.clock import Clock
from questline_operator.shell.controller import Controller
from questline_operator.shell.keyed_tasks import KeyedTasks
from questline_operator.shell.reading import read_until_known
from questline_operator.shell.writer import Writer

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""Looked at the clock at least this often: somebody may set it."""
RETRY_SECONDS = 10.0
"""A Job that the API server refuses is tried again this often while its tick is not too late: a quota may have room."""


class Timekeeper:
    """Asks the core for each Schedule's next step, and carries it out."""

    def __init__(self, api: Api, clock: Clock, writer: Writer, controller: Controller, *, epoch: int) -> None:
        self._api = api
        self._clock = clock
        self._writer = writer
        self._controller = controller
        self._epoch = epoch
        self._agenda: Agenda[Key] = Agenda()
        self._busy: KeyedTasks[Key] = KeyedTasks(clock, self._put_off)
        self._again: set[Key] = set()
        """Schedules that changed while they were followed."""

    @property
    def _world(self) -> World:
        return self._controller.world

    async def run(self) -> NoReturn:
        """Follow every Schedule until canceled.

        Raises:
            LeadershipLostError: a write found that this process leads no more.
        """
        self._controller.changed_schedules.update(self._world.schedules)
        async with asyncio.TaskGroup() as tasks:
            while True:
                changed, self._controller.changed_schedules = self._controller.changed_schedules, set()
                for key in sorted(changed):
                    self._agenda.mark(key)
                for key in self._agenda.take(self._clock.now()):
                    if key in self._busy:
                        self._again.add(key)
                    else:
                        self._busy.start(tasks, key, self._follow(key), then=partial(self._followed, key))
                await self._until_due()
        raise AssertionError("unreachable: the loop above never ends")

    def _put_off(self, key: Key, error: Exception) -> float:
        """A Schedule that changes meanwhile is followed at once: it may be what was wrong."""
        logger.error("Schedule %s/%s: unexpected error", *key, exc_info=error)
        self._agenda.mark_at(key, self._clock.now() + RETRY_SECONDS)
        return 0.0

    def _followed(self, key: Key) -> None:
        if key in self._again:
            self._again.discard(key)
            self._controller.look_at_schedule(key)
        self._controller.schedules_changed.set()  # its next tick may be the first of all

    async def _until_due(self) -> None:
        due = self._agenda.next_due()
        seconds = HEARTBEAT_SECONDS if due is None else min(HEARTBEAT_SECONDS, max(0.0, due - self._clock.now()))
        changed = self._controller.schedules_changed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()
        changed.clear()

    async def _follow(self, key: Key) -> None:
        """Carry out step after step until nothing is due."""
        while True:
            schedule = self._world.schedules.get(key)
            if schedule is None:
                self._agenda.forget(key)
                return
            now = self._clock.now()
            match next_step_of_schedule(self._world, schedule, now, next_tick):
                case Rest(until):
                    if until is not None:
                        self._agenda.mark_at(key, until)
                    return
                case WriteSchedule(change):
                    if not await self._write(schedule, change):
                        return
                case MakeJob(tick, replaces):
                    if not await self._make(schedule, tick, replaces=replaces):
                        self._agenda.mark_at(key, self._clock.now() + RETRY_SECONDS)
                        return

    async def _make(self, schedule: Schedule, tick: float, *, replaces: bool) -> bool:
        """Create the tick's Job, or find that it is there, and write that; False where it is to be tried again."""
        refusal = await self._create(schedule, tick, replaces=replaces)
        now = self._clock.now()
        change: Change
        if refusal is not None:
            change = ready(schedule, False, JOB_REFUSED, refusal, now)
            if schedule.ready.get("message") != refusal[:MESSAGE_LIMIT] or schedule.ready.get("reason") != JOB_REFUSED:
                await self._write(schedule, change)
            return False
        try:
            change = made(schedule, tick, now, next_tick)
        except CalendarError:
            return True  # the next step says so
        await self._write(schedule, change)
        return True

    async def _create(self, schedule: Schedule, tick: float, *, replaces: bool) -> str | None:
        """The API server's words where it refuses the Job."""
        manifest = schedule.job(tick, epoch=self._epoch, replaces=replaces)
        name = manifest["metadata"]["name"]
        job: Object | None
        try:
            # A repeat after a lost answer is harmless: the Job has the tick's own name, and stays until it is noted.
            job = await self._writer.create(JOBS, schedule.namespace, manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                return error.message
            job = await read_until_known(self._api, self._clock, JOBS, schedule.namespace, name)
            if job is None:
                return None  # it was there: to make it again could make it twice
        self._controller.store.apply(JOBS, job)
        known = self._world.jobs.get((schedule.namespace, name))
        if known is not None and not schedule.made(known):
            return f"Job {name} exists and is not of this Schedule"
        return None

    async def _write(self, schedule: Schedule, change: Change) -> bool:
        """Write its status; False where it has changed meanwhile or is gone, which the watch tells."""
        raw: Any = schedule.raw
        try:
            written = await self._writer.patch_status(SCHEDULES, raw, change)
        except ApiError as error:
            logger.info("Schedule %s/%s: %s", *schedule.key, error)
            self._agenda.mark_at(schedule.key, self._clock.now() + 1.0)
            return False
        self._controller.store.apply(SCHEDULES, written)
        return True
