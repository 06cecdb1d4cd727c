"""An API server as the conformance suite uses it, the real one and the simulation's alike."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from questline_operator.shell.api import (
    CONFIG_MAPS,
    PODS,
    Api,
    Object,
    PatchOperation,
    Resource,
    WatchEvent,
)

CONTROLLER_SECONDS = 90.0


@dataclass
class Server:
    """An API server and a namespace of its own on it."""

    api: Api
    namespace: str
    jobs: Resource
    queues: Resource

    async def job(self, name: str = "job", *, spec: Object | None = None, **meta: Any) -> Object:
        body = {"metadata": {"name": name, **meta}, "spec": {"task": "tasks:work", **(spec or {})}}
        return await self.api.create(self.jobs, self.namespace, typed(self.jobs, "Job", body))

    async def pod(self, name: str = "pod", **spec: Any) -> Object:
        body = {
            "metadata": {"name": name},
            "spec": {
                "containers": [{"name": "worker", "image": "questline.dev/none:1"}],
                "automountServiceAccountToken": False,
                **spec,
            },
        }
        return await self.api.create(PODS, self.namespace, typed(PODS, "Pod", body))

    async def config_map(self, name: str = "map", *, owners: Sequence[Object] = (), **data: str) -> Object:
        kind = {"apiVersion": CONFIG_MAPS.api_version, "kind": "ConfigMap"}
        of = [{**kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]} for owner in owners]
        body = typed(CONFIG_MAPS, "ConfigMap", {"metadata": {"name": name, "ownerReferences": of}, "data": data})
        return await self.api.create(CONFIG_MAPS, self.namespace, body)

    async def patch(self, body: Object, *operations: PatchOperation, status: bool = True) -> Object:
        subresource = "status" if status else ""
        return await self.api.patch(
            self.jobs, self.namespace, body["metadata"]["name"], operations, subresource=subresource
        )

    async def events(self, resource: Resource, since: str, count: int, *, labels: str = "") -> list[WatchEvent]:
        """The next events of this namespace, bookmarks left out."""
        found: list[WatchEvent] = []
        watch = cast("AsyncGenerator[WatchEvent, None]", self.api.watch(resource, since=since, labels=labels))
        async with asyncio.timeout(20), aclosing(watch):
            async for event in watch:
                if event.type != "BOOKMARK" and event.object["metadata"]["namespace"] == self.namespace:
                    found.append(event)
                if len(found) == count:
                    break
        return found

    async def gone(self, resource: Resource, name: str, *, since: str) -> None:
        """Return once a watch tells that it was deleted; a controller of the cluster may take its time."""
        watch = cast("AsyncGenerator[WatchEvent, None]", self.api.watch(resource, since=since))
        async with asyncio.timeout(CONTROLLER_SECONDS), aclosing(watch):
            async for event in watch:
                meta = event.object["metadata"]
                beside = meta.get("namespace", self.namespace) == self.namespace
                if event.type == "DELETED" and beside and meta["name"] == name:
                    return
        raise AssertionError(f"the watch of {resource.plural} ended before {name} was deleted")

    async def names(self, resource: Resource, labels: str = "") -> list[str]:
        """The names of this namespace's objects, in the list's order."""
        listing = await self.api.list(resource, labels=labels)
        metas = [item["metadata"] for item in listing.items]
        return [meta["name"] for meta in metas if meta["namespace"] == self.namespace]


def typed(resource: Resource, kind: str, body: Object) -> Object:
    return {"apiVersion": resource.api_version, "kind": kind, **body}


def version(body: Object) -> int:
    return int(body["metadata"]["resourceVersion"])


def summary(events: Sequence[WatchEvent]) -> list[tuple[str, str]]:
    return [(event.type, event.object["metadata"]["name"]) for event in events]
