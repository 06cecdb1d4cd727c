"""The simulated API server's own promises: faults, watches and controllers.

What it shares with a real API server is in tests/cluster/test_api_conformance.py, on both.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from questline_operator.shell.api import (
    CONFIG_MAPS,
    JOBS,
    NAMESPACES,
    PODS,
    Api,
    ApiError,
    NoAnswerError,
    Object,
    Resource,
    WatchEvent,
)
from tests.simulation.apiserver import BOOKMARK_SECONDS, WATCH_SECONDS, ApiServer, Client, Cut
from tests.simulation.clock import Freezer, VirtualClock, simulated
from tests.simulation.faults import Call, Fault, internal_error, too_many_requests
from tests.simulation.store import Review

NS = "default"


def a_server(**options: Any) -> ApiServer:
    return ApiServer(VirtualClock(), **options)


def now() -> float:
    return asyncio.get_running_loop().time()


async def a_job(api: Api, name: str = "job", **meta: Any) -> Object:
    return await api.create(JOBS, NS, {"metadata": {"name": name, **meta}, "spec": {"task": "a:b"}})


async def a_pod(server: ApiServer, name: str = "pod", *, node: str = "", **meta: Any) -> Object:
    spec = {"nodeName": node} if node else {}
    return await server.create(PODS, NS, {"metadata": {"name": name, **meta}, "spec": spec})


async def names(server: Client, resource: Resource) -> list[str]:
    return [item["metadata"]["name"] for item in (await server.list(resource)).items]


class Watcher:
    """A watch in the background: what it saw, and how it ended."""

    def __init__(self, api: Api, resource: Resource = JOBS, since: str = "") -> None:
        self.events: list[tuple[float, WatchEvent]] = []
        self.error: Exception | None = None
        self._api, self._resource, self._since = api, resource, since
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            since = self._since or (await self._api.list(self._resource)).resource_version
            async for event in self._api.watch(self._resource, since=since):
                self.events.append((now(), event))
        except (ApiError, NoAnswerError) as error:
            self.error = error

    @property
    def types(self) -> list[str]:
        return [event.type for _, event in self.events]


def test_the_same_program_takes_the_same_steps() -> None:
    def play() -> list[tuple[str, str]]:
        @simulated
        async def run() -> list[tuple[str, str]]:
            server = a_server(seed=7, latency=0.01)
            server.faults.append(Fault(verb="create", times=None, probability=0.5, lose="request"))
            await asyncio.gather(*(a_job(server, f"j{n}") for n in range(50)), return_exceptions=True)
            return [(job["metadata"]["name"], job["metadata"]["uid"]) for job in server.store.peek_all(JOBS)]

        return run()

    first = play()
    assert 10 < len(first) < 40
    assert play() == first


# Objects


@simulated
async def test_what_a_reader_changes_is_its_own() -> None:
    server = a_server()
    body: Object = {"metadata": {"name": "job"}, "spec": {"task": "a:b", "args": {"x": [1]}}}
    created = await server.create(JOBS, NS, body)
    body["spec"]["args"]["x"].append(2)
    created["spec"]["args"]["x"].append(3)
    (await server.get(JOBS, NS, "job"))["spec"]["args"]["x"].append(4)
    (await server.list(JOBS)).items[0]["spec"]["args"]["x"].append(5)
    assert (await server.get(JOBS, NS, "job"))["spec"]["args"]["x"] == [1]


@simulated
async def test_versions_of_all_kinds_come_from_one_counter() -> None:
    server = a_server()
    bodies = [await a_job(server), await a_pod(server), await a_job(server, "other")]
    versions = [int(body["metadata"]["resourceVersion"]) for body in bodies]
    assert versions == list(range(versions[0], versions[0] + 3))


@simulated
async def test_creation_is_stamped_in_whole_seconds_of_the_servers_clock() -> None:
    server = a_server()
    await asyncio.sleep(61.9)
    assert (await a_job(server))["metadata"]["creationTimestamp"] == "2026-01-31T08:01:01Z"


@simulated
async def test_admission_is_asked_before_each_write_and_can_refuse_it() -> None:
    server = a_server()
    asked: list[tuple[str, str, bool, bool]] = []

    def check(review: Review) -> None:
        asked.append((review.client, review.resource.plural, review.old is not None, review.new is not None))
        if len(asked) == 3:
            raise ApiError(403, "Forbidden", "the epoch is over")

    server.store.admission.append(check)
    job = await a_job(server.client("operator-1"))
    add = [{"op": "add", "path": "/status/attempt", "value": 1}]
    await server.patch(JOBS, NS, "job", add, subresource="status")
    with pytest.raises(ApiError, match="the epoch is over"):
        await server.delete(JOBS, NS, "job", uid=job["metadata"]["uid"])
    assert [entry[2:] for entry in asked] == [(False, True), (True, True), (True, False)]
    assert asked[0][0] == "operator-1"
    assert await names(server, JOBS) == ["job"]


# Faults


@simulated
async def test_a_lost_request_has_no_effect_and_a_lost_answer_has_it() -> None:
    server = a_server()
    server.faults += [
        Fault(verb="create", name="lost", lose="request", hang_seconds=10.0),
        Fault(verb="create", name="applied", lose="answer"),
    ]
    started = now()
    with pytest.raises(NoAnswerError, match="the request was lost"):
        await a_job(server, "lost")
    assert now() - started == pytest.approx(10.0)
    with pytest.raises(NoAnswerError, match="the answer was lost"):
        await a_job(server, "applied")
    assert await names(server, JOBS) == ["applied"]


@simulated
async def test_a_lost_answer_hides_a_refusal_too() -> None:
    server = a_server()
    await a_job(server)
    server.faults.append(Fault(verb="create", lose="answer"))
    with pytest.raises(NoAnswerError):
        await a_job(server)


@simulated
async def test_an_error_is_given_as_often_as_it_is_asked_for_and_to_whom() -> None:
    server = a_server()
    server.faults += [
        Fault(client="operator", verb="create", resource=JOBS, times=2, error=too_many_requests(3.0)),
        Fault(client="operator", verb="get", error=internal_error()),
    ]
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await a_job(server)
        assert caught.value.retry_after_seconds == 3.0
    await a_job(server.client("someone else"), "other")
    await a_pod(server)
    await a_job(server)
    with pytest.raises(ApiError, match="500 InternalError"):
        await server.get(JOBS, NS, "job")
    assert await names(server, JOBS) == ["job", "other"]


@simulated
async def test_delays_let_a_later_request_overtake_an_earlier_one() -> None:
    server = a_server(latency=0.01)
    job = await a_job(server)
    server.faults.append(Fault(verb="patch", delay_seconds=1.0))
    old = job["metadata"]["resourceVersion"]

    def guarded(attempt: int) -> list[dict[str, Any]]:
        return [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": old},
            {"op": "add", "path": "/status/attempt", "value": attempt},
        ]

    late = asyncio.create_task(server.patch(JOBS, NS, "job", guarded(1), subresource="status"))
    await asyncio.sleep(0.1)
    await server.patch(JOBS, NS, "job", guarded(2), subresource="status")
    with pytest.raises(ApiError, match="409 Conflict"):
        await late
    assert (await server.get(JOBS, NS, "job"))["status"]["attempt"] == 2


@simulated
async def test_a_caller_that_gives_up_does_not_take_its_request_back() -> None:
    server = a_server()
    server.faults.append(Fault(verb="create", answer_delay_seconds=5.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await a_job(server)
    assert await names(server, JOBS) == ["job"]


@simulated
async def test_a_frozen_client_sends_nothing_and_takes_no_answer_until_thawed() -> None:
    server = a_server(latency=0.2)
    freezer = Freezer()
    client = server.client("operator-1", freezer)
    under_way = asyncio.create_task(a_job(client, "under-way"))
    await asyncio.sleep(0.15)
    freezer.freeze()
    later = asyncio.create_task(a_job(client, "later"))
    await asyncio.sleep(10)
    assert await names(server, JOBS) == ["under-way"]
    assert not under_way.done()
    freezer.thaw()
    await asyncio.gather(under_way, later)
    assert await names(server, JOBS) == ["later", "under-way"]


@simulated
async def test_a_frozen_process_makes_no_step_while_what_it_sent_goes_its_way() -> None:
    server = a_server(latency=0.2)
    freezer = Freezer()
    client = server.client("operator-1")
    steps: list[float] = []

    async def process() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await a_job(client, "sent")
        steps.append(asyncio.get_running_loop().time())

    task = freezer.spawn(process())
    await asyncio.sleep(0.05)
    freezer.freeze()
    await asyncio.sleep(10)
    assert await names(server, JOBS) == ["sent"]
    assert steps == []
    freezer.thaw()
    await task
    assert steps[0] >= 10


@simulated
async def test_a_process_that_dies_after_a_write_never_sees_its_answer() -> None:
    server = a_server(latency=0.2)
    client = server.client("operator-1")

    def die(call: Call) -> Cut:
        client.sever()
        return "after" if call.name == "sent" else "before"

    client.on_write = die
    for name in ("sent", "too-late"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await a_job(client, name)
    assert await names(server, JOBS) == ["sent"]


@simulated
async def test_requests_that_are_held_arrive_when_they_are_let_go() -> None:
    server = a_server()
    client = server.client("operator-1")
    server.hold("operator-1")
    held = asyncio.create_task(a_job(client, "held"))
    await a_job(server, "other")
    await asyncio.sleep(5)
    assert await names(server, JOBS) == ["other"]
    server.let_go("operator-1")
    await held
    assert await names(server, JOBS) == ["held", "other"]


@simulated
async def test_a_stale_list_shows_what_was_and_never_comes_first() -> None:
    server = a_server()
    client = server.client("operator-1")
    await a_job(server, "old")
    server.faults.append(Fault(verb="list", times=None, stale_versions=1))
    await a_job(server, "new")
    assert await names(client, JOBS) == ["new", "old"]
    assert await names(client, JOBS) == ["old"]
    assert int((await client.list(JOBS)).resource_version) == server.store.version - 1


@simulated
async def test_calls_are_counted_by_who_made_them_once_they_arrive() -> None:
    server = a_server()
    server.faults.append(Fault(verb="create", lose="request"))
    with pytest.raises(NoAnswerError):
        await a_job(server)
    await a_job(server)
    await server.patch(JOBS, NS, "job", [], subresource="status")
    assert server.calls["operator", "create", "questjobs", ""] == 1
    assert server.calls["operator", "patch", "questjobs", "status"] == 1


# Watches


@simulated
async def test_a_watch_bookmarks_every_minute_and_ends_by_itself_with_one() -> None:
    server = a_server()
    job = await a_job(server)
    watcher = Watcher(server)
    await watcher.task
    assert watcher.error is None
    assert [time for time, _ in watcher.events] == pytest.approx(
        [BOOKMARK_SECONDS * n for n in range(1, 5)] + [WATCH_SECONDS]
    )
    assert set(watcher.types) == {"BOOKMARK"}
    assert {event.object["metadata"]["resourceVersion"] for _, event in watcher.events} == {
        job["metadata"]["resourceVersion"]
    }


@simulated
async def test_a_watch_can_be_ended_and_broken() -> None:
    server = a_server()
    watchers = [Watcher(server), Watcher(server.client("other")), Watcher(server, PODS)]
    await asyncio.sleep(1)
    assert server.end_watches(JOBS, client="operator") == 1
    assert server.end_watches(JOBS, broken=True) == 1
    await asyncio.gather(watchers[0].task, watchers[1].task)
    assert watchers[0].error is None
    assert isinstance(watchers[1].error, NoAnswerError)
    assert not watchers[2].task.done()


@simulated
async def test_a_watch_can_break_after_its_first_event_or_never_begin() -> None:
    server = a_server()
    server.faults += [
        Fault(verb="watch", lose="answer"),
        Fault(verb="watch", lose="request"),
        Fault(verb="watch", error=internal_error()),
    ]
    watchers = [Watcher(server) for _ in range(3)]
    await asyncio.sleep(1)
    await a_job(server, "a")
    await a_job(server, "b")
    await asyncio.gather(*(watcher.task for watcher in watchers))
    assert [watcher.types for watcher in watchers] == [["ADDED"], [], []]
    assert [type(watcher.error) for watcher in watchers] == [NoAnswerError, NoAnswerError, ApiError]


@simulated
async def test_after_a_compaction_a_running_watch_goes_on_and_a_new_one_is_told_410() -> None:
    server = a_server()
    running = Watcher(server)
    await asyncio.sleep(1)
    first = await a_job(server, "a")
    server.compact()
    await a_job(server, "b")
    late = Watcher(server, since=str(int(first["metadata"]["resourceVersion"]) - 1))
    fresh = Watcher(server, since=first["metadata"]["resourceVersion"])
    await asyncio.sleep(1)
    assert running.types == ["ADDED", "ADDED"]
    assert isinstance(late.error, ApiError)
    assert (late.error.status, late.error.reason) == (410, "Expired")
    assert fresh.types == ["ADDED"]


@simulated
async def test_lag_delays_events_of_one_kind_and_keeps_their_order() -> None:
    server = a_server()
    lags = iter([5.0, 1.0, 0.0])
    server.watch_lag = lambda client, resource: next(lags) if resource == JOBS else 0.0
    jobs, pods = Watcher(server), Watcher(server, PODS)
    await asyncio.sleep(1)
    for name in ("a", "b", "c"):
        await a_job(server, name)
    await a_pod(server)
    await asyncio.sleep(10)
    assert [event.object["metadata"]["name"] for _, event in jobs.events] == ["a", "b", "c"]
    assert [time for time, _ in jobs.events] == pytest.approx([6.0, 6.0, 6.0])
    assert pods.events[0][0] == pytest.approx(1.0)


@simulated
async def test_a_watch_from_a_version_that_is_not_there_yet_is_refused() -> None:
    server = a_server()
    watcher = Watcher(server, since="9999999")
    await watcher.task
    assert "504 Timeout: Timeout: Too large resource version" in str(watcher.error)


@simulated
async def test_a_watch_that_its_client_left_costs_nothing_more() -> None:
    server = a_server()
    watch: AsyncIterator[WatchEvent] = server.watch(JOBS, since="100")
    await a_job(server)
    async for _ in watch:
        break
    await watch.aclose()  # type: ignore[attr-defined]
    assert server.end_watches() == 0


# Controllers


def owned_by(*owners: Object) -> list[Object]:
    return [{"kind": "Job", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]} for o in owners]


@simulated
async def test_what_a_deleted_object_owned_is_collected_when_no_other_owner_lives() -> None:
    server = a_server(controller_delay=0.5)
    one, two = await a_job(server, "one"), await a_job(server, "two")
    await a_pod(server, "of-one", ownerReferences=owned_by(one))
    await a_pod(server, "of-both", ownerReferences=owned_by(one, two))
    await a_pod(server, "of-none")
    await server.delete(JOBS, NS, "one", uid=one["metadata"]["uid"])
    assert await names(server, PODS) == ["of-both", "of-none", "of-one"]
    await asyncio.sleep(0.6)
    assert await names(server, PODS) == ["of-both", "of-none"]
    await server.delete(JOBS, NS, "two", uid=two["metadata"]["uid"])
    await asyncio.sleep(0.6)
    assert await names(server, PODS) == ["of-none"]


@simulated
async def test_what_is_created_for_an_owner_that_is_gone_is_collected_even_if_its_name_lives_again() -> None:
    server = a_server()
    job = await a_job(server)
    await server.delete(JOBS, NS, "job", uid=job["metadata"]["uid"])
    await a_job(server)
    await a_pod(server, ownerReferences=owned_by(job))
    await asyncio.sleep(1)
    assert await names(server, PODS) == []


@simulated
async def test_a_pod_on_a_node_is_collected_through_its_grace() -> None:
    server = a_server()
    job = await a_job(server)
    await a_pod(server, node="node-1", ownerReferences=owned_by(job))
    await server.delete(JOBS, NS, "job", uid=job["metadata"]["uid"])
    await asyncio.sleep(1)
    assert (await server.get(PODS, NS, "pod"))["metadata"]["deletionTimestamp"]


@simulated
async def test_a_deleted_namespace_takes_nothing_new_and_is_gone_once_it_is_empty() -> None:
    server = a_server()
    await a_job(server)
    pod = await a_pod(server, node="node-1")
    namespace = await server.get(NAMESPACES, "", NS)
    await server.delete(NAMESPACES, "", NS, uid=namespace["metadata"]["uid"])
    with pytest.raises(ApiError, match=r"403 Forbidden: .*because it is being terminated"):
        await a_job(server, "late")
    await asyncio.sleep(5)
    assert await names(server, JOBS) == []
    assert await names(server, PODS) == ["pod"]
    await server.delete(PODS, NS, "pod", uid=pod["metadata"]["uid"], grace_seconds=0)
    await asyncio.sleep(5)
    assert await names(server, NAMESPACES) == ["questline-system"]
    with pytest.raises(ApiError, match='404 NotFound: namespaces "default" not found'):
        await server.create(CONFIG_MAPS, NS, {"metadata": {"name": "map"}})
