"""The SDK's way to the API server, here to the kit's store. Above it everything is the SDK's own code."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from questline.client import Answer
from questline.durations import Duration, seconds_of
from questline.enqueue import Roots
from questline.handle import Handle
from questline.task import Call
from questline.testing._store import AlreadyExists, Store
from questline_operator.core.records import Key

_PATH = re.compile(r"/apis/questline\.dev/v1alpha1/namespaces/([^/]+)/questjobs(?:/([^/?]+))?(/status)?")


class Transport:
    """Answers what the SDK asks of Jobs: create one, read one, report an outcome."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()

    def send(self, method: str, path: str, body: bytes | None, content_type: str, timeout: float) -> Answer:
        """See `questline.client.Transport`."""
        namespace, name, subresource = self._parts(path)
        with self._lock:
            if method == "POST":
                return self._create(namespace, json.loads(body or b"{}"))
            job = self._store.world.jobs.get((namespace, name))
            if job is None:
                return _no(404, "NotFound", f'questjobs.questline.dev "{name}" not found')
            if method == "PATCH" and subresource:
                return self._report(namespace, name, json.loads(body or b"[]"))
            return Answer(200, {}, json.dumps(job.raw).encode())

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        """Nobody watches here: who waits for a Job has the cluster run until it has ended."""
        raise NotImplementedError(path)

    def close(self) -> None:
        """Nothing is open."""

    def _create(self, namespace: str, body: dict[str, Any]) -> Answer:
        try:
            raw = self._store.create("Job", namespace, body)
        except AlreadyExists:
            name = body["metadata"]["name"]
            return _no(409, "AlreadyExists", f'questjobs.questline.dev "{name}" already exists')
        return Answer(201, {}, json.dumps(raw).encode())

    def _report(self, namespace: str, name: str, patch: list[Mapping[str, Any]]) -> Answer:
        job = self._store.world.jobs[namespace, name]
        uid = next(one["value"] for one in patch if one["op"] == "test")
        report = next(one["value"] for one in patch if one["op"] == "add")
        if uid != job.uid or not self._store.take_report(job, report):
            return _no(422, "Invalid", f"attempt {report.get('attempt')} is not the open one, or has reported already")
        return Answer(200, {}, b"{}")

    def _parts(self, path: str) -> tuple[str, str, str]:
        match = _PATH.match(path)
        if match is None:
            raise AssertionError(f"the SDK asks for {path}, which the test kit does not know")
        return match[1], match[2] or "", match[3] or ""


def _no(status: int, reason: str, message: str) -> Answer:
    return Answer(status, {}, json.dumps({"kind": "Status", "reason": reason, "message": message}).encode())


class KitRoots(Roots):
    """Creates Jobs without a parent, whose handles wait in the cluster's time.

    Args:
        ended: runs the cluster until that Job has ended, at most for so many seconds, and returns it as it is then.
    """

    def __init__(
        self,
        transport: Transport,
        namespace: str,
        *,
        suffix: Callable[[], str],
        ended: Callable[[Key, float], dict[str, Any]],
    ) -> None:
        super().__init__(transport, namespace, suffix=suffix)
        self._ended = ended

    def create(self, call: Call[Any], spec: dict[str, Any], place: int) -> Handle[Any]:
        """See `questline.enqueue`."""
        handle = super().create(call, spec, place)
        return _KitHandle(handle, self._ended)


class _KitHandle(Handle[Any]):
    __slots__ = ("_ended_job",)

    def __init__(self, handle: Handle[Any], ended: Callable[[Key, float], dict[str, Any]]) -> None:
        super().__init__(handle.task, handle.namespace, handle.name)
        self._ended_job = ended

    def _ended(self, timeout: Duration | None) -> dict[str, Any]:
        seconds = math.inf if timeout is None else seconds_of(timeout, "timeout")
        return self._ended_job((self.namespace, self.name), seconds)
