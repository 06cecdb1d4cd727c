"""HttpApi against a server on loopback that answers as each test says: what is sent, and what each answer becomes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import kopf
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from questline_operator.shell import http_api
from questline_operator.shell.api import (
    CONFIG_MAPS,
    JOBS,
    NAMESPACES,
    PODS,
    ApiError,
    NoAnswerError,
    WatchEvent,
)
from questline_operator.shell.http_api import HttpApi

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOBS_PATH = "/apis/questline.dev/v1alpha1/questjobs"


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Backend:
    """A server that notes each request and gives the next of its answers, the last one again and again."""

    answers: list[Answer]
    seen: list[Seen] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = orjson.loads(data) if data else None
        self.seen.append(Seen(request.method, request.raw_path, dict(request.query), dict(request.headers), body))
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        return await answer(request)

    @asynccontextmanager
    async def api(self, **options: Any) -> AsyncIterator[HttpApi]:
        application = web.Application(client_max_size=10**8)
        application.router.add_route("*", "/{path:.*}", self.handle)
        info_options = options.pop("info", {})
        async with TestServer(application, host="127.0.0.1") as server:
            info = kopf.ConnectionInfo(server=str(server.make_url("/")), **info_options)
            async with HttpApi.connect(info, **options) as api:
                yield api


@dataclass
class StoppedClock:
    """A clock that a test sets by hand."""

    time: float = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def answer(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    data = body if isinstance(body, bytes) else orjson.dumps(body)

    async def give(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=data, headers=headers)

    return give


def refusal(status: int, reason: str, message: str, **details: object) -> Answer:
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}
    return answer(body | ({"details": details} if details else {}), status=status)


def stream(*chunks: bytes, then: Callable[[web.Request], Awaitable[None]] | None = None) -> Answer:
    async def give(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then is not None:
            await then(request)
        return response

    return give


async def reset(request: web.Request) -> web.StreamResponse:
    """The connection breaks after the request was read."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    """No answer comes."""
    await asyncio.Event().wait()
    return web.Response()


def event(type_: str, name: str, version: int, **extra: object) -> bytes:
    body = {"metadata": {"name": name, "resourceVersion": str(version)}, **extra}
    return orjson.dumps({"type": type_, "object": body}) + b"\n"


async def watched(api: HttpApi, *, since: str = "5", labels: str = "") -> list[WatchEvent]:
    return [event async for event in api.watch(JOBS, since=since, labels=labels)]


# What is sent


async def test_each_call_is_one_request_of_its_own_form() -> None:
    backend = Backend([answer({"metadata": {}})])
    async with backend.api() as api:
        await api.get(JOBS, "ns", "job")
        await api.get(NAMESPACES, "", "ns")
        await api.create(PODS, "ns", {"metadata": {"name": "p"}})
        await api.create(PODS, "ns", {"metadata": {"name": "p"}}, dry_run=True)
        await api.replace(CONFIG_MAPS, "ns", "map", {"data": {}})
        await api.patch(JOBS, "ns", "job", [{"op": "remove", "path": "/status/x"}], subresource="status")
        await api.patch(JOBS, "ns", "job", [])
        await api.delete(JOBS, "ns", "job", uid="u-1")
        await api.delete(JOBS, "ns", "job", uid="u-1", resource_version="7")
    jobs = "/apis/questline.dev/v1alpha1/namespaces/ns/questjobs/job"
    assert [(seen.method, seen.path) for seen in backend.seen] == [
        ("GET", jobs),
        ("GET", "/api/v1/namespaces/ns"),
        ("POST", "/api/v1/namespaces/ns/pods"),
        ("POST", "/api/v1/namespaces/ns/pods?dryRun=All"),
        ("PUT", "/api/v1/namespaces/ns/configmaps/map"),
        ("PATCH", f"{jobs}/status"),
        ("PATCH", jobs),
        ("DELETE", jobs),
        ("DELETE", jobs),
    ]
    assert backend.seen[5].headers["Content-Type"] == "application/json-patch+json"
    assert backend.seen[5].body == [{"op": "remove", "path": "/status/x"}]
    assert backend.seen[2].headers["Content-Type"] == "application/json"
    assert backend.seen[7].body["propagationPolicy"] == "Background"
    assert [seen.body["preconditions"] for seen in backend.seen[7:]] == [
        {"uid": "u-1"},
        {"uid": "u-1", "resourceVersion": "7"},
    ]


async def test_a_server_below_a_path_is_asked_below_it_and_names_are_quoted() -> None:
    backend = Backend([answer({})])
    async with backend.api() as api:
        api._server += "/clusters/one"
        await api.get(JOBS, "ns", "a/../b?c")
    assert backend.seen[0].path == ("/clusters/one/apis/questline.dev/v1alpha1/namespaces/ns/questjobs/a%2F..%2Fb%3Fc")


async def test_a_list_reads_all_pages_of_500_and_keeps_their_one_version() -> None:
    pages = [
        {"metadata": {"resourceVersion": "9", "continue": "next page/1"}, "items": [{"a": 1}, {"a": 2}]},
        {"metadata": {"resourceVersion": "9", "continue": "next page/2"}, "items": [{"a": 3}]},
        {"metadata": {"resourceVersion": "9"}, "items": None},
    ]
    backend = Backend([answer(page) for page in pages])
    async with backend.api() as api:
        listing = await api.list(JOBS, labels="a in (b,c)")
    assert [item["a"] for item in listing.items] == [1, 2, 3]
    assert listing.resource_version == "9"
    assert [seen.query for seen in backend.seen] == [
        {"limit": "500", "labelSelector": "a in (b,c)"},
        {"limit": "500", "labelSelector": "a in (b,c)", "continue": "next page/1"},
        {"limit": "500", "labelSelector": "a in (b,c)", "continue": "next page/2"},
    ]
    assert {seen.path.partition("?")[0] for seen in backend.seen} == {JOBS_PATH}


async def test_a_list_whose_pages_have_expired_is_an_error_and_never_a_part() -> None:
    backend = Backend(
        [
            answer({"metadata": {"resourceVersion": "9", "continue": "x"}, "items": [{}]}),
            refusal(410, "Expired", "The provided continue parameter is too old"),
        ]
    )
    async with backend.api() as api:
        with pytest.raises(ApiError, match="410 Expired"):
            await api.list(JOBS)


# Watches


async def test_a_watch_asks_for_bookmarks_and_an_end_and_gives_events_however_they_are_cut() -> None:
    data = event("ADDED", "a", 6) + event("BOOKMARK", "", 7) + b"\n" + event("DELETED", "a", 8)
    backend = Backend([stream(*(data[i : i + 7] for i in range(0, len(data), 7)))])
    async with backend.api() as api:
        events = await watched(api, labels="questline.dev/job")
    assert [(e.type, e.object["metadata"]["resourceVersion"]) for e in events] == [
        ("ADDED", "6"),
        ("BOOKMARK", "7"),
        ("DELETED", "8"),
    ]
    assert backend.seen[0].query == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "5",
        "timeoutSeconds": "290",
        "labelSelector": "questline.dev/job",
    }


async def test_an_event_of_two_megabytes_passes() -> None:
    backend = Backend([stream(event("ADDED", "big", 6, spec={"args": "x" * 2_000_000}))])
    async with backend.api() as api:
        (big,) = await watched(api)
    assert len(big.object["spec"]["args"]) == 2_000_000


@pytest.mark.parametrize(
    "gone",
    [
        refusal(410, "Expired", "too old resource version: 5 (9)"),
        stream(
            event("ADDED", "a", 6)
            + orjson.dumps(
                {
                    "type": "ERROR",
                    "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
                }
            )
            + b"\n"
        ),
    ],
    ids=["as a status", "as an event"],
)
async def test_a_watch_from_before_history_ends_with_410(gone: Answer) -> None:
    async with Backend([gone]).api() as api:
        with pytest.raises(ApiError) as caught:
            await watched(api)
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


async def _break(request: web.Request) -> None:
    await reset(request)


async def test_a_watch_that_breaks_is_no_answer_and_keeps_what_came_before() -> None:
    backend = Backend([stream(event("ADDED", "a", 6), then=_break)])
    came: list[str] = []

    async def follow(api: HttpApi) -> None:
        async for one in api.watch(JOBS, since="5"):
            came.append(one.type)  # noqa: PERF401 - what came before the error is the point

    async with backend.api() as api:
        with pytest.raises(NoAnswerError, match=f"GET {JOBS_PATH}"):
            await follow(api)
    assert came == ["ADDED"]


async def test_a_watch_that_ends_inside_an_event_is_no_answer() -> None:
    async with Backend([stream(event("ADDED", "a", 6)[:-20])]).api() as api:
        with pytest.raises(NoAnswerError, match="in the middle of an event"):
            await watched(api)


async def test_a_watch_that_speaks_no_json_is_no_answer() -> None:
    async with Backend([stream(b"<html>Bad gateway</html>\n")]).api() as api:
        with pytest.raises(NoAnswerError, match="not an event: <html>Bad gateway"):
            await watched(api)


async def test_a_watch_that_falls_silent_is_no_answer() -> None:
    async def wait(request: web.Request) -> None:
        await asyncio.Event().wait()

    backend = Backend([stream(event("ADDED", "a", 6), then=wait)])
    async with backend.api(silence_seconds=0.2) as api:
        with pytest.raises(NoAnswerError, match="timed out"):
            await watched(api)


async def test_a_watch_that_is_left_ends_its_connection_and_the_next_call_works() -> None:
    left = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(event("ADDED", "a", 6))
                await asyncio.sleep(0.01)
        finally:
            left.set()

    backend = Backend([endless, answer({"metadata": {"name": "job"}})])
    async with backend.api() as api:
        watch = cast("AsyncGenerator[WatchEvent, None]", api.watch(JOBS, since="5"))
        async with aclosing(watch):
            async for _ in watch:
                break
        async with asyncio.timeout(5):
            await left.wait()
        assert (await api.get(JOBS, "ns", "job"))["metadata"]["name"] == "job"


# Answers that are errors


async def test_a_status_becomes_an_error_with_its_words() -> None:
    backend = Backend([refusal(409, "AlreadyExists", 'questjobs.questline.dev "job" already exists')])
    async with backend.api() as api:
        with pytest.raises(ApiError) as caught:
            await api.create(JOBS, "ns", {})
    error = caught.value
    assert (error.status, error.reason) == (409, "AlreadyExists")
    assert error.message == 'questjobs.questline.dev "job" already exists'
    assert error.definite
    assert error.retry_after_seconds is None


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503, 504])
async def test_an_error_that_may_pass_is_not_definite(status: int) -> None:
    async with Backend([refusal(status, "Reason", "message")]).api() as api:
        with pytest.raises(ApiError) as caught:
            await api.get(JOBS, "ns", "job")
    assert caught.value.status == status
    assert not caught.value.definite


@pytest.mark.parametrize(
    "asked",
    [
        answer(
            {"kind": "Status", "reason": "TooManyRequests", "message": "m"}, status=429, headers={"Retry-After": "3"}
        ),
        refusal(429, "TooManyRequests", "m", retryAfterSeconds=3),
    ],
    ids=["by its header", "by its status"],
)
async def test_a_server_that_asks_for_patience_is_heard(asked: Answer) -> None:
    async with Backend([asked]).api() as api:
        with pytest.raises(ApiError) as caught:
            await api.get(JOBS, "ns", "job")
    assert caught.value.retry_after_seconds == 3.0


@pytest.mark.parametrize(
    ("given", "status", "reason", "message"),
    [
        (answer(b"<html>\n<b>Bad  gateway</b>" + b"x" * 9999, status=502), 502, "BadGateway", "<html> <b>Bad gateway"),
        (answer(b"", status=503), 503, "ServiceUnavailable", "Service Unavailable"),
        (answer([1, 2], status=404), 404, "NotFound", "[1,2]"),
        (answer({"kind": "Status"}, status=403), 403, "Unknown", "the API server gave no message"),
    ],
    ids=["a proxy's page", "nothing", "another JSON", "an empty Status"],
)
async def test_an_error_without_a_status_still_says_what_it_can(
    given: Answer, status: int, reason: str, message: str
) -> None:
    async with Backend([given]).api() as api:
        with pytest.raises(ApiError) as caught:
            await api.get(JOBS, "ns", "job")
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) <= 300


# No answers


async def test_a_connection_that_cannot_be_made_is_no_answer() -> None:
    info = kopf.ConnectionInfo(server=f"http://127.0.0.1:{unused_port()}")
    async with HttpApi.connect(info) as api:
        with pytest.raises(NoAnswerError, match="ClientConnectorError"):
            await api.get(JOBS, "ns", "job")


async def test_a_request_without_an_answer_in_time_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_api, "REQUEST_SECONDS", 0.2)
    async with Backend([hang]).api() as api:
        with pytest.raises(NoAnswerError, match=f"^GET {JOBS_PATH}: timed out"):
            await api.list(JOBS)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_whose_connection_breaks_is_sent_once_and_no_more(method: str) -> None:
    # The first answer leaves a connection that is kept alive: on such a one, aiohttp would repeat GET, PUT and DELETE.
    backend = Backend([answer({}), reset])
    async with backend.api() as api:
        await api.get(JOBS, "ns", "job")
        with pytest.raises(NoAnswerError, match=f"{method} /x: "):
            await api.request(method, "/x", body=None if method == "GET" else b"{}")
    assert [seen.method for seen in backend.seen] == ["GET", method]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(b"<html>Sign in</html>"), "not JSON: <html>Sign in"),
        (answer(b"", status=302, headers={"Location": "/login"}), "answered 302"),
    ],
)
async def test_an_answer_that_is_no_api_servers_is_no_answer(given: Answer, why: str) -> None:
    async with Backend([given]).api() as api:
        with pytest.raises(NoAnswerError, match=why):
            await api.get(JOBS, "ns", "job")


async def test_an_answer_cut_short_is_no_answer() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"metadata":')
        return await reset(request)

    async with Backend([short]).api() as api:
        with pytest.raises(NoAnswerError):
            await api.get(JOBS, "ns", "job")


# Credentials


async def sent_token(api: HttpApi, backend: Backend) -> str:
    await api.get(JOBS, "ns", "job")
    return backend.seen[-1].headers["Authorization"]


async def test_a_renewed_service_account_token_is_used_within_a_minute(tmp_path: Path) -> None:
    file, clock, backend = tmp_path / "token", StoppedClock(), Backend([answer({})])
    file.write_text("first\n")
    async with backend.api(info={"token": "first"}, token_file=file, clock=clock) as api:
        assert await sent_token(api, backend) == "Bearer first"
        file.write_text("second\n")
        clock.time += 59.0
        assert await sent_token(api, backend) == "Bearer first"
        clock.time += 1.0
        assert await sent_token(api, backend) == "Bearer second"


async def test_a_token_file_that_vanishes_or_is_empty_changes_nothing(tmp_path: Path) -> None:
    file, clock, backend = tmp_path / "token", StoppedClock(), Backend([answer({})])
    file.write_text("first")
    async with backend.api(info={"token": "first"}, token_file=file, clock=clock) as api:
        for change in (lambda: file.write_text(""), file.unlink):
            change()
            clock.time += 60.0
            assert await sent_token(api, backend) == "Bearer first"


async def test_a_token_that_is_not_the_files_does_not_follow_it(tmp_path: Path) -> None:
    file, clock, backend = tmp_path / "token", StoppedClock(), Backend([answer({})])
    file.write_text("the pod's")
    async with backend.api(info={"token": "kubeconfig's"}, token_file=file, clock=clock) as api:
        clock.time += 600.0
        assert await sent_token(api, backend) == "Bearer kubeconfig's"
