"""The operator, killed at one of its writes: ``python -m tests.cluster.faults.crashing_operator N before|after ...``.

SIGKILL strikes just before its N-th write is sent, or just after it was applied and before the operator learns of it.
The switch is this module: the shipped operator has none.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal

from questline_operator import main as operator
from questline_operator.shell.api import LEASES, Resource
from questline_operator.shell.http_api import HttpApi

Moment = Literal["before", "after"]


class CrashingApi(HttpApi):
    """Counts the writes, renewals of the Lease left out, and dies at one of them."""

    crash_at = 0
    moment: Moment = "before"
    _writes = 0
    _under_way: ClassVar[set[asyncio.Future[Any]]] = set()

    async def create(self, resource: Resource, *args: Any, **kwargs: Any) -> Any:
        """See `Api.create`."""
        dry_run = kwargs.get("dry_run", False)
        return await self._counted(resource, super().create, *args, counts=not dry_run, **kwargs)

    async def replace(self, resource: Resource, *args: Any, **kwargs: Any) -> Any:
        """See `Api.replace`."""
        return await self._counted(resource, super().replace, *args, **kwargs)

    async def patch(self, resource: Resource, *args: Any, **kwargs: Any) -> Any:
        """See `Api.patch`."""
        return await self._counted(resource, super().patch, *args, **kwargs)

    async def delete(self, resource: Resource, *args: Any, **kwargs: Any) -> Any:
        """See `Api.delete`."""
        return await self._counted(resource, super().delete, *args, **kwargs)

    async def _counted(
        self, resource: Resource, send: Callable[..., Awaitable[Any]], *args: Any, counts: bool = True, **kwargs: Any
    ) -> Any:
        if not counts or resource == LEASES:
            return await send(resource, *args, **kwargs)
        self._writes += 1
        if self._writes > self.crash_at:
            await asyncio.Event().wait()  # the end is near
        dies = self._writes == self.crash_at
        if dies and self.moment == "before":
            # Those before it go side by side, and have not left the process yet: they are to be applied.
            await asyncio.gather(*self._under_way, return_exceptions=True)
            os.kill(os.getpid(), signal.SIGKILL)
        sent = asyncio.ensure_future(send(resource, *args, **kwargs))
        self._under_way.add(sent)
        sent.add_done_callback(self._under_way.discard)
        answer = await sent
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def main(crash_at: int, moment: Moment, arguments: list[str]) -> int:
    """Run the operator until it dies."""
    CrashingApi.crash_at, CrashingApi.moment = crash_at, moment
    operator.HttpApi = CrashingApi  # type: ignore[attr-defined]
    return operator.main(arguments)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), "after" if sys.argv[2] == "after" else "before", sys.argv[3:]))
