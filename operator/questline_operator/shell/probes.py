"""What the kubelet and Prometheus ask the process: /livez, /readyz and /metrics."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

Check = Callable[[], str | None]
"""None where all is well, else one line that says what is not."""


class Probes:
    """An HTTP server for as long as the context lasts.

    Args:
        port: to listen on; 0 for any free one, which ``port`` tells then.
        registry: whose metrics are served.
        live: whether the process works: where it does not, the kubelet restarts it.
        ready: whether it does its job, or stands by to.
        host: the address to listen on; all of them unless told.
    """

    def __init__(
        self, port: int, registry: CollectorRegistry, *, live: Check, ready: Check, host: str | None = None
    ) -> None:
        self.port = port
        self._registry = registry
        self._live = live
        self._ready = ready
        self._host = host
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        application = web.Application()
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        # Probes must not hold up the process's end: its Lease is to be released within the grace.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, request: web.Request) -> web.Response:
        return _answer(self._live())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _answer(trouble: str | None) -> web.Response:
    if trouble is None:
        return web.Response(text="ok\n")
    return web.Response(status=503, text=f"{trouble}\n")
