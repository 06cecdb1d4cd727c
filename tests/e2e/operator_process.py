"""The deployed operator that leads, whose processes are this machine's too: tests kill and stop them as faults do."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from questline_operator.shell.api import CONFIG_MAPS, LEASES, Api, Object
from questline_operator.shell.epoch import FENCE, KEY

NAMESPACE = "questline-system"
LEASE = "questline-operator"


@dataclass(frozen=True)
class LeadingOperator:
    """One leadership.

    Attributes:
        pod: the name of the leader's pod.
        uid: its UID.
        epoch: the leadership's number.
    """

    pod: str
    uid: str
    epoch: int

    def pids(self) -> list[int]:
        """The operator's processes in that pod, whichever container's they are; none while it restarts."""
        return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and self._owns(folder)]

    def send(self, sig: signal.Signals) -> list[int]:
        """Send it a signal; the ids of the processes that got it.

        Raises:
            RuntimeError: it has no process on this machine.
        """
        pids = self.pids()
        if not pids:
            raise RuntimeError(f"no process of pod {self.pod} here: is this the local cluster?")
        for pid in pids:
            os.kill(pid, sig)
        return pids

    def kill(self) -> None:
        """SIGKILL: the kubelet starts the container again, at once the first time, later and later after that."""
        self.send(signal.SIGKILL)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[list[int]]:
        """SIGSTOP until the context ends, however it does."""
        pids: list[int] = []
        try:
            pids = self.send(signal.SIGSTOP)
            yield pids
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # the liveness probe has it killed after half a minute
                    os.kill(pid, signal.SIGCONT)

    def _owns(self, process: Path) -> bool:
        try:
            command = (process / "cmdline").read_bytes()
            return b"questline_operator" in command and self.uid in (process / "cgroup").read_text()
        except OSError:
            return False  # it ended while we looked


async def leading_operator(api: Api, *, after: int = 0) -> LeadingOperator:
    """The operator that leads, once its epoch is higher than ``after``.

    Raises:
        RuntimeError: the API server ended the watch, after some minutes, before another led.
    """
    listing = await api.list(CONFIG_MAPS)
    epoch = max(_epoch(config_map) for config_map in listing.items)
    if epoch <= after:
        async for event in api.watch(CONFIG_MAPS, since=listing.resource_version):
            epoch = _epoch(event.object) if event.type in ("ADDED", "MODIFIED") else 0
            if epoch > after:
                break
        else:
            raise RuntimeError(f"nobody led after epoch {after}")
    lease = await api.get(LEASES, NAMESPACE, LEASE)
    pod, _, uid = lease["spec"]["holderIdentity"].partition("_")
    if not uid:
        return await leading_operator(api, after=epoch)  # it has given its Lease back
    return LeadingOperator(pod, uid, epoch)


def _epoch(config_map: Object) -> int:
    meta = config_map["metadata"]
    return int(config_map["data"][KEY]) if (meta.get("namespace"), meta["name"]) == (NAMESPACE, FENCE) else 0


async def ended(pids: list[int]) -> None:
    """Return once none of the processes, which need not be children of this one, lives."""
    for pid in pids:
        try:
            watched = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(watched, over.set)
        try:
            await over.wait()
        finally:
            asyncio.get_running_loop().remove_reader(watched)
            os.close(watched)
