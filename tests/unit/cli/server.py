"""An API server on loopback with Questline's kinds, pods and their logs, as far as the command asks of one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonpatch
import yaml

KINDS = {
    "questjobs": "Job",
    "questqueues": "Queue",
    "questworkers": "Worker",
    "questschedules": "Schedule",
    "pods": "Pod",
}
Refusal = tuple[int, str, str]


class Server:
    """The server.

    Attributes:
        objects: by (plural, namespace, name).
        refuse: says of a request (method, path) why it is refused, as (status, reason, message), or None.
        seen: each request as (method, path, body).
        logs: the lines of each pod's log, with their times.
        log_breaks: after how many lines each of the next answers with a log breaks off.
        watch_ends: how many watches are ended as soon as they have begun.
        forgets: whether what was before such an end is forgotten: a watch from there is answered 410.
        expired: how many were.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.refuse: Callable[[str, str], Refusal | None] = lambda _method, _path: None
        self.seen: list[tuple[str, str, Any]] = []
        self.logs: dict[str, list[str]] = {}
        self.open_logs: set[str] = set()
        self.log_breaks: list[int] = []
        self.changed = threading.Condition()
        self.version = 1000
        self.oldest = 0
        self.watch_ends = 0
        self.forgets = False
        self.expired = 0
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.closing = False
        self.port = 0

    def put(self, plural: str, name: str, spec: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
        """Creates or replaces an object, and tells the watches."""
        with self.changed:
            self.version += 1
            namespace = rest.pop("namespace", "shop")
            labels, annotations = rest.pop("labels", None), rest.pop("annotations", None)
            key = (plural, namespace, name)
            meta = {
                "name": name,
                "namespace": namespace,
                "uid": f"{abs(hash(name)) % 10**8:08d}-0000-0000-0000-000000000000",
                "resourceVersion": str(self.version),
                "creationTimestamp": "2026-01-31T08:00:00Z",
                "generation": 1,
                "managedFields": [{"manager": "helm"}],
            }
            if labels:
                meta["labels"] = labels
            if annotations:
                meta["annotations"] = annotations
            event = "MODIFIED" if key in self.objects else "ADDED"
            made = {"metadata": meta, "spec": spec or {}, **rest}
            self.objects[key] = made
            self.history.append((self.version, event, plural, made))
            self.changed.notify_all()
            return made

    def job(self, name: str, state: str = "Waiting", spec: dict[str, Any] | None = None, **status: Any) -> str:
        """A Job; returns the first 8 characters of its UID."""
        rest = {key: status.pop(key) for key in ("namespace", "labels") if key in status}
        full = {"queue": "default", "task": "tasks:work", **(spec or {})}
        made = self.put("questjobs", name, full, status={"state": state, **status}, **rest)
        return str(made["metadata"]["uid"][:8])

    def remove(self, plural: str, name: str) -> None:
        """Deletes an object, and tells the watches."""
        with self.changed:
            self.version += 1
            gone = self.objects.pop((plural, "shop", name))
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
            self.history.append((self.version, "DELETED", plural, gone))
            self.changed.notify_all()

    def bookmark(self, plural: str) -> None:
        """What the API server tells each watch of a kind about once a minute: a version, and no object."""
        with self.changed:
            self.version += 1
            bookmark = {"kind": KINDS[plural], "metadata": {"resourceVersion": str(self.version)}}
            self.history.append((self.version, "BOOKMARK", plural, bookmark))
            self.changed.notify_all()

    def write_log(self, pod: str, *lines: str, ended: bool = False) -> None:
        """Lines of a pod's log; unless it has ended, those that follow it wait for more."""
        with self.changed:
            self.logs.setdefault(pod, []).extend(lines)
            (self.open_logs.discard if ended else self.open_logs.add)(pod)
            self.changed.notify_all()

    def until_asked(self, path_end: str) -> None:
        """Waits for a request whose path ends so."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(path.endswith(path_end) for _, path, _ in self.seen), timeout=10)

    def patches(self) -> list[tuple[str, Any]]:
        """What was patched, by the last part of the path."""
        return [(path.rpartition("/")[2], body) for method, path, body in self.seen if method == "PATCH"]


@contextmanager
def serving(kubeconfig: Path) -> Iterator[Server]:
    """A server, and the kubeconfig that leads to it, with the namespace `shop`."""
    api = Server()

    class Handler(_Handler):
        server_api = api

    class Listener(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is the client's affair, and no line of the command's standard error."""

    server = Listener(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    api.port = server.server_address[1]
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "shop",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
                "contexts": [
                    {"name": "shop", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
                    {"name": "plain", "context": {"cluster": "c", "user": "u"}},
                ],
            }
        )
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        with api.changed:
            api.closing = True
            api.changed.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_api: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        api = self.server_api
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = json.loads(raw) if raw else None
        url = urlsplit(self.path)
        with api.changed:
            api.seen.append((method, url.path, body))
            api.changed.notify_all()
            refused = api.refuse(method, self.path)
        if self.headers.get("Authorization") != "Bearer secret":
            refused = (401, "Unauthorized", "Unauthorized")
        if refused is not None:
            return self._status(*refused)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.split("/")
        start = 3 if parts[1] == "api" else 4
        namespace, plural, name, sub = "", parts[start], "", ""
        if plural == "namespaces":
            namespace, plural, name, sub = [*parts[start + 1 :], "", ""][:4]
        if sub == "log":
            return self._log(name, query)
        if method == "POST":
            return self._post(plural, namespace, body, dry_run="dryRun" in query)
        if name:
            return self._one(method, (plural, namespace, name), body, dry_run="dryRun" in query)
        return self._watch(plural, query) if "watch" in query else self._list(plural, namespace, query)

    def _post(self, plural: str, namespace: str, body: Any, *, dry_run: bool) -> None:
        api, meta = self.server_api, body["metadata"]
        if (plural, namespace, meta["name"]) in api.objects:
            return self._status(409, "AlreadyExists", "already exists")
        if dry_run:
            return self._json(201, body)
        rest = {"namespace": namespace, "annotations": meta.get("annotations"), "kind": KINDS[plural]}
        return self._json(201, api.put(plural, meta["name"], body["spec"], **rest))

    def _one(self, method: str, key: tuple[str, str, str], body: Any, *, dry_run: bool) -> None:
        api = self.server_api
        found = api.objects.get(key)
        if found is None:
            return self._status(404, "NotFound", f'{key[0]}.questline.dev "{key[2]}" not found')
        if method == "DELETE":
            assert body["preconditions"] == {"uid": found["metadata"]["uid"]}
            if body.get("dryRun") != ["All"]:  # the options in the body stand for all, as on the real one
                api.remove(key[0], key[2])
            return self._json(200, {"kind": "Status", "status": "Success"})
        if method == "PATCH":
            kind = self.headers["Content-Type"].removeprefix("application/")
            if kind == "json-patch+json":
                try:
                    changed = jsonpatch.apply_patch(found, body)
                except jsonpatch.JsonPatchTestFailed:
                    words = "the server rejected our request due to an error in our request"
                    return self._status(422, "Invalid", words)
            else:
                assert kind == "merge-patch+json"
                changed = {**found, "spec": {**found["spec"], **body["spec"]}}
            if not dry_run and changed != found:
                meta = {name: changed["metadata"].get(name) for name in ("labels", "annotations")}
                rest = {name: value for name, value in changed.items() if name not in ("metadata", "spec")}
                changed = api.put(key[0], key[2], changed["spec"], namespace=key[1], **meta, **rest)
            found = changed
        return self._json(200, {"apiVersion": "questline.dev/v1alpha1", "kind": KINDS[key[0]], **found})

    def _list(self, plural: str, namespace: str, query: dict[str, str]) -> None:
        api = self.server_api
        with api.changed:
            items = [one for one in api.objects.values() if self._chosen(one, plural, namespace, query)]
            version = str(api.version)
        start = int(query.get("continue", "0"))
        end = start + int(query.get("limit", "500"))
        meta = {"resourceVersion": version} | ({"continue": str(end)} if end < len(items) else {})
        kind = f"{KINDS[plural]}List"
        self._json(200, {"apiVersion": "v1", "kind": kind, "metadata": meta, "items": items[start:end]})

    def _chosen(self, one: dict[str, Any], plural: str, namespace: str, query: dict[str, str]) -> bool:
        if self.server_api.objects.get((plural, one["metadata"]["namespace"], one["metadata"]["name"])) is not one:
            return False
        return (not namespace or one["metadata"]["namespace"] == namespace) and _selected(one, query)

    def _watch(self, plural: str, query: dict[str, str]) -> None:
        api, version = self.server_api, int(query["resourceVersion"])
        self._begin_chunks()
        if version < api.oldest:
            api.expired += 1
            self._chunk({"type": "ERROR", "object": {"kind": "Status", "code": 410}})
        elif api.watch_ends:
            api.watch_ends -= 1
            if api.forgets:
                with api.changed:
                    api.version += 1
                    api.oldest = api.version
        else:
            deadline = float(query["timeoutSeconds"])
            while not api.closing:
                with api.changed:
                    news = [entry for entry in api.history if entry[0] > version and entry[2] == plural]
                    if not news:
                        if not api.changed.wait(deadline):
                            break
                        continue
                version = news[-1][0]
                for _, event, _, one in news:
                    if event == "BOOKMARK" or _selected(one, query):
                        self._chunk({"type": event, "object": one})
        self._chunk(None)

    def _log(self, pod: str, query: dict[str, str]) -> None:
        api = self.server_api
        if pod not in api.logs:
            return self._status(404, "NotFound", f'pods "{pod}" not found')
        assert (query["container"], query["timestamps"]) == ("worker", "true")
        self._begin_chunks()
        place = 0
        since = query.get("sinceTime", "")[:19]
        stop_at = api.log_breaks.pop(0) if api.log_breaks else None
        while not api.closing:
            with api.changed:
                lines = api.logs[pod][place:]
                if not lines and ("follow" not in query or pod not in api.open_logs):
                    break
                if not lines:
                    api.changed.wait(5)
                    continue
            for line in lines:
                place += 1
                if stop_at is not None and place > stop_at:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return None
                if line[:19] >= since:
                    self._raw_chunk(f"{line}\n".encode())
        return self._raw_chunk(b"")

    def _begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, value: Any) -> None:
        self._raw_chunk(b"" if value is None else json.dumps(value).encode() + b"\n")

    def _raw_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _status(self, status: int, reason: str, message: str) -> None:
        if status == 404 and not reason:  # a path that the API server does not know
            return self._answer(404, f"{message}\n".encode())
        return self._json(status, {"kind": "Status", "reason": reason, "message": message, "code": status})

    def _json(self, status: int, value: Any) -> None:
        self._answer(status, json.dumps(value).encode())

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _selected(one: dict[str, Any], query: dict[str, str]) -> bool:
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, wanted = part.partition("=")
        value: Any = one
        for name in path.split("."):
            value = value.get(name, {})
        if value != wanted:
            return False
    labels = one["metadata"].get("labels", {})
    for part in filter(None, query.get("labelSelector", "").split(",")):
        name, equals, wanted = part.partition("=")
        if name not in labels or (equals and labels[name] != wanted):
            return False
    return True
