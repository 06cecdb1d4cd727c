"""One suite of behaviours on two API servers, a real one and the simulation's: what holds on one must hold on both.

It is the reason to believe the simulation, and the place where each fact that the operator's code relies on is shown.
On the real server the Jobs are of a copy of their CRD in a group of its own, which no operator looks at.
"""

import asyncio
from uuid import uuid4

import pytest

from questline_operator.shell.api import (
    CONFIG_MAPS,
    LEASES,
    NAMESPACES,
    PODS,
    ApiError,
    Object,
    PatchOperation,
    Resource,
)
from tests.cluster.api_server import Server, typed, version

# Create


async def test_a_created_job_has_what_the_server_adds(server: Server) -> None:
    job = await server.job(labels={"a": "b"})
    meta = job["metadata"]
    assert meta["namespace"] == server.namespace
    assert len(meta["uid"]) == 36
    assert len(meta["creationTimestamp"]) == len("2026-01-31T08:00:00Z")
    assert meta["generation"] == 1
    assert version(job) > 0
    assert meta["labels"] == {"a": "b"}
    assert job["status"] == {"state": "Waiting"}
    assert (job["apiVersion"], job["kind"]) == (server.jobs.api_version, "Job")
    read = await server.api.get(server.jobs, server.namespace, "job")
    assert read == job


async def test_a_job_is_created_without_the_status_that_its_body_has(server: Server) -> None:
    body = {"metadata": {"name": "job"}, "spec": {"task": "tasks:work"}, "status": {"state": "Running", "attempt": 3}}
    job = await server.api.create(server.jobs, server.namespace, typed(server.jobs, "Job", body))
    assert job["status"] == {"state": "Waiting"}


async def test_a_queue_has_a_concurrency_of_10_where_it_says_none(server: Server) -> None:
    body = {"metadata": {"name": "queue"}, "spec": {}}
    queue = await server.api.create(server.queues, server.namespace, typed(server.queues, "Queue", body))
    assert queue["spec"]["concurrency"] == 10


async def test_a_pod_is_pending_whatever_status_its_body_has(server: Server) -> None:
    pod = await server.pod()
    assert pod["status"]["phase"] == "Pending"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 30


async def test_a_name_that_is_taken_is_refused_as_already_existing(server: Server) -> None:
    await server.job()
    with pytest.raises(ApiError) as caught:
        await server.job(spec={"priority": 5})
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    assert caught.value.message == f'questjobs.{server.jobs.group} "job" already exists'
    assert caught.value.definite


async def test_a_dry_run_checks_and_stores_nothing(server: Server) -> None:
    body = typed(server.jobs, "Job", {"metadata": {"name": "job"}, "spec": {"task": "tasks:work"}})
    tried = await server.api.create(server.jobs, server.namespace, body, dry_run=True)
    assert tried["metadata"]["uid"]
    assert await server.names(server.jobs) == []
    await server.job()
    with pytest.raises(ApiError, match="409 AlreadyExists"):
        await server.api.create(server.jobs, server.namespace, body, dry_run=True)


async def test_nothing_is_created_in_a_namespace_that_does_not_exist(server: Server) -> None:
    body = typed(CONFIG_MAPS, "ConfigMap", {"metadata": {"name": "map"}})
    with pytest.raises(ApiError) as caught:
        await server.api.create(CONFIG_MAPS, "no-such-namespace", body)
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    assert caught.value.message == 'namespaces "no-such-namespace" not found'


