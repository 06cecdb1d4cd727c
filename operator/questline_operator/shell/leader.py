"""Everything that runs while this process leads: reads every list, then acts."""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from prometheus_client import Counter

from questline_operator.core.records import LABEL_JOB
from questline_operator.core.world import World
from questline_operator.shell.actions import Actions
from questline_operator.shell.api import JOBS, NAMESPACES, PODS, QUEUES, SCHEDULES, WORKERS, Api
from questline_operator.shell.caretaker import Caretaker
from questline_operator.shell.clock import Clock
from questline_operator.shell.controller import Controller
from questline_operator.shell.epoch import IN_FORCE_SECONDS
from questline_operator.shell.reflector import Reflector
from questline_operator.shell.timekeeper import Timekeeper
from questline_operator.shell.writer import Writer

logger = logging.getLogger(__name__)


class Leader:
    """The store, the controller, the caretaker and the timekeeper of one leadership.

    Args:
        epoch: this leadership's number, raised already.
        check_leading: raises LeadershipLostError where this process may no longer write.
        writes: counts every write that is sent, by verb and resource.
        max_running_pods: the limit on the pods of all queues together; None for any number.

    Attributes:
        acting: set once every list was read, when the first step may follow.
    """

    def __init__(
        self,
        api: Api,
        clock: Clock,
        *,
        epoch: int,
        check_leading: Callable[[], None],
        writes: Counter,
        max_running_pods: int | None = None,
    ) -> None:
        self.world = World()
        self.controller = Controller(clock, self.world, epoch=epoch, max_running_pods=max_running_pods)
        self.acting = asyncio.Event()
        self._clock = clock
        writer = Writer(api, clock, check_leading, writes)
        self._actions = Actions(api, clock, writer, self.controller.store, epoch=epoch)
        self._caretaker = Caretaker(api, clock, writer, self._actions, self.controller, epoch=epoch)
        self._timekeeper = Timekeeper(api, clock, writer, self.controller, epoch=epoch)
        store = self.controller.store
        self._of_people = [Reflector(api, clock, store, kind) for kind in (NAMESPACES, QUEUES, WORKERS)]
        """What people wrote: a list of them that is some moments old is as good as a watch that is."""
        self._of_leaders = [
            Reflector(api, clock, store, SCHEDULES),
            Reflector(api, clock, store, JOBS),
            Reflector(api, clock, store, PODS, labels=LABEL_JOB),
        ]
        """What leaders wrote, and this one goes by: what is claimed, what runs, which tick is next."""

    async def run(self) -> NoReturn:
        """Lead until canceled. Call it once the epoch was raised: that it is in force is waited for here.

        Raises:
            ExceptionGroup: holding LeadershipLostError, or an error that nobody foresaw.
        """
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._of_people:
                tasks.create_task(reflector.run())
            # Until it is in force a last write of the former leader may be taken, and lists from before would lack it.
            await self._clock.sleep(IN_FORCE_SECONDS)
            for reflector in self._of_leaders:
                tasks.create_task(reflector.run())
            for reflector in self._reflectors:
                await reflector.synced.wait()
            logger.info("acting on %d Jobs and %d pods", len(self.world.jobs), len(self.world.pods))
            self.acting.set()
            tasks.create_task(self.controller.run(self._actions))
            tasks.create_task(self._caretaker.run())
            tasks.create_task(self._timekeeper.run())
        raise AssertionError("unreachable: the tasks never end")

    @property
    def _reflectors(self) -> list[Reflector]:
        return [*self._of_people, *self._of_leaders]

    @property
    def seconds_since_look(self) -> float:
        """The age of the controller's heartbeat."""
        return self._clock.monotonic() - self.controller.last_look if self.acting.is_set() else 0.0

    @property
    def seconds_since_watch(self) -> float:
        """The age of the last sign of life of the most silent watch; bookmarks come about once a minute."""
        return max(self._clock.monotonic() - reflector.last_activity for reflector in self._reflectors)
