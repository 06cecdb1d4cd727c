"""The operator's process on the local cluster, a process of this machine too: to kill it as a crash does."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from questline_operator.shell.api import PODS, Api, Object

LABELS = "app.kubernetes.io/component=operator"


@dataclass(frozen=True)
class OperatorContainer:
    """One life of the operator's container."""

    pod_uid: str
    restarts: int

    def kill(self) -> None:
        """SIGKILL its processes.

        Raises:
            RuntimeError: it has none on this machine.
        """
        pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and self._owns(folder)]
        if not pids:
            raise RuntimeError(f"no process of pod {self.pod_uid} here: is this the local cluster?")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def _owns(self, process: Path) -> bool:
        try:
            command = (process / "cmdline").read_bytes()
            return b"questline_operator" in command and self.pod_uid in (process / "cgroup").read_text()
        except OSError:
            return False  # it ended while we looked


async def running_operator(api: Api, *, after: OperatorContainer | None = None) -> OperatorContainer:
    """The operator's container once it runs; a later life than ``after`` where that is given."""
    listing = await api.list(PODS, labels=LABELS)
    for pod in listing.items:
        found = _running(pod, after)
        if found:
            return found
    async for event in api.watch(PODS, since=listing.resource_version, labels=LABELS):
        found = _running(event.object, after) if event.type in ("ADDED", "MODIFIED") else None
        if found:
            return found
    raise RuntimeError("the watch of the operator's pod ended before it ran")


def _running(pod: Object, after: OperatorContainer | None) -> OperatorContainer | None:
    for status in pod.get("status", {}).get("containerStatuses", ()):
        container = OperatorContainer(pod["metadata"]["uid"], status["restartCount"])
        # The API shows a container as running for a second or two after its end: the count of restarts does not lie.
        later = after is None or container.pod_uid != after.pod_uid or container.restarts > after.restarts
        if "running" in status["state"] and later:
            return container
    return None
