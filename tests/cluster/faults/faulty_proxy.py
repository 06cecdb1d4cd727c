"""A proxy on loopback between an operator and the API server: it does what bad networks and bad servers do."""

import asyncio
import base64
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from tests.kube import Kube

SLOW_SECONDS = (0.1, 1.5)
LATE_SECONDS = 11.0
"""Longer than the operator waits for an answer: it has given the request up when that is applied."""
CUT_AFTER_SECONDS = (0.05, 1.0)
_HOP_BY_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"})


class Fault(StrEnum):
    """What happens to one request. Those on writes alone let reads through."""

    SLOW = "slow"
    """Forwarded after a while; a watch shows its events late."""
    LATE = "late write"
    """Forwarded when the operator has given it up. Creations are left out: see docs/decisions.md on stray pods."""
    DROPPED = "dropped"
    """The connection is cut before anything is forwarded."""
    LOST = "answer lost"
    """The connection is cut after the request was applied; a watch's in the middle of an event."""
    FAILED = "answered 500"
    UNAVAILABLE = "answered 503"
    THROTTLED = "answered 429"
    DISK_FULL = "disk full"
    """Writes alone are answered as by an etcd that has no space left."""
    APPLIED_AND_FAILED = "applied, answered 500"
    """Writes alone: as when etcd's answer comes too late for the API server."""


_ANSWERS = {
    Fault.FAILED: (500, "InternalError", "Internal error occurred: rpc error: code = Unknown"),
    Fault.UNAVAILABLE: (503, "ServiceUnavailable", "apiserver is shutting down"),
    Fault.THROTTLED: (429, "TooManyRequests", "too many requests, please try again later"),
    Fault.DISK_FULL: (500, "InternalError", "etcdserver: mvcc: database space exceeded"),
    Fault.APPLIED_AND_FAILED: (500, "InternalError", "etcdserver: request timed out"),
}
_ON_WRITES = frozenset({Fault.LATE, Fault.DISK_FULL, Fault.APPLIED_AND_FAILED})


@dataclass(frozen=True)
class Phase:
    """A stretch of the schedule.

    Attributes:
        chances: how probable each fault is for a request, together at most 1.
        refuses: nothing listens at all.
    """

    seconds: float
    chances: Mapping[Fault, float] = field(default_factory=dict)
    refuses: bool = False


def random_phases(seed: int, *, count: int, longest: float) -> list[Phase]:
    """A schedule: some faults of some severity at a time, now and then no listener, calm between.

    Args:
        longest: seconds of a phase, at most.
    """
    draw = random.Random(seed)
    phases: list[Phase] = []
    for _ in range(count):
        seconds = draw.uniform(0.3, 1.0) * longest
        if draw.random() < 0.15:
            phases.append(Phase(seconds, refuses=True))
        else:
            faults = draw.sample(list(Fault), draw.randint(1, 4))
            severity = draw.choice((0.1, 0.3, 0.8))
            phases.append(Phase(seconds, {fault: severity / len(faults) for fault in faults}))
        phases.append(Phase(draw.uniform(0.1, 1.0)))
    return phases


@asynccontextmanager
async def faulty_proxy(kube: Kube, seed: int) -> AsyncIterator["FaultyProxy"]:
    """A proxy to the cluster's API server, without a fault until it is given `phases` to run."""
    config = yaml.safe_load(kube.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    cluster = config["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        proxy = FaultyProxy(session, cluster["server"], random.Random(seed))
        await proxy.listen()
        try:
            yield proxy
        finally:
            await proxy.close()


class FaultyProxy:
    """Made by `faulty_proxy`.

    Attributes:
        chances: how probable each fault is for a request, now.
        faults: how many there were of each.
    """

    def __init__(self, session: aiohttp.ClientSession, server: str, draw: random.Random) -> None:
        self._session = session
        self._server = server
        self._draw = draw
        self.chances: Mapping[Fault, float] = {}
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._open: set[asyncio.Transport] = set()
        self.faults: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    async def run(self, phases: Sequence[Phase]) -> None:
        """Go through the phases, to calm."""
        try:
            for phase in phases:
                self.chances = phase.chances
                if phase.refuses:
                    self.faults["refused connections"] += 1
                    await self.close()
                await asyncio.sleep(phase.seconds)  # the fault's own length: there is nothing to await
                if phase.refuses:
                    await self.listen()
        finally:
            self.chances = {}
            if self._runner is None:
                await self.listen()

    async def listen(self) -> None:
        """Accept connections, at the port of the first time."""
        # A client that leaves does not take its request back: what was sent may be applied whenever.
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), handler_cancellation=False, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._runner is not None:
            for transport in list(self._open):
                transport.abort()
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def _fault(self, *, write: bool, create: bool) -> Fault | None:
        point = self._draw.random()
        for fault, chance in self.chances.items():
            point -= chance
            if point < 0:
                excepted = (fault in _ON_WRITES and not write) or (fault is Fault.LATE and create)
                return None if excepted else fault
        return None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._open.add(transport)
        try:
            fault = self._fault(write=request.method != "GET", create=request.method == "POST")
            if fault is not None:
                self.faults[fault] += 1
            return await self._answer(request, transport, fault)
        except (aiohttp.ClientError, ConnectionError):
            transport.abort()  # the API server itself is away, or the operator is
            return web.Response()
        finally:
            self._open.discard(transport)

    async def _answer(
        self, request: web.BaseRequest, transport: asyncio.Transport, fault: Fault | None
    ) -> web.StreamResponse:
        watch = request.method == "GET" and request.query.get("watch") in ("1", "true")
        body = await request.read()
        if fault is Fault.DROPPED:
            transport.abort()
            return web.Response()
        if fault in _ANSWERS and fault is not Fault.APPLIED_AND_FAILED:
            return _refusal(fault)
        if fault is Fault.LATE:
            await asyncio.sleep(LATE_SECONDS)
        if fault is Fault.SLOW:
            await asyncio.sleep(self._draw.uniform(*SLOW_SECONDS))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = URL(self._server + request.raw_path, encoded=True)
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            if watch and answer.status == 200:
                return await self._stream(request, transport, answer, fault)
            data = await answer.read()
        if fault is Fault.LOST:
            transport.abort()
            return web.Response()
        if fault is Fault.APPLIED_AND_FAILED:
            return _refusal(fault)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        return web.Response(status=answer.status, body=data, headers=kept)

    async def _stream(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        answer: aiohttp.ClientResponse,
        fault: Fault | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        cut_at = loop.time() + self._draw.uniform(*CUT_AFTER_SECONDS) if fault is Fault.LOST else float("inf")
        async for chunk in answer.content.iter_any():
            if fault is Fault.SLOW:
                await asyncio.sleep(self._draw.uniform(*SLOW_SECONDS))
            if loop.time() >= cut_at:
                await response.write(chunk[: len(chunk) // 2])
                transport.abort()
                break
            await response.write(chunk)
        return response


def _refusal(fault: Fault) -> web.Response:
    code, reason, message = _ANSWERS[fault]
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    return web.json_response(status, status=code, headers={"Retry-After": "1"} if code == 429 else {})
