"""The rules by which an API server treats each kind, and the parts of them that need no store."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from questline_operator.shell.api import (
    CONFIG_MAPS,
    JOBS,
    LEASES,
    NAMESPACES,
    PODS,
    QUEUES,
    SCHEDULES,
    WORKERS,
    ApiError,
    Object,
    Resource,
)

ANNOTATIONS_LIMIT = 256 * 1024
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def _no_defaults(body: Object) -> None:
    pass


def _job(body: Object) -> None:
    body.setdefault("status", {"state": "Waiting"})


def _queue(body: Object) -> None:
    if isinstance(body.get("spec"), dict):
        body["spec"].setdefault("concurrency", 10)


def _pod(body: Object) -> None:
    spec = body["spec"]
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("serviceAccountName", "default")
    body.setdefault("status", {"phase": "Pending", "qosClass": "BestEffort"})


def _namespace(body: Object) -> None:
    body.setdefault("spec", {"finalizers": ["kubernetes"]})
    body.setdefault("status", {"phase": "Active"})


@dataclass(frozen=True)
class Kind:
    """How the API server treats a kind of object.

    Args:
        custom: defined by a CRD: its lists carry apiVersion and kind on every item, its generation counts every field
            outside metadata and status.
        status: it has a status subresource: the main one ignores status, and the other way round.
        unconditional: a PUT without a resourceVersion is taken.
        generation: it has metadata.generation.
        default: fills in what its schema, or the API server's own code, has defaults for.
    """

    name: str
    resource: Resource
    custom: bool = False
    status: bool = False
    unconditional: bool = False
    generation: bool = False
    default: Callable[[Object], None] = _no_defaults

    def __str__(self) -> str:
        """``questjobs.questline.dev``, as the API server's own messages name it."""
        return ".".join(part for part in (self.resource.plural, self.resource.group) if part)


def _custom(name: str, resource: Resource, default: Callable[[Object], None] = _no_defaults) -> Kind:
    return Kind(name, resource, custom=True, status=True, generation=True, default=default)


KINDS: Mapping[Resource, Kind] = {
    kind.resource: kind
    for kind in (
        _custom("Job", JOBS, _job),
        _custom("Queue", QUEUES, _queue),
        _custom("Worker", WORKERS),
        _custom("Schedule", SCHEDULES),
        Kind("Pod", PODS, status=True, unconditional=True, generation=True, default=_pod),
        Kind("Namespace", NAMESPACES, status=True, unconditional=True, default=_namespace),
        Kind("ConfigMap", CONFIG_MAPS, unconditional=True),
        Kind("Lease", LEASES),
    )
}


def kind_of(resource: Resource) -> Kind:
    """The kind's rules.

    Raises:
        ApiError: 404, nothing serves this resource.
    """
    try:
        return KINDS[resource]
    except KeyError:
        raise ApiError(404, "NotFound", "the server could not find the requested resource") from None


def check_metadata(kind: Kind, meta: dict[str, Any]) -> None:
    """Refuse names, labels and annotations that an API server refuses, and drop what is empty.

    Raises:
        ApiError: 422 Invalid.
    """
    for field in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not meta.get(field, True):
            del meta[field]
    name = meta["name"]
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise invalid(kind, name, f'metadata.name: Invalid value: "{name}": must be a lowercase RFC 1123 subdomain')
    for label, value in (meta.get("labels") or {}).items():
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise invalid(kind, name, f'metadata.labels: Invalid value: "{value}": of {label}, not a label value')
    annotations = meta.get("annotations") or {}
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > ANNOTATIONS_LIMIT:
        raise invalid(kind, name, f"metadata.annotations: Too long: may not be more than {ANNOTATIONS_LIMIT} bytes")


def merged_update(kind: Kind, old: Object, new: Object, subresource: str) -> Object:
    """What the API server stores for ``new`` written over ``old``: fields that this call may not change stay.

    Raises:
        ApiError: 404 for an unknown subresource, 409 for another object's UID, 422 for bad metadata.
    """
    if subresource not in ("", "status") or (subresource and not kind.status):
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    name, old_meta = old["metadata"]["name"], old["metadata"]
    uid = new["metadata"].get("uid", old_meta["uid"])
    if uid != old_meta["uid"]:
        raise conflict(
            kind, name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old_meta['uid']}"
        )
    if subresource:
        result = {**orjson.loads(orjson.dumps(old)), "status": new.get("status")}
        if result["status"] is None:
            del result["status"]
        kind.default(result)
        return result
    result = dict(new)
    result["apiVersion"], result["kind"] = old["apiVersion"], old["kind"]
    if kind.status:
        result.pop("status", None)
        if "status" in old:
            result["status"] = old["status"]
    meta = dict(new["metadata"])
    for field in ("uid", "name", "namespace", "creationTimestamp", "deletionTimestamp", "generation"):
        meta.pop(field, None)
        if field in old_meta:
            meta[field] = old_meta[field]
    if "deletionGracePeriodSeconds" in old_meta:
        meta["deletionGracePeriodSeconds"] = old_meta["deletionGracePeriodSeconds"]
    result["metadata"] = meta
    kind.default(result)
    check_metadata(kind, meta)
    if kind.generation and _counted(result) != _counted(old):
        meta["generation"] = old_meta["generation"] + 1
    return result


def _counted(body: Object) -> Object:
    """What metadata.generation counts changes of."""
    return {field: value for field, value in body.items() if field not in ("metadata", "status")}


def invalid(kind: Kind, name: str, why: str) -> ApiError:
    """A 422."""
    return ApiError(422, "Invalid", f'{kind.name}.{kind.resource.group} "{name}" is invalid: {why}')


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    """A 409 Conflict."""
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {kind} "{name}": {why}')


def not_found(kind: Kind, name: str) -> ApiError:
    """A 404."""
    return ApiError(404, "NotFound", f'{kind} "{name}" not found')


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A label selector as a predicate on labels.

    Raises:
        ApiError: 400 for text that is no selector.
    """
    if not text:
        return lambda labels: True
    tests = [_requirement(part.strip()) for part in re.split(r",(?![^()]*\))", text)]
    return lambda labels: all(test(labels) for test in tests)


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if match := re.fullmatch(r"(!?)\s*([\w./-]+)", text):
        absent, key = match[1] == "!", match[2]
        return lambda labels: (key in labels) is not absent
    if match := re.fullmatch(r"([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)", text):
        name, value, equal = match[1], match[3], match[2] != "!="
        return lambda labels: (labels.get(name) == value) is equal
    if match := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s+\(([^()]*)\)", text):
        name, values, inside = match[1], {v.strip() for v in match[3].split(",")}, match[2] == "in"
        return lambda labels: (labels.get(name) in values) is inside
    raise ApiError(400, "BadRequest", f"unable to parse requirement: {text!r}")
