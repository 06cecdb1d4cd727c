"""One operator's process as main.operate runs it: it elects itself, raises the epoch, leads, and leaves.

Only kopf, the probes and the real HTTP client are not there; everything else is the operator's own code.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry

from questline_operator.main import LEASE
from questline_operator.shell.epoch import raise_epoch
from questline_operator.shell.leader import Leader
from questline_operator.shell.lease import Elector, LeadershipLostError
from questline_operator.shell.metrics import count_writes
from tests.simulation.apiserver import ApiServer, Cut
from tests.simulation.clock import Freezer, VirtualClock
from tests.simulation.faults import Call

NAMESPACE = "questline-system"
RESTART_SECONDS = 1.0
"""From the end of a container to its successor's start in the same pod."""


class Replica:
    """A pod of the operator's Deployment: one process at a time, started again when it has ended.

    Args:
        name: of the pod; the processes' clients are ``operator-<name>-<n>``.
        skew: seconds by which its machine's wall clock is fast.
        note: told what happens to it.
        led: told the epoch of each of its leaderships.
        max_running_pods: the operator's own limit.
    """

    def __init__(
        self,
        server: ApiServer,
        name: str,
        *,
        skew: float = 0.0,
        note: Callable[[str], None],
        led: Callable[[int], None] = lambda epoch: None,
        max_running_pods: int | None = None,
    ) -> None:
        self.name = name
        self.clock = VirtualClock(skew=skew)
        self.ended = 0
        """Processes that ended by themselves: told to, or because they lead no more."""
        self._server = server
        self._note = note
        self._led = led
        self._max_running_pods = max_running_pods
        self._count = 0
        self._pods = 0
        self._process: _Process | None = None
        self._starting: asyncio.TimerHandle | None = None

    @property
    def leads(self) -> bool:
        """Whether its process trusts itself to."""
        return self._process is not None and self._process.elector.trusted

    @property
    def frozen(self) -> bool:
        """Whether its process stands still."""
        return self._process is not None and self._process.freezer.frozen

    @property
    def client(self) -> str:
        """What the API server knows its process by, "" where it has none."""
        return self._process.name if self._process is not None else ""

    def start(self, *, new_pod: bool = True) -> None:
        """Run a process, unless one runs; ``new_pod`` gives it an identity that no Lease ever named."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if self._process is not None:
            return
        self._count += 1
        self._pods += new_pod
        client, identity = f"operator-{self.name}-{self._count}", f"{self.name}_{self._pods}"
        process = _Process(self._server, client, identity, self.clock, self._led, self._max_running_pods)
        self._process = process
        process.task = process.freezer.spawn(process.operate())
        process.task.add_done_callback(lambda task: self._over(process))

    async def kill(self, *, seconds: float = RESTART_SECONDS, new_pod: bool = False) -> None:
        """SIGKILL, and the next process ``seconds`` later, or none where that is infinite."""
        process, self._process = self._process, None
        if process is None:
            return
        await process.kill()
        if seconds != float("inf"):
            self._start_in(seconds, new_pod=new_pod)

    def kill_at_write(self, number: int, where: Cut, *, seconds: float, new_pod: bool) -> None:
        """The process dies right before or after its next ``number``-th write, renewals of its Lease not counted."""
        process, left = self._process, number
        if process is None:
            return

        def count(call: Call) -> Cut:
            nonlocal left
            left -= call.resource.plural != "leases"
            if left > 0 or process.dying is not None:
                return None
            self._note(f"replica {self.name}: killed {where} its {call.verb} of {call.resource.plural} {call.name}")
            process.api.sever()
            if self._process is process:
                # The task that is about to write is one of those that end.
                process.dying = asyncio.get_running_loop().create_task(
                    self.kill(seconds=seconds, new_pod=new_pod), context=_no_process()
                )
            return where

        process.api.on_write = count

    def terminate(self, *, seconds: float) -> None:
        """SIGTERM: it gives its Lease back and ends; a new pod starts ``seconds`` later."""
        if self._process is not None:
            self._process.told.set()
            self._process.comes_back_after = seconds

    def mend(self) -> None:
        """From here on it runs and nothing kills it."""
        self.thaw()
        if self._process is not None:
            self._process.api.on_write = None
        else:
            self.start(new_pod=False)

    def freeze(self) -> None:
        """SIGSTOP."""
        if self._process is not None:
            self._process.freezer.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.freezer.thaw()

    def _over(self, process: "_Process") -> None:
        """The process has ended by itself."""
        if self._process is not process:
            return
        self._process = None
        self.ended += 1
        self._note(f"replica {self.name}: ended ({process.why})")
        told = process.told.is_set()
        self._start_in(process.comes_back_after if told else RESTART_SECONDS, new_pod=told)

    def _start_in(self, seconds: float, *, new_pod: bool) -> None:
        loop = asyncio.get_running_loop()
        self._starting = loop.call_later(seconds, lambda: self.start(new_pod=new_pod), context=_no_process())


class _Process:
    """One process, from its start to its end."""

    def __init__(
        self,
        server: ApiServer,
        name: str,
        identity: str,
        clock: VirtualClock,
        led: Callable[[int], None],
        max_running_pods: int | None,
    ) -> None:
        self.name = name
        self.freezer = Freezer()
        self.api = server.client(name)
        self.elector = Elector(self.api, clock, NAMESPACE, LEASE, identity)
        self.told = asyncio.Event()
        self.why = "told to"
        self.comes_back_after = 0.0
        self.dying: asyncio.Task[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._clock = clock
        self._led = led
        self._max_running_pods = max_running_pods

    async def operate(self) -> None:
        """See main.operate."""
        leadership = asyncio.create_task(self._lead())
        end = asyncio.create_task(self.told.wait())
        try:
            await asyncio.wait((leadership, end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leadership, end):
                task.cancel()
            errors = await asyncio.gather(leadership, end, return_exceptions=True)
        for error in _flat(errors[0]):
            self.why = str(error)
            if not isinstance(error, LeadershipLostError):
                logging.getLogger("questline_operator").error("the operator died", exc_info=error)
        await self.elector.release()

    async def _lead(self) -> None:
        await self.elector.acquire()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.elector.run())
            epoch = await raise_epoch(self.api, NAMESPACE, self.elector.check)
            self._led(epoch)
            writes = count_writes(CollectorRegistry())
            leader = Leader(
                self.api,
                self._clock,
                epoch=epoch,
                check_leading=self.elector.check,
                writes=writes,
                max_running_pods=self._max_running_pods,
            )
            tasks.create_task(leader.run())

    async def kill(self) -> None:
        """End it where it stands."""
        self.api.sever()
        assert self.task is not None
        self.task.cancel()
        self.freezer.thaw()
        with suppress(asyncio.CancelledError):
            await self.task


def _no_process() -> contextvars.Context:
    """What starts and ends processes is part of none."""
    return contextvars.Context()


def _flat(error: object) -> list[BaseException]:
    """The errors themselves, out of their groups."""
    if isinstance(error, BaseExceptionGroup):
        return [one for inner in error.exceptions for one in _flat(inner)]
    return [error] if isinstance(error, Exception) else []
