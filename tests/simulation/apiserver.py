"""An in-memory API server: an `Api` in virtual time that answers as a real one does, wherever the operator can tell.

    server = ApiServer(VirtualClock())
    api = server.client("operator")          # one `Api` for each process, so that faults can pick it out
    server.faults.append(Fault(verb="create", resource=PODS, lose="answer"))

What it does not do: check bodies against the CRDs' schemas (the golden manifests do that on a real server).
"""

import asyncio
import contextvars
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, TypeVar

import orjson

from questline_operator.shell.api import (
    NAMESPACES,
    ApiError,
    Listing,
    NoAnswerError,
    Object,
    PatchOperation,
    Resource,
    WatchEvent,
)
from questline_operator.shell.clock import Clock
from tests.simulation.clock import Freezer
from tests.simulation.controllers import GarbageCollector, NamespaceController
from tests.simulation.faults import Call, Fault
from tests.simulation.kinds import kind_of, selector
from tests.simulation.store import Change, Store, matching

T = TypeVar("T")

Cut = Literal["before", "after", None]
"""Where between two writes a process dies: before this one is sent, or after, its answer unseen."""
WRITES = frozenset({"create", "replace", "patch", "delete"})
BOOKMARK_SECONDS = 60.0
WATCH_SECONDS = 290.0


