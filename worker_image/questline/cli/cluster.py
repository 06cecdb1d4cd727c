"""Requests of the command, each with a message for what may go wrong."""

from __future__ import annotations

import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlencode

from questline.cli.errors import CommandError
from questline.cli.kubeconfig import Target
from questline.client import Answer, LostAnswerError, NotSentError, RefusedError, UnsettledError, persist

Json = dict[str, Any]
T = TypeVar("T")

TRY_SECONDS = 10.0
"""How long a request is tried."""
WATCH_SECONDS = 290
"""How long one watch lasts; the next goes on where it ended."""
RETRY_SECONDS = 0.5
"""A watch that breaks is begun again no sooner."""
PAGE = 500
NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
MAX_NAME = 253
CONNECTIONS = 8

JOBS, QUEUES, WORKERS, PODS = "questjobs", "questqueues", "questworkers", "pods"
SCHEDULES = "questschedules"
_WORDS = {JOBS: "Job", QUEUES: "Queue", WORKERS: "Worker", PODS: "Pod", SCHEDULES: "Schedule"}


class Cluster:
    """The cluster and namespace that a command is about."""

    def __init__(self, target: Target) -> None:
        self.transport, self.namespace, self.where = target.transport, target.namespace, target.where
        if not NAME.fullmatch(self.namespace):
            raise CommandError(f"{self.namespace!r} is no name of a namespace: a-z, 0-9 and '-' are what it may hold")
        self._closed = threading.Event()

    def close(self) -> None:
        """Closes the connections that are kept; what another thread still follows ends when its watch does."""
        self._closed.set()
        self.transport.close()

    def get(self, plural: str, name: str) -> Json:
        """One object of the namespace.

        Raises:
            CommandError: there is none of that name, or it may not be read.
        """
        answer = self._send("GET", f"{self._path(plural)}/{self._checked(plural, name)}")
        if answer.status != 200:
            raise self._refusal(answer, "get", plural, name)
        return answer.json()

    def listed(
        self, plural: str, *, selector: str = "", fields: Mapping[str, str] | None = None, everywhere: bool = False
    ) -> list[Json]:
        """The objects of the namespace, or of all.

        Raises:
            CommandError: they may not be listed.
        """
        return self._list(plural, selector, fields or {}, everywhere=everywhere)[0]

    def patch(self, plural: str, name: str, spec: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Sets fields of a spec; None removes one.

        Raises:
            CommandError: the object is gone, or the change is refused.
        """
        path = f"{self._path(plural, namespace=namespace)}/{self._checked(plural, name)}"
        answer = self._send("PATCH", path, {"spec": dict(spec)}, "application/merge-patch+json")
        if answer.status != 200:
            raise self._refusal(answer, "patch", plural, name)
        return answer.json()

    def create(self, plural: str, manifest: Json, *, dry_run: bool = False) -> Json:
        """Makes an object; with ``dry_run`` all of it is checked and nothing kept.

        Raises:
            AlreadyThere: there is one of that name, perhaps by a try of this call whose answer was lost.
            CommandError: it is refused.
        """
        name = manifest["metadata"]["name"]
        answer = self._send("POST", f"{self._path(plural)}{_query(dry_run)}", manifest)
        if answer.status == 409 and answer.reason == "AlreadyExists":
            raise AlreadyThere(f"there is a {_WORDS[plural]} {self.namespace}/{name} already")
        if answer.status not in (200, 201, 202):
            raise self._refusal(answer, "create", plural, name, is_new=True)
        return answer.json()

    def change(self, plural: str, before: Json, operations: list[Json], *, dry_run: bool = False) -> Json:
        """Carries out a JSON Patch on that very object, whatever has become of its status meanwhile.

        Raises:
            CommandError: it is gone or another has its name, or the change is refused.
        """
        metadata = before["metadata"]
        name = metadata["name"]
        patch = [{"op": "test", "path": "/metadata/uid", "value": metadata["uid"]}, *operations]
        path = f"{self._path(plural)}/{name}{_query(dry_run)}"
        answer = self._send("PATCH", path, patch, "application/json-patch+json")
        if answer.status != 200:
            raise self._refusal(answer, "patch", plural, name)
        return answer.json()

    def delete(self, plural: str, before: Json, *, dry_run: bool = False) -> None:
        """Deletes that very object; that it is gone already is success.

        Raises:
            CommandError: another has its name, or the deletion is refused.
        """
        metadata = before["metadata"]
        options: Json = {"preconditions": {"uid": metadata["uid"]}}
        if dry_run:  # a query beside a body of options is not looked at
            options["dryRun"] = ["All"]
        answer = self._send("DELETE", f"{self._path(plural)}/{metadata['name']}", options)
        if answer.status not in (200, 202, 404):
            raise self._refusal(answer, "delete", plural, metadata["name"])

    def together(self, action: Callable[[T], Any], items: list[T]) -> list[CommandError | None]:
        """Carries out the action on all items, a few at once; what went wrong with each."""

        def one(item: T) -> CommandError | None:
            try:
                action(item)
            except CommandError as error:
                return error
            return None

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return list(threads.map(one, items))

    def follow(
        self,
        plural: str,
        *,
        selector: str = "",
        fields: Mapping[str, str] | None = None,
        deadline: float = math.inf,
    ) -> Iterator[tuple[dict[str, Json], str | None]]:
        """The objects by name, and which of them has changed; None where they were listed.

        Ends at the deadline, or when this is closed.

        The dictionary is the same one from one list to the next, and changes as it is iterated.

        Args:
            deadline: in seconds of time.monotonic().
        """
        while True:
            items, version = self._list(plural, selector, fields or {})
            known = {item["metadata"]["name"]: item for item in items}
            yield known, None
            while True:
                begun = time.monotonic()
                if begun >= deadline:
                    return
                expired = False
                for event in self._watch(plural, selector, fields or {}, version, deadline - begun):
                    if event["type"] == "ERROR":
                        expired = True
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] == "BOOKMARK":  # it has nothing but that version
                        continue
                    name = event["object"]["metadata"]["name"]
                    if event["type"] == "DELETED":
                        known.pop(name, None)
                    else:
                        known[name] = event["object"]
                    yield known, name
                if self._closed.wait(max(0.0, min(deadline, begun + RETRY_SECONDS) - time.monotonic())):
                    return
                if expired:
                    break

    def log(self, pod: str, *, follow: bool) -> Iterator[tuple[str, str]]:
        """The lines of a pod's container `worker`, each with its time; no line twice, whatever breaks.

        Raises:
            PodGone: there is no such pod.
            CommandError: its log may not be read.
        """
        last, seen = "", 0  # the time of the last line, and how many of that very time were read
        while True:
            query = {"container": "worker", "timestamps": "true"} | ({"follow": "true"} if follow else {})
            query |= {"sinceTime": last} if last else {}  # by whole seconds: some lines come again
            begun = time.monotonic()
            again = seen
            try:
                for line in self.transport.stream(f"{self._path(PODS)}/{pod}/log?{urlencode(query)}", WATCH_SECONDS):
                    moment, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
                    if moment < last:
                        continue
                    if moment == last and again:
                        again -= 1
                        continue
                    last, seen = moment, seen + 1 if moment == last else 1
                    yield moment, text
            except RefusedError as error:
                if error.answer.status == 404:
                    raise PodGone(f"pod {self.namespace}/{pod} is gone, and its log with it") from None
                if not follow or not error.answer.passes:  # while its node is away, its kubelet cannot be asked
                    raise self._refusal(error.answer, "read the log of", PODS, pod) from None
            except (LostAnswerError, NotSentError) as error:
                if not follow or (isinstance(error, NotSentError) and error.final):
                    raise CommandError(f"the log of pod {self.namespace}/{pod} cannot be read: {error}") from None
            else:
                return
            time.sleep(max(0.0, begun + RETRY_SECONDS - time.monotonic()))

    def _watch(
        self, plural: str, selector: str, fields: Mapping[str, str], version: str, seconds: float
    ) -> Iterator[Json]:
        seconds = max(1.0, min(seconds, WATCH_SECONDS))
        query = self._query(selector, fields) | {
            "watch": "1",
            "resourceVersion": version,
            "timeoutSeconds": str(math.ceil(seconds)),
            "allowWatchBookmarks": "true",
        }
        try:
            for line in self.transport.stream(f"{self._path(plural)}?{urlencode(query)}", seconds + 10.0):
                yield json.loads(line)
        except RefusedError as error:
            if error.answer.status == 410:
                yield {"type": "ERROR"}
            elif not error.answer.passes:
                raise self._refusal(error.answer, "watch", plural) from None
        except (LostAnswerError, NotSentError, ValueError):
            return

    def _list(
        self, plural: str, selector: str, fields: Mapping[str, str], *, everywhere: bool = False
    ) -> tuple[list[Json], str]:
        items: list[Json] = []
        query = self._query(selector, fields) | {"limit": str(PAGE)}
        while True:
            answer = self._send("GET", f"{self._path(plural, everywhere=everywhere)}?{urlencode(query)}")
            if answer.status != 200:
                raise self._refusal(answer, "list", plural)
            page = answer.json()
            kind = {"apiVersion": page.get("apiVersion"), "kind": str(page.get("kind", "")).removesuffix("List")}
            items += [{**kind, **item} for item in page.get("items") or ()]
            if not page["metadata"].get("continue"):
                return items, page["metadata"].get("resourceVersion", "")
            query["continue"] = page["metadata"]["continue"]

    def _query(self, selector: str, fields: Mapping[str, str]) -> dict[str, str]:
        query = {"labelSelector": selector} if selector else {}
        if fields:
            query["fieldSelector"] = ",".join(f"{name}={value}" for name, value in fields.items())
        return query

    def _send(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Answer:
        data = None if body is None else json.dumps(body).encode()
        try:
            answer, _ = persist(self.transport, method, path, data, content_type=content_type, seconds=TRY_SECONDS)
        except UnsettledError as error:
            raise CommandError(f"the API server of {self.where} does not answer: {error}") from None
        if answer.status == 401:
            raise CommandError(
                f"the API server does not know who you are (401 {answer.message}): renew the credentials of "
                f"{self.where}"
            )
        return answer

    def _checked(self, plural: str, name: str) -> str:
        """The name, which may be anything that somebody has typed, as a part of a path.

        Raises:
            CommandError: no object can have it.
        """
        if len(name) > MAX_NAME or not NAME.fullmatch(name):
            raise CommandError(f"{name!r} is no name of a {_WORDS[plural]}: a-z, 0-9, '-' and '.' are what it may hold")
        return name

    def _path(self, plural: str, *, everywhere: bool = False, namespace: str | None = None) -> str:
        group = "/api/v1" if plural == PODS else "/apis/questline.dev/v1alpha1"
        return f"{group}/{plural}" if everywhere else f"{group}/namespaces/{namespace or self.namespace}/{plural}"

    def _refusal(self, answer: Answer, verb: str, plural: str, name: str = "", *, is_new: bool = False) -> CommandError:
        what = f"{_WORDS[plural]} {self.namespace}/{name}" if name else f"{plural} of namespace {self.namespace}"
        is_404 = answer.status == 404 and not is_new  # of what is to be made, its namespace is what else can be missing
        if is_404 and name and not answer.is_of_unknown_kind:
            return NotFound(f"there is no {what} ({self.where})")
        if is_404 or answer.is_of_unknown_kind:
            return CommandError(
                f"{self.where} has no {plural}: install Questline there (helm install), or give another --context"
            )
        if answer.status == 403:
            return CommandError(f"you may not {verb} {what}: {answer.message}")
        return CommandError(
            f"the API server refused to {verb} {what} ({answer.status} {answer.reason}): {answer.message}"
        )


class NotFound(CommandError):  # noqa: N818  as the API calls it
    """There is no object of that name."""


class AlreadyThere(CommandError):  # noqa: N818
    """There is an object of that name."""


class PodGone(CommandError):  # noqa: N818
    """The pod is gone, and its log with it."""


def _query(dry_run: bool) -> str:
    return "?dryRun=All" if dry_run else ""


def merged(sources: Mapping[str, Iterator[T]]) -> Iterator[tuple[str, T]]:
    """What several iterators yield, as it comes, each with its source's name. What one raises is raised."""
    arrived: queue.SimpleQueue[tuple[str, T | BaseException | None]] = queue.SimpleQueue()

    def pump(name: str, source: Iterator[T]) -> None:
        try:
            for item in source:
                arrived.put((name, item))
        except BaseException as error:
            arrived.put((name, error))
        else:
            arrived.put((name, None))

    for name, source in sources.items():
        threading.Thread(target=pump, args=(name, source), name=f"questline-{name}", daemon=True).start()
    open_sources = len(sources)
    while open_sources:
        name, item = arrived.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            open_sources -= 1
        else:
            yield name, item