async def test_nothing_is_created_in_a_namespace_that_is_being_deleted(server: Server) -> None:
    body = {"metadata": {"name": f"ending-{uuid4().hex[:8]}", "finalizers": ["questline.dev/test"]}}
    namespace = await server.api.create(NAMESPACES, "", typed(NAMESPACES, "Namespace", body))
    name = namespace["metadata"]["name"]
    await server.api.delete(NAMESPACES, "", name, uid=namespace["metadata"]["uid"])
    with pytest.raises(ApiError) as caught:
        await server.api.create(CONFIG_MAPS, name, typed(CONFIG_MAPS, "ConfigMap", {"metadata": {"name": "map"}}))
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden")
    assert "because it is being terminated" in caught.value.message
    ending = await server.api.get(NAMESPACES, "", name)
    assert ending["status"]["phase"] == "Terminating"
    remove = [{"op": "remove", "path": "/metadata/finalizers"}]
    await server.api.patch(NAMESPACES, "", name, remove)


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({"name": "Not_A_Name"}, "metadata.name"),
        ({"name": "x" * 254}, "metadata.name"),
        ({"name": "ok", "labels": {"questline.dev/job": "x" * 64}}, "metadata.labels"),
        ({"name": "ok", "labels": {"questline.dev/job": "-x"}}, "metadata.labels"),
        ({"name": "ok", "annotations": {"questline.dev/payload": "x" * 300_000}}, "metadata.annotations"),
    ],
)
async def test_bad_metadata_is_refused_as_invalid(server: Server, meta: Object, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        await server.api.create(CONFIG_MAPS, server.namespace, typed(CONFIG_MAPS, "ConfigMap", {"metadata": meta}))
    assert (caught.value.status, caught.value.reason) == (422, "Invalid")
    assert word in caught.value.message


async def test_a_body_of_another_kind_is_refused(server: Server) -> None:
    for resource, status, reason in ((server.jobs, 422, "Invalid"), (CONFIG_MAPS, 400, "BadRequest")):
        with pytest.raises(ApiError) as caught:
            await server.api.create(resource, server.namespace, typed(resource, "Queue", {"metadata": {"name": "x"}}))
        assert (caught.value.status, caught.value.reason) == (status, reason)


async def test_a_resource_that_nobody_serves_is_not_found(server: Server) -> None:
    with pytest.raises(ApiError, match="404 NotFound"):
        await server.api.list(Resource("questline.dev", "v1alpha1", "questnothings"))


# Values


async def test_null_inside_a_value_is_kept_and_an_integral_float_becomes_an_integer(server: Server) -> None:
    args = {"none": None, "list": [None, 1.0, 2.5, -0.5, 1e3], "deep": {"a": {"b": None}}, "yes": True, "text": "é😀"}
    job = await server.job(spec={"args": args})
    read = (await server.api.get(server.jobs, server.namespace, "job"))["spec"]["args"]
    assert read == job["spec"]["args"] == args
    assert [type(item) for item in read["list"]] == [type(None), int, float, float, int]


async def test_empty_labels_are_no_labels(server: Server) -> None:
    job = await server.job(labels={}, annotations={}, finalizers=[], ownerReferences=[])
    assert not {"labels", "annotations", "finalizers", "ownerReferences"} & job["metadata"].keys()


# Replace


async def test_a_replace_with_an_old_version_is_a_conflict(server: Server) -> None:
    first = await server.config_map(a="1")
    await server.api.replace(CONFIG_MAPS, server.namespace, "map", {**first, "data": {"a": "2"}})
    with pytest.raises(ApiError) as caught:
        await server.api.replace(CONFIG_MAPS, server.namespace, "map", {**first, "data": {"a": "3"}})
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    assert caught.value.message == (
        'Operation cannot be fulfilled on configmaps "map": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    assert (await server.api.get(CONFIG_MAPS, server.namespace, "map"))["data"] == {"a": "2"}


async def test_of_replaces_from_one_version_at_one_moment_one_wins(server: Server) -> None:
    first = await server.config_map(a="0")
    results = await asyncio.gather(
        *(
            server.api.replace(CONFIG_MAPS, server.namespace, "map", {**first, "data": {"a": str(n)}})
            for n in range(1, 9)
        ),
        return_exceptions=True,
    )
    won = [result for result in results if not isinstance(result, BaseException)]
    lost = [result for result in results if isinstance(result, ApiError)]
    assert len(won) == 1
    assert [error.status for error in lost] == [409] * 7


async def test_a_config_map_may_be_replaced_without_a_version_and_a_job_and_a_lease_may_not(server: Server) -> None:
    await server.config_map(a="1")
    body = typed(CONFIG_MAPS, "ConfigMap", {"metadata": {"name": "map"}, "data": {"a": "2"}})
    assert (await server.api.replace(CONFIG_MAPS, server.namespace, "map", body))["data"] == {"a": "2"}
    await server.job()
    lease = typed(LEASES, "Lease", {"metadata": {"name": "lease"}, "spec": {"holderIdentity": "a"}})
    await server.api.create(LEASES, server.namespace, lease)
    job = typed(server.jobs, "Job", {"metadata": {"name": "job"}, "spec": {"task": "tasks:work", "priority": 1}})
    for resource, name, replacement in ((server.jobs, "job", job), (LEASES, "lease", lease)):
        with pytest.raises(
            ApiError, match=r"resourceVersion: Invalid value: .*must be specified for an update"
        ) as caught:
            await server.api.replace(resource, server.namespace, name, replacement)
        assert caught.value.status == 422


async def test_a_replace_that_changes_nothing_writes_nothing(server: Server) -> None:
    first = await server.config_map(a="1")
    same = await server.api.replace(CONFIG_MAPS, server.namespace, "map", first)
    assert version(same) == version(first)


async def test_a_replace_of_what_is_not_there_is_not_found(server: Server) -> None:
    first = await server.config_map(a="1")
    await server.api.delete(CONFIG_MAPS, server.namespace, "map", uid=first["metadata"]["uid"])
    with pytest.raises(ApiError) as caught:
        await server.api.replace(CONFIG_MAPS, server.namespace, "map", first)
    # The version that the body carries can be nobody's any more.
    assert caught.value.status in (404, 409)


async def test_a_replace_of_the_spec_leaves_the_status_and_counts_the_generation(server: Server) -> None:
    job = await server.job()
    job = await server.patch(job, {"op": "add", "path": "/status/attempt", "value": 1})
    assert job["metadata"]["generation"] == 1
    changed = {**job, "spec": {**job["spec"], "priority": 7}, "status": {"state": "Failed"}}
    replaced = await server.api.replace(server.jobs, server.namespace, "job", changed)
    assert replaced["spec"]["priority"] == 7
    assert replaced["status"] == {"state": "Waiting", "attempt": 1}
    assert replaced["metadata"]["generation"] == 2
    labelled = {**replaced, "metadata": {**replaced["metadata"], "labels": {"a": "b"}}}
    assert (await server.api.replace(server.jobs, server.namespace, "job", labelled))["metadata"]["generation"] == 2


async def test_a_body_with_another_objects_uid_is_a_conflict(server: Server) -> None:
    job = await server.job()
    meta = {**job["metadata"], "uid": "00000000-0000-4000-8000-000000000000"}
    with pytest.raises(ApiError, match=r"409 Conflict.*Precondition failed: UID in precondition"):
        await server.api.replace(server.jobs, server.namespace, "job", {**job, "metadata": meta})


# Delete


async def test_a_delete_with_another_uid_or_an_old_version_is_a_conflict(server: Server) -> None:
    job = await server.job()
    uid, old = job["metadata"]["uid"], job["metadata"]["resourceVersion"]
    await server.patch(job, {"op": "add", "path": "/status/attempt", "value": 1})
    for preconditions in (
        {"uid": "00000000-0000-4000-8000-000000000000"},
        {"uid": uid, "resource_version": old},
    ):
        with pytest.raises(ApiError) as caught:
            await server.api.delete(server.jobs, server.namespace, "job", **preconditions)
        assert (caught.value.status, caught.value.reason) == (409, "Conflict")
        assert "precondition" in caught.value.message
    assert await server.names(server.jobs) == ["job"]


async def test_a_delete_with_the_right_uid_and_version_is_done_once(server: Server) -> None:
    job = await server.job()
    meta = job["metadata"]
    await server.api.delete(
        server.jobs, server.namespace, "job", uid=meta["uid"], resource_version=meta["resourceVersion"]
    )
    with pytest.raises(ApiError) as caught:
        await server.api.delete(server.jobs, server.namespace, "job", uid=meta["uid"])
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")


async def test_a_name_can_be_used_again_and_the_old_uid_no_longer_fits(server: Server) -> None:
    first = await server.job()
    await server.api.delete(server.jobs, server.namespace, "job", uid=first["metadata"]["uid"])
    second = await server.job()
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    with pytest.raises(ApiError, match="409 Conflict"):
        await server.api.delete(server.jobs, server.namespace, "job", uid=first["metadata"]["uid"])


async def test_a_finalizer_holds_a_deleted_object_until_it_is_removed(server: Server) -> None:
    job = await server.job(finalizers=["questline.dev/test"])
    await server.api.delete(server.jobs, server.namespace, "job", uid=job["metadata"]["uid"])
    held = await server.api.get(server.jobs, server.namespace, "job")
    assert held["metadata"]["deletionTimestamp"]
    assert held["metadata"]["generation"] == 2
    await server.patch(job, {"op": "remove", "path": "/metadata/finalizers"}, status=False)
    with pytest.raises(ApiError, match="404 NotFound"):
        await server.api.get(server.jobs, server.namespace, "job")


async def test_a_pod_without_a_node_is_deleted_at_once(server: Server) -> None:
    pod = await server.pod(schedulerName="nobody")
    await server.api.delete(PODS, server.namespace, "pod", uid=pod["metadata"]["uid"])
    with pytest.raises(ApiError, match="404 NotFound"):
        await server.api.get(PODS, server.namespace, "pod")


async def test_a_pod_on_a_node_lingers_for_its_grace(server: Server) -> None:
    pod = await server.pod(nodeName="no-such-node", terminationGracePeriodSeconds=20)
    for _ in range(2):
        await server.api.delete(PODS, server.namespace, "pod", uid=pod["metadata"]["uid"])
        ending = await server.api.get(PODS, server.namespace, "pod")
        assert ending["metadata"]["deletionTimestamp"]
        assert ending["metadata"]["deletionGracePeriodSeconds"] == 20


async def test_a_pod_on_a_node_that_has_ended_is_deleted_at_once(server: Server) -> None:
    pod = await server.pod(nodeName="no-such-node")
    operations: list[PatchOperation] = [{"op": "replace", "path": "/status/phase", "value": "Succeeded"}]
    await server.api.patch(PODS, server.namespace, "pod", operations, subresource="status")
    await server.api.delete(PODS, server.namespace, "pod", uid=pod["metadata"]["uid"])
    with pytest.raises(ApiError, match="404 NotFound"):
        await server.api.get(PODS, server.namespace, "pod")


# What the cluster's own controllers do


async def test_what_a_deleted_object_owned_is_deleted_once_no_other_owner_lives(server: Server) -> None:
    one, two = await server.config_map("one"), await server.config_map("two")
    await server.config_map("of-one", owners=[one])
    await server.config_map("of-both", owners=[one, two])
    await server.config_map("of-none")
    since = (await server.api.list(CONFIG_MAPS)).resource_version
    await server.api.delete(CONFIG_MAPS, server.namespace, "one", uid=one["metadata"]["uid"])
    await server.gone(CONFIG_MAPS, "of-one", since=since)
    assert {"of-both", "of-none", "two"} <= set(await server.names(CONFIG_MAPS))
    await server.api.delete(CONFIG_MAPS, server.namespace, "two", uid=two["metadata"]["uid"])
    await server.gone(CONFIG_MAPS, "of-both", since=since)
    assert "of-none" in await server.names(CONFIG_MAPS)


async def test_what_is_made_for_an_owner_that_is_gone_is_deleted_though_its_name_lives_again(server: Server) -> None:
    first = await server.config_map("owner")
    await server.api.delete(CONFIG_MAPS, server.namespace, "owner", uid=first["metadata"]["uid"])
    await server.config_map("owner")
    late = await server.config_map("late", owners=[first])
    await server.gone(CONFIG_MAPS, "late", since=late["metadata"]["resourceVersion"])
    assert "owner" in await server.names(CONFIG_MAPS)


async def test_a_deleted_namespace_goes_with_all_that_is_in_it(server: Server) -> None:
    body = {"metadata": {"name": f"going-{uuid4().hex[:8]}"}}
    namespace = await server.api.create(NAMESPACES, "", typed(NAMESPACES, "Namespace", body))
    name = namespace["metadata"]["name"]
    held = {"metadata": {"name": "held", "finalizers": ["questline.dev/test"]}}
    await server.api.create(CONFIG_MAPS, name, typed(CONFIG_MAPS, "ConfigMap", held))
    await server.api.delete(NAMESPACES, "", name, uid=namespace["metadata"]["uid"])
    # Whatever has a finalizer keeps it.
    assert (await server.api.get(NAMESPACES, "", name))["metadata"]["deletionTimestamp"]
    since = (await server.api.list(NAMESPACES)).resource_version
    await server.api.patch(CONFIG_MAPS, name, "held", [{"op": "remove", "path": "/metadata/finalizers"}])
    await server.gone(NAMESPACES, name, since=since)
    with pytest.raises(ApiError, match="404 NotFound"):
        await server.api.get(CONFIG_MAPS, name, "held")
