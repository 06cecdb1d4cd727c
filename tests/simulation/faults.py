"""What can go wrong between a client and the API server, as values that a test adds to `ApiServer.faults`."""

import random
from dataclasses import dataclass
from typing import Literal

from questline_operator.shell.api import ApiError, Resource

Verb = Literal["list", "watch", "get", "create", "replace", "patch", "delete"]


@dataclass(frozen=True)
class Call:
    """One request as the server sees it. ``name`` is "" for list and watch."""

    client: str
    verb: Verb
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass
class Fault:
    """What happens to the calls that match: the first fault that matches a call is the only one.

    Args:
        verb, resource, namespace, name, subresource: what it matches; None matches anything.
        client: the start of the client's name.
        times: how many calls it hits, or None for all.
        probability: of hitting a call that matches.
        lose: the request never arrives, or it is applied and its answer never arrives: `NoAnswerError` either way. Of a
            watch, losing the answer means that it breaks after its first event.
        hang_seconds: how long the client waits before it knows of the loss (its own time-out; 0 is a reset).
        error: the server answers this instead of applying the call.
        delay_seconds: the request is on its way for this long.
        answer_delay_seconds: the answer is.
        stale_versions: of a list, how many versions ago it was read, as by a server whose cache is behind; a process's
            first list of a kind is consistent all the same, as it asks for. Of a watch, from how many versions before
            the one asked for it tells again.
    """

    verb: Verb | None = None
    resource: Resource | None = None
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None
    client: str = ""
    times: int | None = 1
    probability: float = 1.0
    lose: Literal["request", "answer"] | None = None
    hang_seconds: float = 0.0
    error: ApiError | None = None
    delay_seconds: float = 0.0
    answer_delay_seconds: float = 0.0
    stale_versions: int = 0
    hits: int = 0

    def strikes(self, call: Call, chance: random.Random) -> bool:
        """Whether it hits this call; counts it if so."""
        matches = (
            call.client.startswith(self.client)
            and self.verb in (None, call.verb)
            and self.resource in (None, call.resource)
            and self.namespace in (None, call.namespace)
            and self.name in (None, call.name)
            and self.subresource in (None, call.subresource)
            and (self.times is None or self.hits < self.times)
        )
        if not matches or (self.probability < 1.0 and chance.random() >= self.probability):
            return False
        self.hits += 1
        return True


def too_many_requests(seconds: float = 1.0) -> ApiError:
    """The 429 of the server's own flow control."""
    return ApiError(
        429,
        "TooManyRequests",
        "the server has received too many requests and has asked us to try again later",
        retry_after_seconds=seconds,
    )


def internal_error() -> ApiError:
    """A 500."""
    return ApiError(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
