"""The Kubernetes API as the operator uses it: seven calls, and the two ways in which a call can fail.

`Api` is the seam: `http_api.HttpApi` speaks to a real API server, the simulation puts an in-memory one in its place.
Objects are the API's own JSON as dictionaries; whoever receives one does not change it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Object = dict[str, Any]
"""One resource as the API's JSON."""

PatchOperation = Mapping[str, Any]
"""One JSON Patch operation (RFC 6902)."""


@dataclass(frozen=True)
class Resource:
    """A kind of object, named as its URL names it: never by a bare plural, which other groups may share."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``group/version``, or ``version`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


JOBS = Resource("questline.dev", "v1alpha1", "questjobs")
QUEUES = Resource("questline.dev", "v1alpha1", "questqueues")
WORKERS = Resource("questline.dev", "v1alpha1", "questworkers")
SCHEDULES = Resource("questline.dev", "v1alpha1", "questschedules")
PODS = Resource("", "v1", "pods")
NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps")
LEASES = Resource("coordination.k8s.io", "v1", "leases")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False)


class ApiError(Exception):
    """The API server answered no: the call had no effect.

    Args:
        status: the HTTP status, 400 to 599.
        reason: the API's word for it, as ``AlreadyExists``, ``Conflict``, ``Invalid``, ``Forbidden``, ``Expired``.
        message: the API server's own sentence.
        retry_after_seconds: when it asks to be called again later, else None.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def definite(self) -> bool:
        """Whether the same call would be answered the same way again: a 4xx that asks for no retry.

        401 passes when credentials are renewed, 408 and 429 ask for a repeat; a 5xx may have been applied.
        """
        return 400 <= self.status < 500 and self.status not in (401, 408, 429)


class NoAnswerError(Exception):
    """The connection broke or timed out: the call may or may not have had its effect."""


@dataclass(frozen=True)
class Listing:
    """Every object of a kind at one moment, and the resourceVersion from which a watch goes on."""

    items: Sequence[Object]
    resource_version: str


@dataclass(frozen=True)
class WatchEvent:
    """One line of a watch. A BOOKMARK's object holds only a resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Api(Protocol):
    """The calls. Each raises `ApiError` on a definite answer and `NoAnswerError` when none came; none retries."""

    async def list(self, resource: Resource, *, labels: str = "") -> Listing:
        """Every object in all namespaces, consistently read (no resourceVersion given), in pages.

        Args:
            labels: a label selector, as ``questline.dev/job``.
        """
        ...

    def watch(self, resource: Resource, *, since: str, labels: str = "") -> AsyncIterator[WatchEvent]:
        """Events after ``since``, bookmarks included, until the server ends the stream (the iterator stops).

        Raises:
            ApiError: 410 when ``since`` is too old (as a status or as an ERROR event).
            NoAnswerError: the stream broke, or nothing came for longer than the server's own time limit.
        """
        ...

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object; ``namespace`` is "" for a cluster-scoped one."""
        ...

    async def create(self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create it, or with ``dry_run`` have the server check it in full and store nothing."""
        ...

    async def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """PUT it; ``body.metadata.resourceVersion``, where given, is a precondition (409 Conflict)."""
        ...

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        operations: Sequence[PatchOperation],
        *,
        subresource: str = "",
    ) -> Object:
        """Apply a JSON Patch (RFC 6902), to ``subresource`` ("status") where given."""
        ...

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str = ""
    ) -> None:
        """Delete it, with its own grace period and its dependants in the background.

        Args:
            uid: a precondition, as is ``resource_version`` where given (409 Conflict).
        """
        ...
