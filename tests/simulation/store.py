"""What etcd and the API server's registry do together: objects, versions, history, and the rules of each write.

All of it is synchronous: a write happens at one moment, and everyone sees it from then on.
"""

import bisect
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import jsonpatch
import jsonpointer
import orjson

from questline_operator.shell.api import NAMESPACES, PODS, ApiError, Object, PatchOperation, Resource
from questline_operator.shell.clock import Clock
from tests.simulation.kinds import (
    KINDS,
    Kind,
    check_metadata,
    conflict,
    invalid,
    kind_of,
    merged_update,
    not_found,
    selector,
)

Key = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is ""."""


@dataclass(frozen=True)
class Change:
    """One committed write. Whoever gets one changes nothing in it."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: Resource
    version: int
    object: Object
    previous: Object | None
    data: bytes
    """The object as JSON: every reader parses a copy of its own."""

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        meta = self.object["metadata"]
        return meta.get("namespace", ""), meta["name"]


@dataclass(frozen=True)
class Review:
    """A write that is about to be stored, as admission sees it.

    Args:
        client: who asks; "" for the control plane.
        old: None at a creation.
        new: None at a deletion.
    """

    client: str
    resource: Resource
    subresource: str
    old: Object | None
    new: Object | None


Admission = Callable[[Review], None]
"""Called before each write; raises `ApiError` to refuse it."""


