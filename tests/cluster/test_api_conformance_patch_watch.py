"""JSON Patch, lists and watches on the real and the simulated API server: the other half of the conformance suite."""

import asyncio
from typing import Any

import pytest

from questline_operator.shell.api import (
    PODS,
    ApiError,
    PatchOperation,
)
from tests.cluster.api_server import Server, summary, version

# JSON Patch


async def test_a_status_patch_changes_the_status_alone(server: Server) -> None:
    job = await server.job()
    patched = await server.patch(
        job,
        {"op": "add", "path": "/status/attempt", "value": 1},
        {"op": "replace", "path": "/status/state", "value": "Starting"},
        {"op": "add", "path": "/spec/priority", "value": 9},
    )
    assert patched["status"] == {"state": "Starting", "attempt": 1}
    assert "priority" not in patched["spec"]
    assert version(patched) > version(job)


async def test_a_patch_of_the_main_resource_leaves_the_status(server: Server) -> None:
    job = await server.job()
    patched = await server.patch(
        job,
        {"op": "add", "path": "/status/attempt", "value": 1},
        {"op": "add", "path": "/spec/priority", "value": 9},
        status=False,
    )
    assert patched["status"] == {"state": "Waiting"}
    assert patched["spec"]["priority"] == 9
    assert patched["metadata"]["generation"] == 2


async def test_null_and_nested_values_of_a_report_are_stored_as_they_are(server: Server) -> None:
    job = await server.job()
    report = {"v": 1, "attempt": 1, "outcome": "Succeeded", "result": None, "children": {"total": 0, "groups": {}}}
    results: list[Any] = [None, {"a": None, "b": [None, {"c": None}]}, [], "", 0, False]
    for result in results:
        written = await server.patch(
            job,
            {"op": "test", "path": "/metadata/uid", "value": job["metadata"]["uid"]},
            {"op": "add", "path": "/status/report", "value": {**report, "result": result, "podUID": "12345678"}},
        )
        assert written["status"]["report"]["result"] == result
        assert "result" in (await server.api.get(server.jobs, server.namespace, "job"))["status"]["report"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/metadata/uid", "value": "another"},
        {"op": "test", "path": "/status/nothing", "value": 1},
        {"op": "test", "path": "/status/attempt", "value": True},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "1"},
        {"op": "test", "path": "/spec/task", "value": None},
        {"op": "add", "path": "/status/nothing/more", "value": 1},
        {"op": "remove", "path": "/status/nothing"},
        {"op": "replace", "path": "/status/nothing/more", "value": 1},
        {"op": "replace", "path": "/status/succeededAttempts/7", "value": 1},
    ],
    ids=lambda operation: f"{operation['op']} {operation['path']}",
)
async def test_a_patch_that_does_not_apply_is_invalid_and_changes_nothing(
    server: Server, operation: PatchOperation
) -> None:
    job = await server.job()
    before = await server.patch(job, {"op": "add", "path": "/status/attempt", "value": 1})
    with pytest.raises(ApiError) as caught:
        await server.patch(job, {"op": "add", "path": "/status/failures", "value": 1}, operation)
    assert (caught.value.status, caught.value.reason) == (422, "Invalid")
    assert caught.value.definite
    assert await server.api.get(server.jobs, server.namespace, "job") == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/status/attempt", "value": 1},
        {"op": "test", "path": "/status/nothing", "value": None},
        {"op": "test", "path": "/status/succeededAttempts", "value": [1]},
        {"op": "add", "path": "/status/succeededAttempts/-", "value": 2},
        {"op": "add", "path": "/status/attempt", "value": 2},
        {"op": "replace", "path": "/status/failures", "value": 2},
        {"op": "add", "path": "/metadata/labels", "value": {"questline.dev~1ignored": "x"}},
    ],
    ids=lambda operation: f"{operation['op']} {operation['path']}",
)
async def test_a_patch_that_applies_is_answered_with_the_object(server: Server, operation: PatchOperation) -> None:
    job = await server.job()
    prepare: list[PatchOperation] = [
        {"op": "add", "path": "/status/attempt", "value": 1},
        {"op": "add", "path": "/status/succeededAttempts", "value": [1]},
    ]
    await server.patch(job, *prepare)
    patched = await server.patch(job, operation)
    assert patched == await server.api.get(server.jobs, server.namespace, "job")


async def test_a_patch_with_an_old_version_is_a_conflict_and_with_the_current_one_applies(server: Server) -> None:
    job = await server.job()
    old = job["metadata"]["resourceVersion"]
    current = await server.patch(job, {"op": "add", "path": "/status/attempt", "value": 1})
    add: PatchOperation = {"op": "add", "path": "/status/failures", "value": 1}
    with pytest.raises(ApiError) as caught:
        await server.patch(job, {"op": "replace", "path": "/metadata/resourceVersion", "value": old}, add)
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    same = current["metadata"]["resourceVersion"]
    patched = await server.patch(job, {"op": "replace", "path": "/metadata/resourceVersion", "value": same}, add)
    assert patched["status"]["failures"] == 1


async def test_a_patch_that_changes_nothing_writes_nothing(server: Server) -> None:
    job = await server.job()
    operation = {"op": "add", "path": "/status/attempt", "value": 1}
    patched = await server.patch(job, operation)
    again = await server.patch(job, operation)
    assert version(again) == version(patched)


