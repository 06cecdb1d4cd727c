"""The only way to the cluster for writes: it limits them, repeats what got no answer, and asks first who leads."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Counter

from questline_operator.core.status import Change, removes
from questline_operator.shell.api import Api, ApiError, NoAnswerError, Object, PatchOperation, Resource
from questline_operator.shell.clock import Clock
from questline_operator.shell.epoch import FENCED_OFF
from questline_operator.shell.lease import LeadershipLostError

logger = logging.getLogger(__name__)

URGENT_WRITES = 32
"""Writes under way at once that a Job waits for: claims, pods, outcomes."""
PATIENT_WRITES = 4
"""Writes under way at once that nobody waits for: reasons, retention, a Queue's counts."""
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0

T = TypeVar("T")


class FateUnknownError(Exception):
    """A write got no answer, or one that does not say whether it was applied.

    Args:
        sent_at: when it was sent, in monotonic seconds.
    """

    def __init__(self, what: str, *, sent_at: float) -> None:
        super().__init__(f"{what} may or may not have been applied")
        self.sent_at = sent_at


class Writer:
    """Writes with preconditions, each repeated until its answer is definite.

    A repeat is safe because every write can be applied only once: a status patch has a resourceVersion, a delete a UID.
    After a lost answer a repeat is therefore answered with a conflict, and whoever wrote reads. Only a pod could be
    created again, when the first has run and is gone: so its creator looks before it repeats. Each call raises
    LeadershipLostError where this process may no longer write, by its own clock or by the API server's fence.

    Args:
        check_leading: raises where this process may no longer write.
        writes: counts the requests that were sent, by verb and resource.
    """

    def __init__(self, api: Api, clock: Clock, check_leading: Callable[[], None], writes: Counter) -> None:
        self._api = api
        self._clock = clock
        self._check_leading = check_leading
        self._writes = writes
        self._urgent = asyncio.Semaphore(URGENT_WRITES)
        self._patient = asyncio.Semaphore(PATIENT_WRITES)

    async def patch_status(self, resource: Resource, raw: Object, change: Change, *, patient: bool = False) -> Object:
        """Set fields of the status of the object as it is in ``raw``; None removes one.

        Raises:
            ApiError: a definite no: 409 where the object has changed since, 404 where it is gone, 422 where the schema
                refuses the change.
        """
        meta = raw["metadata"]
        operations = status_operations(raw, change)

        def send() -> Awaitable[Object]:
            return self._api.patch(resource, meta["namespace"], meta["name"], operations, subresource="status")

        return await self._until_definite("patch", resource, send, patient=patient)

    async def create(self, resource: Resource, namespace: str, body: Object, *, repeat: bool = True) -> Object:
        """Create the object.

        Args:
            repeat: whether to try again where it is not known if a try was applied.

        Raises:
            ApiError: a definite no; 409 AlreadyExists also where an earlier try was applied and its answer lost.
            FateUnknownError: only without ``repeat``.
        """

        def send() -> Awaitable[Object]:
            return self._api.create(resource, namespace, body)

        return await self._until_definite("create", resource, send, repeat=repeat)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str = "", patient: bool = False
    ) -> None:
        """Delete that very object. That it is gone already, or another has its name, is success.

        Raises:
            ApiError: another definite no, as 409 where ``version`` is not the current one.
        """

        def send() -> Awaitable[None]:
            return self._api.delete(resource, namespace, name, uid=uid, resource_version=version)

        try:
            await self._until_definite("delete", resource, send, patient=patient)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _until_definite(
        self,
        verb: str,
        resource: Resource,
        send: Callable[[], Awaitable[T]],
        *,
        patient: bool = False,
        repeat: bool = True,
    ) -> T:
        lane = self._patient if patient else self._urgent
        delay, may_be_applied = FIRST_DELAY_SECONDS, False
        while True:
            wait = delay
            async with lane:
                self._check_leading()
                self._writes.labels(verb=verb, resource=resource.plural).inc()
                sent_at = self._clock.monotonic()
                try:
                    return await send()
                except ApiError as error:
                    leave_if_fenced_off(error)
                    # Rights are looked at first: a 403 says nothing of an earlier try.
                    if error.definite and not (may_be_applied and verb == "patch" and error.status == 403):
                        raise
                    if not repeat and error.status not in (401, 429):
                        raise FateUnknownError(f"{verb} of {resource.plural}", sent_at=sent_at) from error
                    may_be_applied = may_be_applied or error.status not in (401, 429)
                    wait = error.retry_after_seconds or delay
                    logger.warning("%s of %s: %s; again in %.1f s", verb, resource.plural, error, wait)
                except NoAnswerError as error:
                    if not repeat:
                        raise FateUnknownError(f"{verb} of {resource.plural}", sent_at=sent_at) from error
                    may_be_applied = True
                    logger.warning("%s of %s got no answer: %s; again in %.1f s", verb, resource.plural, error, wait)
            await self._clock.sleep(wait)
            delay = min(delay * 2, MAX_DELAY_SECONDS)


def status_operations(raw: Object, change: Change) -> list[PatchOperation]:
    """The change as a JSON Patch with the object's UID and resourceVersion as preconditions.

    Not a merge patch: that would drop nulls inside a result and merge it with an older one.
    """
    meta, status = raw["metadata"], raw.get("status")
    operations: list[PatchOperation] = [
        {"op": "test", "path": "/metadata/uid", "value": meta["uid"]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
    ]
    if status is None:
        present = {name: value for name, value in change.items() if value is not None}
        return [*operations, {"op": "add", "path": "/status", "value": present}]
    for name, value in change.items():
        if not removes(name, value):
            operations.append({"op": "add", "path": f"/status/{name}", "value": value})
        elif name in status:
            operations.append({"op": "remove", "path": f"/status/{name}"})
    return operations


def leave_if_fenced_off(error: ApiError) -> None:
    """Tell the fence's refusal from all others.

    Raises:
        LeadershipLostError: the API server knows of a later leader.
    """
    if error.status == 403 and FENCED_OFF in error.message:
        raise LeadershipLostError(error.message) from error
