"""The operator, stopped in the middle of a write: ``python -m tests.e2e.freezing_operator N ...``.

It stops itself (SIGSTOP) when it has found that it may create its N-th pod and has not sent the request yet. When it is
sent SIGCONT, the request goes out, and the answer is printed. The switch is this module: the shipped operator has none.
"""

import asyncio
import os
import signal
import sys

from questline_operator import main as operator
from questline_operator.shell.api import PODS, ApiError, Object, Resource
from questline_operator.shell.http_api import HttpApi


class FreezingApi(HttpApi):
    """Counts the pods that are created, and stops before one of them."""

    freeze_at = 0
    _pods = 0

    async def create(self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        """See `Api.create`."""
        counts = resource == PODS and not dry_run
        self._pods += counts
        if not counts or self._pods != self.freeze_at:
            return await super().create(resource, namespace, body, dry_run=dry_run)
        print(f"stopped before {body['metadata']['name']}", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        # Whatever cancels this meanwhile, the answer is waited for: it is what the test is about.
        sending = asyncio.create_task(super().create(resource, namespace, body))
        try:
            return await asyncio.shield(sending)
        finally:
            await asyncio.wait((sending,))
            error = sending.exception()
            answer = str(error) if isinstance(error, ApiError) else f"201, or no answer: {error!r}"
            print(f"the late request was answered: {answer}", flush=True)


if __name__ == "__main__":
    FreezingApi.freeze_at = int(sys.argv[1])
    operator.HttpApi = FreezingApi  # type: ignore[attr-defined]
    sys.exit(operator.main(sys.argv[2:]))