class Store:
    """Objects of all kinds under one counter of versions.

    Args:
        clock: whose wall clock stamps creationTimestamp.
        seed: of the UIDs.

    Attributes:
        observers: called with each `Change` at the moment of its commit.
        admission: asked before each write of a client.
    """

    def __init__(self, clock: Clock, *, seed: int = 0) -> None:
        self._clock = clock
        self._random = random.Random(seed)
        self._objects: dict[Resource, dict[Key, tuple[Object, bytes]]] = {resource: {} for resource in KINDS}
        self._log: dict[Resource, list[Change]] = defaultdict(list)
        self._compacted = 100
        self.version = self._compacted
        self.observers: list[Callable[[Change], None]] = []
        self.admission: list[Admission] = []

    # Reading

    def peek(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object, not to be changed, or None."""
        entry = self._objects[resource].get((namespace, name))
        return entry[0] if entry else None

    def peek_all(self, resource: Resource) -> Sequence[Object]:
        """Every object of the kind, not to be changed, by namespace and name."""
        return [self._objects[resource][key][0] for key in sorted(self._objects[resource])]

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """A copy of the object."""
        kind = kind_of(resource)
        return _parse(self._entry(kind, namespace, name)[1])

    def select(self, resource: Resource, labels: str = "", *, at: int | None = None) -> list[Object]:
        """Copies of all objects that the label selector takes, by namespace and name.

        Args:
            at: as they were at this version, which history must reach back to.
        """
        kind, wanted = kind_of(resource), selector(labels)
        objects = self._objects[resource] if at is None else self._as_of(resource, at)
        items = [
            _parse(objects[key][1])
            for key in sorted(objects)
            if wanted(objects[key][0]["metadata"].get("labels") or {})
        ]
        if not kind.custom:
            for item in items:
                # Lists of built-in kinds name the kind once, in the list.
                del item["apiVersion"], item["kind"]
        return items

    def _as_of(self, resource: Resource, version: int) -> dict[Key, tuple[Object, bytes]]:
        objects = dict(self._objects[resource])
        for change in reversed(self._log[resource]):
            if change.version <= version:
                break
            if change.previous is None:
                del objects[change.key]
            else:
                objects[change.key] = change.previous, orjson.dumps(change.previous)
        return objects

    @property
    def oldest(self) -> int:
        """The version from which on history is kept."""
        return self._compacted

    def history(self, resource: Resource, since: str) -> list[Change]:
        """Every change of the kind after that version.

        Raises:
            ApiError: 410 when the history no longer reaches back, 504 for a version that is not there yet.
        """
        kind_of(resource)
        version = int(since)
        if version < self._compacted:
            raise ApiError(410, "Expired", f"too old resource version: {version} ({self._compacted})")
        if version > self.version:
            raise ApiError(504, "Timeout", f"Timeout: Too large resource version: {version}, current: {self.version}")
        log = self._log[resource]
        return log[bisect.bisect_right(log, version, key=lambda change: change.version) :]

    def compact(self) -> None:
        """Forget all history: a watch from an earlier version is answered 410."""
        self._compacted = self.version
        self._log.clear()

    # Writing

    def create(
        self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False, client: str = ""
    ) -> Object:
        """POST."""
        kind, new = kind_of(resource), _copy(body)
        self._check_type(kind, new)
        meta = new.setdefault("metadata", {})
        if meta.get("namespace", namespace) != namespace:
            raise ApiError(
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            )
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{self._random.getrandbits(25):05x}"[-253:]
        if not meta.get("name"):
            raise invalid(kind, "", "metadata.name: Required value: name or generateName is required")
        if resource.namespaced:
            meta["namespace"] = namespace
            self._check_namespace(kind, namespace, meta["name"])
        if meta.get("resourceVersion"):
            raise ApiError(500, "InternalError", "resourceVersion should not be set on objects to be created")
        for field in ("uid", "creationTimestamp", "deletionTimestamp", "generation", "selfLink", "resourceVersion"):
            meta.pop(field, None)
        check_metadata(kind, meta)
        meta["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        meta["creationTimestamp"] = self.timestamp()
        if kind.generation:
            meta["generation"] = 1
        if kind.status:
            new.pop("status", None)
        kind.default(new)
        self._admit(Review(client, resource, "", None, new))
        key = (meta.get("namespace", ""), meta["name"])
        if key in self._objects[resource]:
            raise ApiError(409, "AlreadyExists", f'{kind} "{meta["name"]}" already exists')
        return new if dry_run else self._commit("ADDED", resource, new, None)

    def replace(self, resource: Resource, namespace: str, name: str, body: Object, *, client: str = "") -> Object:
        """PUT of the main resource."""
        kind, new = kind_of(resource), _copy(body)
        self._check_type(kind, new)
        meta = new.setdefault("metadata", {})
        if meta.get("name", name) != name:
            raise ApiError(
                400,
                "BadRequest",
                f"the name of the object ({meta['name']}) does not match the name on the URL ({name})",
            )
        if meta.get("namespace", namespace) != namespace:
            raise ApiError(
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            )
        old = self._entry(kind, namespace, name)[0]
        if not meta.get("resourceVersion") and not kind.unconditional:
            raise invalid(kind, name, "metadata.resourceVersion: Invalid value: 0: must be specified for an update")
        return self._update(kind, old, new, "", client)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        operations: Sequence[PatchOperation],
        *,
        subresource: str = "",
        client: str = "",
    ) -> Object:
        """PATCH with a JSON Patch, applied to the object as it is at this moment."""
        kind = kind_of(resource)
        old, data = self._entry(kind, namespace, name)
        current = _parse(data)
        try:
            for operation in orjson.loads(orjson.dumps([dict(operation) for operation in operations])):
                current = _patched(current, operation)
        except jsonpatch.InvalidJsonPatch as error:
            raise ApiError(400, "BadRequest", f"error decoding patch: {error}") from None
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException):
            raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request") from None
        return self._update(kind, old, _as_stored(current), subresource, client)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_seconds: int | None = None,
        client: str = "",
    ) -> None:
        """DELETE with background propagation: at once, or by finalizers, or for a bound pod by its kubelet."""
        kind = kind_of(resource)
        old = self._entry(kind, namespace, name)[0]
        meta = old["metadata"]
        if uid and uid != meta["uid"]:
            raise conflict(
                kind, name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
            )
        if resource_version and resource_version != meta["resourceVersion"]:
            raise conflict(
                kind,
                name,
                f"Precondition failed: ResourceVersion in precondition: {resource_version}, "
                f"ResourceVersion in object meta: {meta['resourceVersion']}",
            )
        self._admit(Review(client, resource, "", old, None))
        grace = self._grace(resource, old, grace_seconds)
        held = meta.get("finalizers") or old.get("spec", {}).get("finalizers")
        if not held and grace == 0:
            self._commit("DELETED", resource, _copy(old), old)
            return
        if "deletionTimestamp" in meta and grace >= meta.get("deletionGracePeriodSeconds", 0):
            return
        new = _copy(old)
        new["metadata"]["deletionTimestamp"] = self.timestamp(grace)
        new["metadata"]["deletionGracePeriodSeconds"] = grace
        if kind.generation:
            new["metadata"]["generation"] += 1
        if resource == NAMESPACES:
            new["status"]["phase"] = "Terminating"
        self._commit("MODIFIED", resource, new, old)

    def finalize_namespace(self, name: str) -> None:
        """What the namespace controller does last: the namespace is gone."""
        old = self._entry(KINDS[NAMESPACES], "", name)[0]
        self._commit("DELETED", NAMESPACES, _copy(old), old)

    # Within

    def _update(self, kind: Kind, old: Object, new: Object, subresource: str, client: str) -> Object:
        name, meta = old["metadata"]["name"], new["metadata"]
        wanted = meta.get("resourceVersion") or old["metadata"]["resourceVersion"]
        if wanted != old["metadata"]["resourceVersion"]:
            raise conflict(
                kind,
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            )
        result = merged_update(kind, old, new, subresource)
        self._admit(Review(client, kind.resource, subresource, old, result))
        result["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if _canonical(result) == _canonical(old):
            return _copy(old)
        if (
            "deletionTimestamp" in result["metadata"]
            and not result["metadata"].get("finalizers")
            and (old["metadata"].get("finalizers") and not result["metadata"].get("deletionGracePeriodSeconds"))
        ):
            return self._commit("DELETED", kind.resource, result, old)
        return self._commit("MODIFIED", kind.resource, result, old)

    def _commit(
        self, type_: Literal["ADDED", "MODIFIED", "DELETED"], resource: Resource, new: Object, old: Object | None
    ) -> Object:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        data = orjson.dumps(new)
        stored = _parse(data)
        change = Change(type_, resource, self.version, stored, old, data)
        if type_ == "DELETED":
            del self._objects[resource][change.key]
        else:
            self._objects[resource][change.key] = (stored, data)
        self._log[resource].append(change)
        for observer in tuple(self.observers):
            observer(change)
        return new

    def _entry(self, kind: Kind, namespace: str, name: str) -> tuple[Object, bytes]:
        try:
            return self._objects[kind.resource][namespace, name]
        except KeyError:
            raise not_found(kind, name) from None

    def _admit(self, review: Review) -> None:
        for check in self.admission:
            check(review)

    def _check_type(self, kind: Kind, body: Object) -> None:
        given = body.setdefault("apiVersion", kind.resource.api_version), body.setdefault("kind", kind.name)
        if given != (kind.resource.api_version, kind.name):
            why = f"{'/'.join(given)} does not match {kind.resource.api_version}/{kind.name}"
            raise (
                invalid(kind, body.get("metadata", {}).get("name", ""), why)
                if kind.custom
                else ApiError(400, "BadRequest", why)
            )

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        found = self.peek(NAMESPACES, "", namespace)
        if found is None:
            raise not_found(KINDS[NAMESPACES], namespace)
        if "deletionTimestamp" in found["metadata"]:
            raise ApiError(
                403,
                "Forbidden",
                f'{kind} "{name}" is forbidden: unable to create new content in namespace {namespace} '
                "because it is being terminated",
            )

    def _grace(self, resource: Resource, old: Object, asked: int | None) -> int:
        """Seconds that the object lingers: only a pod on a node does, until its kubelet has ended it."""
        if resource != PODS or not old["spec"].get("nodeName"):
            return 0
        if old["status"].get("phase") in ("Succeeded", "Failed"):
            return 0
        grace: int = old["spec"]["terminationGracePeriodSeconds"] if asked is None else asked
        return grace

    def timestamp(self, seconds: float = 0.0) -> str:
        """So many seconds from now, in whole ones, as the API server stamps."""
        return datetime.fromtimestamp(int(self._clock.now() + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def matching(changes: Sequence[Change], labels: str) -> Iterator[tuple[str, Change]]:
    """The changes as a watch with this label selector sees them: one that starts to match is ADDED, one that no longer
    does is DELETED."""
    wanted = selector(labels)
    for change in changes:
        before = (
            change.previous is not None
            and change.type != "ADDED"
            and wanted(change.previous["metadata"].get("labels") or {})
        )
        after = change.type != "DELETED" and wanted(change.object["metadata"].get("labels") or {})
        if after:
            yield ("MODIFIED" if before else "ADDED"), change
        elif before:
            yield "DELETED", change


def _parse(data: bytes) -> Object:
    value: Object = orjson.loads(data)
    return value


def _copy(body: Object) -> Object:
    """A copy as the API server stores it: whatever JSON cannot hold fails here, as it would before a request."""
    value: Object = _as_stored(orjson.loads(orjson.dumps(body)))
    return value


def _as_stored(value: Any) -> Any:
    """Go writes an integral float without a point, so it comes back as an integer."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**63 else value
    if isinstance(value, dict):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_stored(item) for item in value]
    return value


def _patched(body: Object, operation: Object) -> Object:
    """The body with one operation applied, as the API server's own library does it rather than RFC 6902."""
    path = jsonpointer.JsonPointer(operation.get("path") or "")
    if operation.get("op") == "test" and operation.get("value", ...) is None and path.resolve(body, None) is None:
        return body  # a missing member is null
    if operation.get("op") == "replace" and isinstance(path.to_last(body)[0], dict):
        operation = {**operation, "op": "add"}  # ... and may be replaced
    patched: Object = jsonpatch.apply_patch(body, [operation], in_place=True)
    return patched


def _canonical(body: Object) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
