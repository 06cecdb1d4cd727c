"""The controllers that a cluster runs by itself and that Questline relies on: the garbage collector and namespaces'."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from questline_operator.shell.api import NAMESPACES, Resource
from tests.simulation.kinds import KINDS
from tests.simulation.store import Change, Key, Store


class GarbageCollector:
    """Deletes in the background what has owners and none of them exists any more, by UID.

    Args:
        delay: seconds from an owner's end to its dependents'.
    """

    def __init__(self, store: Store, *, delay: float) -> None:
        self._store = store
        self._delay = delay
        self._alive: set[str] = set()
        self._dependents: dict[str, set[tuple[Resource, Key]]] = defaultdict(set)
        store.observers.append(self._observe)

    def _observe(self, change: Change) -> None:
        uid = change.object["metadata"]["uid"]
        before, after = _owners(change.previous), _owners(change.object) if change.type != "DELETED" else set()
        for owner in before - after:
            self._dependents[owner].discard((change.resource, change.key))
        for owner in after - before:
            self._dependents[owner].add((change.resource, change.key))
        if change.type == "DELETED":
            self._alive.discard(uid)
            for resource, key in sorted(self._dependents.pop(uid, ()), key=lambda item: (item[0].plural, item[1])):
                self._soon(resource, key)
        else:
            self._alive.add(uid)
            if after - before and not after & self._alive:
                self._soon(change.resource, change.key)

    def _soon(self, resource: Resource, key: Key) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._collect, resource, key)

    def _collect(self, resource: Resource, key: Key) -> None:
        found = self._store.peek(resource, *key)
        if found is None:
            return
        owners = _owners(found)
        if owners and not owners & self._alive:
            self._store.delete(resource, *key, uid=found["metadata"]["uid"])


class NamespaceController:
    """Empties a namespace that is being deleted, then ends it.

    Args:
        delay: seconds from the deletion of a namespace to that of what it holds.
    """

    def __init__(self, store: Store, *, delay: float) -> None:
        self._store = store
        self._delay = delay
        store.observers.append(self._observe)

    def _observe(self, change: Change) -> None:
        if change.resource == NAMESPACES:
            meta = change.object["metadata"]
            if change.type == "MODIFIED" and "deletionTimestamp" in meta:
                self._soon(self._empty, meta["name"])
        elif change.type == "DELETED" and self._terminating(change.key[0]):
            self._soon(self._finish, change.key[0])

    def _soon(self, step: Callable[[str], None], namespace: str) -> None:
        asyncio.get_running_loop().call_later(self._delay, step, namespace)

    def _terminating(self, namespace: str) -> bool:
        found = self._store.peek(NAMESPACES, "", namespace)
        return found is not None and "deletionTimestamp" in found["metadata"]

    def _content(self, namespace: str) -> list[tuple[Resource, Key]]:
        return [
            (resource, (namespace, found["metadata"]["name"]))
            for resource in KINDS
            if resource.namespaced
            for found in self._store.peek_all(resource)
            if found["metadata"]["namespace"] == namespace
        ]

    def _empty(self, namespace: str) -> None:
        for resource, key in self._content(namespace):
            self._store.delete(resource, *key)
        self._finish(namespace)

    def _finish(self, namespace: str) -> None:
        if self._terminating(namespace) and not self._content(namespace):
            self._store.finalize_namespace(namespace)


def _owners(body: object) -> set[str]:
    if not isinstance(body, dict):
        return set()
    return {owner["uid"] for owner in body["metadata"].get("ownerReferences") or ()}