async def test_an_operation_that_does_not_exist_is_refused(server: Server) -> None:
    job = await server.job()
    with pytest.raises(ApiError) as caught:
        await server.patch(job, {"op": "append", "path": "/status/state", "value": "x"})
    assert caught.value.definite


async def test_a_patch_of_what_is_not_there_is_not_found(server: Server) -> None:
    operations: list[PatchOperation] = [{"op": "add", "path": "/status/attempt", "value": 1}]
    with pytest.raises(ApiError) as caught:
        await server.api.patch(server.jobs, server.namespace, "nothing", operations, subresource="status")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    assert caught.value.message == f'questjobs.{server.jobs.group} "nothing" not found'


async def test_patches_of_one_object_at_one_moment_are_all_applied(server: Server) -> None:
    job = await server.job()
    await server.patch(job, {"op": "add", "path": "/status/succeededAttempts", "value": []})
    await asyncio.gather(
        *(server.patch(job, {"op": "add", "path": "/status/succeededAttempts/-", "value": n}) for n in range(1, 5))
    )
    final = await server.api.get(server.jobs, server.namespace, "job")
    assert sorted(final["status"]["succeededAttempts"]) == [1, 2, 3, 4]


# List and watch


async def test_a_list_is_sorted_by_name_and_its_version_is_the_newest(server: Server) -> None:
    jobs = [await server.job(name) for name in ("b", "a", "c")]
    listing = await server.api.list(server.jobs)
    assert await server.names(server.jobs) == ["a", "b", "c"]
    assert int(listing.resource_version) >= version(jobs[-1])


async def test_items_of_a_list_name_their_kind_only_where_a_crd_defines_it(server: Server) -> None:
    await server.job()
    await server.pod(schedulerName="nobody")
    (job,) = [i for i in (await server.api.list(server.jobs)).items if i["metadata"]["namespace"] == server.namespace]
    (pod,) = [i for i in (await server.api.list(PODS)).items if i["metadata"]["namespace"] == server.namespace]
    assert job["kind"] == "Job"
    assert "kind" not in pod


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("color", ["blue", "red"]),
        ("!color", ["none"]),
        ("color=red", ["red"]),
        ("color==red", ["red"]),
        ("color!=red", ["blue", "none"]),
        ("color in (red, blue)", ["blue", "red"]),
        ("color notin (red)", ["blue", "none"]),
        ("color,color!=red", ["blue"]),
    ],
)
async def test_a_list_holds_what_the_label_selector_takes(server: Server, selector: str, expected: list[str]) -> None:
    await server.job("red", labels={"color": "red"})
    await server.job("blue", labels={"color": "blue"})
    await server.job("none")
    assert await server.names(server.jobs, selector) == expected


async def test_a_watch_shows_every_change_in_order_from_the_lists_version_on(server: Server) -> None:
    await server.job("before")
    since = (await server.api.list(server.jobs)).resource_version
    job = await server.job("x")
    await server.patch(job, {"op": "add", "path": "/status/attempt", "value": 1})
    await server.patch(job, {"op": "add", "path": "/status/attempt", "value": 2})
    await server.api.delete(server.jobs, server.namespace, "x", uid=job["metadata"]["uid"])
    await server.job("y")
    events = await server.events(server.jobs, since, 5)
    assert summary(events) == [
        ("ADDED", "x"),
        ("MODIFIED", "x"),
        ("MODIFIED", "x"),
        ("DELETED", "x"),
        ("ADDED", "y"),
    ]
    versions = [version(event.object) for event in events]
    assert versions == sorted(set(versions))
    assert versions[0] > int(since)
    assert [event.object["status"].get("attempt") for event in events[:4]] == [None, 1, 2, 2]


async def test_a_watch_shows_changes_that_come_while_it_runs(server: Server) -> None:
    since = (await server.api.list(server.jobs)).resource_version
    watching = asyncio.create_task(server.events(server.jobs, since, 2))
    await server.job("x")
    await server.job("y")
    assert summary(await watching) == [("ADDED", "x"), ("ADDED", "y")]


async def test_a_watch_goes_on_from_the_last_event_without_gap_or_repetition(server: Server) -> None:
    since = (await server.api.list(server.jobs)).resource_version
    for name in ("a", "b", "c"):
        await server.job(name)
    first = await server.events(server.jobs, since, 2)
    rest = await server.events(server.jobs, first[-1].object["metadata"]["resourceVersion"], 1)
    assert summary([*first, *rest]) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]


async def test_to_a_watch_by_label_an_object_comes_and_goes_with_its_label(server: Server) -> None:
    since = (await server.api.list(server.jobs)).resource_version
    job = await server.job("x")
    for labels in ({"color": "red"}, {"color": "red", "more": "x"}, {}, {"color": "blue"}):
        await server.patch(job, {"op": "add", "path": "/metadata/labels", "value": labels}, status=False)
    events = await server.events(server.jobs, since, 4, labels="color")
    assert summary(events) == [("ADDED", "x"), ("MODIFIED", "x"), ("DELETED", "x"), ("ADDED", "x")]
    versions = [version(event.object) for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_from_before_history_is_told_that_it_is_gone(server: Server) -> None:
    await server.job()
    with pytest.raises(ApiError) as caught:
        await server.events(server.jobs, "1", 1)
    assert caught.value.status == 410
    assert caught.value.reason in ("Expired", "Gone")


async def test_a_write_that_was_answered_is_in_the_next_list(server: Server) -> None:
    for number in range(20):
        await server.job(f"job-{number:02}")
        assert len(await server.names(server.jobs)) == number + 1
