"""The local cluster's own daemons, killed or stopped under whatever runs; devcluster's `up` starts what is dead."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from devcluster.paths import Paths
from devcluster.processes import Identity, Record

ROOT = Path(__file__).parents[3]
GONE_SECONDS = 10.0
HEALED_SECONDS = 90.0


class Daemons:
    """The daemons of the cluster of this checkout, by the names of `python -m devcluster status`."""

    def __init__(self) -> None:
        self._paths = Paths(ROOT)
        self._stopped: list[Identity] = []

    def _identity(self, name: str) -> Identity:
        record = Record.read(self._paths.pids / f"{name}.json")
        assert record is not None, f"devcluster knows of no daemon {name}"
        assert record.identity.alive, f"{name} does not run"
        return record.identity

    def kill(self, name: str) -> None:
        """SIGKILL; returns when it has ended."""
        assert self._identity(name).kill(signal.SIGKILL, GONE_SECONDS), f"{name} does not end"

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        identity = self._identity(name)
        self._stopped.append(identity)
        identity.kill(signal.SIGSTOP, 0)

    def thaw(self) -> None:
        """SIGCONT to all that are frozen."""
        while self._stopped:
            self._stopped.pop().kill(signal.SIGCONT, 0)

    async def heal(self) -> None:
        """Thaw what is frozen and start what is dead; returns when the cluster is ready.

        Raises:
            AssertionError: it does not get ready; holds what devcluster said.
        """
        self.thaw()
        up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devcluster", "up"),
            cwd=ROOT,
            env=dict(os.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        talk = asyncio.create_task(up.communicate())
        done, _ = await asyncio.wait((talk,), timeout=HEALED_SECONDS)
        if not done:
            up.terminate()
        said, _ = await talk
        assert done, f"devcluster up has not ended within {HEALED_SECONDS:g} s:\n{said.decode()}"
        assert up.returncode == 0, said.decode()