class Client:
    """One process's connection to the server: an `Api`.

    Args:
        name: what faults and counts know it by.
        freezer: the process, where a test stops it: its requests are not sent, and answers not taken, until thawed.
    """

    def __init__(self, server: "ApiServer", name: str, freezer: Freezer | None) -> None:
        self._server = server
        self.name = name
        self.on_write: Callable[[Call], Cut] | None = None
        """Asked before each write is sent: where the process dies, if it does."""
        self._freezer = freezer
        self._listed: set[Resource] = set()
        self._severed = False

    async def list(self, resource: Resource, *, labels: str = "") -> Listing:
        """See `Api.list`."""
        store = self._server.store

        def listing(fault: Fault) -> Listing:
            at = max(store.oldest, store.version - fault.stale_versions)
            stale = at < store.version and resource in self._listed
            self._listed.add(resource)
            version = at if stale else store.version
            return Listing(store.select(resource, labels, at=at if stale else None), str(version))

        return await self._exchange(Call(self.name, "list", resource), listing)

    async def watch(self, resource: Resource, *, since: str, labels: str = "") -> AsyncIterator[WatchEvent]:
        """See `Api.watch`."""
        call = Call(self.name, "watch", resource)

        def feeding(fault: Fault) -> _Feed:
            start = max(min(int(since), self._server.store.oldest), int(since) - fault.stale_versions)
            return _Feed(self._server, call, str(start), labels)

        feed = await self._exchange(call, feeding)
        try:
            async for event in feed.events():
                await self._unfrozen()
                yield event
        finally:
            feed.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """See `Api.get`."""
        return await self._exchange(
            Call(self.name, "get", resource, namespace, name),
            lambda fault: self._server.store.get(resource, namespace, name),
        )

    async def create(self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        """See `Api.create`."""
        name = body.get("metadata", {}).get("name", "")
        sent = orjson.dumps(body)
        return await self._exchange(
            Call(self.name, "create", resource, namespace, name),
            lambda fault: self._server.store.create(
                resource, namespace, orjson.loads(sent), dry_run=dry_run, client=self.name
            ),
        )

    async def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """See `Api.replace`."""
        sent = orjson.dumps(body)
        return await self._exchange(
            Call(self.name, "replace", resource, namespace, name),
            lambda fault: self._server.store.replace(resource, namespace, name, orjson.loads(sent), client=self.name),
        )

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        operations: Sequence[PatchOperation],
        *,
        subresource: str = "",
    ) -> Object:
        """See `Api.patch`."""
        sent = orjson.dumps([dict(operation) for operation in operations])
        return await self._exchange(
            Call(self.name, "patch", resource, namespace, name, subresource),
            lambda fault: self._server.store.patch(
                resource, namespace, name, orjson.loads(sent), subresource=subresource, client=self.name
            ),
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        """See `Api.delete`. A person with kubectl gives no ``uid``; a kubelet ends a pod with ``grace_seconds`` 0."""
        await self._exchange(
            Call(self.name, "delete", resource, namespace, name),
            lambda fault: self._server.store.delete(
                resource,
                namespace,
                name,
                uid=uid,
                resource_version=resource_version,
                grace_seconds=grace_seconds,
                client=self.name,
            ),
        )

    def sever(self) -> None:
        """The process is dead: it sends nothing more and takes no answer; what it has sent goes its way."""
        self._severed = True

    async def _exchange(self, call: Call, apply: Callable[[Fault], T]) -> T:
        """One request and its answer, through whatever faults are in the way."""
        await self._unfrozen()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        cut: Cut = None
        if self.on_write is not None and call.verb in WRITES and not self._severed:
            cut = self.on_write(call)
        if not self._severed:
            self._server.send(call, apply, answer)
        elif cut == "after":
            unseen: asyncio.Future[T] = loop.create_future()
            unseen.cancel()
            self._server.send(call, apply, unseen)
        result = await answer
        await self._unfrozen()
        return result

    async def _unfrozen(self) -> None:
        if self._freezer is not None:
            await self._freezer.passed()


class ApiServer(Client):
    """The server, and by itself the `Api` of a client named "operator".

    Args:
        clock: whose wall clock stamps objects.
        seed: of UIDs and of faults' chances.
        namespaces: what exists at first.
        latency: seconds from a request to its answer, half of them each way.
        controller_delay: seconds that the garbage collector and the namespace controller take.

    Attributes:
        store: the objects, for tests that look without a request, and ``store.observers``, ``store.admission``.
        faults: see `Fault`; the first that matches a call strikes.
        watch_lag: seconds that each event of a kind takes to a client: ``(client, resource) -> seconds``.
        calls: how often each (client, verb, plural, subresource) arrived.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 0,
        namespaces: Sequence[str] = ("default", "questline-system"),
        latency: float = 0.0,
        controller_delay: float = 0.1,
    ) -> None:
        super().__init__(self, "operator", None)
        self.clock = clock
        self.store = Store(clock, seed=seed)
        self.latency = latency
        self.faults: list[Fault] = []
        self.watch_lag: Callable[[str, Resource], float] = lambda client, resource: 0.0
        self.calls: Counter[tuple[str, str, str, str]] = Counter()
        self._chance = random.Random(seed)
        self._feeds: list[_Feed] = []
        self._held: dict[str, list[Callable[[], None]]] = {}
        for name in namespaces:
            self.store.create(NAMESPACES, "", {"metadata": {"name": name}})
        GarbageCollector(self.store, delay=controller_delay)
        NamespaceController(self.store, delay=controller_delay)
        self.store.observers.append(self._publish)

    def client(self, name: str, freezer: Freezer | None = None) -> Client:
        """Another process's `Api`."""
        return Client(self, name, freezer)

    def compact(self) -> None:
        """Forget history: watches that run go on, one that starts from before is answered 410."""
        self.store.compact()

    def end_watches(
        self, resource: Resource | None = None, *, client: str = "", broken: bool = False, expired: bool = False
    ) -> int:
        """End the watches that match: as at their time limit, ``broken`` as by a reset, or ``expired`` with the ERROR
        event of a server whose cache was made anew. How many there were."""
        ended = [
            feed
            for feed in tuple(self._feeds)
            if resource in (None, feed.call.resource) and feed.call.client.startswith(client)
        ]
        for feed in ended:
            feed.end(broken=broken, expired=expired)
        return len(ended)

    def hold(self, client: str) -> None:
        """Requests of this client stay on their way, as in a queue of some proxy, until `let_go`."""
        self._held.setdefault(client, [])

    def let_go(self, client: str) -> None:
        """What was held of the client arrives now."""
        for arrive in self._held.pop(client, ()):
            arrive()

    def send(self, call: Call, apply: Callable[[Fault], T], answer: "asyncio.Future[T]") -> None:
        """Take a request on its way, which it goes whatever becomes of the process that sent it."""
        loop, fault = asyncio.get_running_loop(), self.fault_for(call)

        def arrive() -> None:
            if call.client in self._held:
                self._held[call.client].append(arrive)
                return
            if fault.lose == "request":
                lost = NoAnswerError(f"{call.verb} {call.resource.plural}: the request was lost")
                loop.call_later(fault.hang_seconds, _fail, answer, lost, context=_OUTSIDE)
                return
            self.calls[call.client, call.verb, call.resource.plural, call.subresource] += 1
            seconds = self.latency / 2 + fault.answer_delay_seconds
            if fault.lose == "answer" and call.verb != "watch":
                seconds += fault.hang_seconds
            try:
                if fault.error is not None:
                    raise fault.error
                result = apply(fault)
            except ApiError as error:
                outcome: ApiError | NoAnswerError = error
                if fault.lose == "answer":
                    outcome = NoAnswerError(f"{call.verb} {call.resource.plural}: the answer was lost")
                loop.call_later(seconds, _fail, answer, outcome, context=_OUTSIDE)
                return
            if isinstance(result, _Feed):
                result.breaks_after_first = fault.lose == "answer"
            elif fault.lose == "answer":
                lost = NoAnswerError(f"{call.verb} {call.resource.plural}: the answer was lost")
                loop.call_later(seconds, _fail, answer, lost, context=_OUTSIDE)
                return
            loop.call_later(seconds, _answer, answer, result, context=_OUTSIDE)

        loop.call_later(self.latency / 2 + fault.delay_seconds, arrive, context=_OUTSIDE)

    def fault_for(self, call: Call) -> Fault:
        """The fault that strikes this call, or one that does nothing."""
        return next((fault for fault in self.faults if fault.strikes(call, self._chance)), _NO_FAULT)

    def attach(self, feed: "_Feed") -> None:
        """Start to hand it events."""
        self._feeds.append(feed)

    def detach(self, feed: "_Feed") -> None:
        """Stop to."""
        if feed in self._feeds:
            self._feeds.remove(feed)

    def _publish(self, change: Change) -> None:
        for feed in tuple(self._feeds):
            if feed.call.resource == change.resource:
                feed.offer(change)


_NO_FAULT = Fault(times=0)
_OUTSIDE = contextvars.Context()
"""What the network and the server do is no part of the process that asked: it goes on while that one is frozen."""


def _answer(answer: "asyncio.Future[T]", result: T) -> None:
    if not answer.done():
        answer.set_result(result)
    elif isinstance(result, _Feed):
        result.close()


def _fail(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class _Feed:
    """One watch: what is on its way to its client."""

    def __init__(self, server: ApiServer, call: Call, since: str, labels: str) -> None:
        selector(labels)
        self.call = call
        self.breaks_after_first = False
        self._server = server
        self._labels = labels
        self._waiting: deque[tuple[float, str, Change]] = deque()
        self._due = 0.0
        self._news = asyncio.Event()
        self._ended: bool | None = None
        self._expired = False
        for change in server.store.history(call.resource, since):
            self.offer(change)
        server.attach(self)

    def offer(self, change: Change) -> None:
        for type_, seen in matching([change], self._labels):
            lag = self._server.watch_lag(self.call.client, self.call.resource)
            self._due = max(self._due, asyncio.get_running_loop().time() + lag)
            self._waiting.append((self._due, type_, seen))
            self._news.set()

    def end(self, *, broken: bool, expired: bool = False) -> None:
        self._ended = broken
        self._expired = expired
        self._news.set()
        self.close()

    def close(self) -> None:
        self._server.detach(self)

    async def events(self) -> AsyncIterator[WatchEvent]:
        """What the client receives; a broken stream loses what was on its way."""
        loop = asyncio.get_running_loop()
        deadline, bookmark = loop.time() + WATCH_SECONDS, loop.time() + BOOKMARK_SECONDS
        while True:
            if self._ended is not None:
                break
            due = self._waiting[0][0] if self._waiting else deadline
            if self._waiting and due <= loop.time():
                _, type_, change = self._waiting.popleft()
                yield WatchEvent(type_, orjson.loads(change.data))  # type: ignore[arg-type]
                if self.breaks_after_first:
                    self.end(broken=True)
            elif loop.time() >= deadline:
                yield self._bookmark()
                break
            elif loop.time() >= bookmark:
                bookmark += BOOKMARK_SECONDS
                if not self._waiting:
                    yield self._bookmark()
            else:
                await self._until(min(due, deadline, bookmark))
        if self._expired:
            raise ApiError(410, "Expired", "The resourceVersion for the provided watch is too old.")
        if self._ended:
            raise NoAnswerError(f"watch {self.call.resource.plural}: the stream broke")

    def _bookmark(self) -> WatchEvent:
        kind = kind_of(self.call.resource)
        return WatchEvent(
            "BOOKMARK",
            {
                "apiVersion": kind.resource.api_version,
                "kind": kind.name,
                "metadata": {"resourceVersion": str(self._server.store.version)},
            },
        )

    async def _until(self, moment: float) -> None:
        """Wait for something new, at the latest until then."""
        self._news.clear()
        try:
            async with asyncio.timeout_at(moment):
                await self._news.wait()
        except TimeoutError:
            pass
