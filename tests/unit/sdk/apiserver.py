"""A server on loopback that answers the SDK as the API server does, and fails as one does when it is told to."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TLS = Path(__file__).with_name("tls")
PREFIX = "/apis/questline.dev/v1alpha1/namespaces/"


@dataclass
class Seen:
    """One request, as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    connection: int


@dataclass
class Fault:
    """What happens to one request instead of an answer, or as the answer.

    Args:
        applied: whether it has its effect first.
        status: answer with this; None answers nothing.
        reset: end the connection by a reset instead of in order.
        release: hold the connection without a word until this is set, then end it.
    """

    applied: bool = False
    status: int | None = None
    message: str = ""
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    release: threading.Event | None = None
    truncated: bool = False


class ApiServer:
    """The server.

    Attributes:
        jobs: by namespace and name.
        faults: meet the next requests one by one; None lets one pass.
        reject: says of a POST's Job why it is refused, as (status, reason, message), or None.
        tokens: the bearer tokens that are known; None takes any.
    """

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[Seen] = []
        self.faults: deque[Fault | None] = deque()
        self.reject: Callable[[dict[str, Any]], tuple[int, str, str] | None] = lambda _job: None
        self.refuse_patch: tuple[int, str, str] | None = None
        self.tokens: set[str] | None = None
        self.changed = threading.Condition()
        self.version = 100
        self.watches_end_at_once = 0
        self.forgotten_before = 0
        self.connections = 0
        self.open: list[ssl.SSLSocket] = []
        self.closing = False
        self.arrived = threading.Event()
        self.folder = Path()
        self.port = 0
        self.history: list[tuple[int, str, dict[str, Any]]] = []

    def posts(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.method == "POST"]

    def patches(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.method == "PATCH"]

    def names(self) -> list[str]:
        return [name for _, name in self.jobs]

    def environ(self) -> dict[str, str]:
        """The environment of a pod whose service account talks to this server."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
            "QUESTLINE_SERVICEACCOUNT_DIR": str(self.folder),
        }

    def change(self, namespace: str, name: str, **status: Any) -> None:
        """Merges into a Job's status, as the operator would, and tells the watches."""
        with self.changed:
            job = self.jobs[namespace, name]
            self.put("MODIFIED", {**job, "status": {**job.get("status", {}), **status}})

    def delete(self, namespace: str, name: str) -> None:
        with self.changed:
            self.put("DELETED", self.jobs.pop((namespace, name)))

    def put(self, event: str, job: dict[str, Any]) -> None:
        self.version += 1
        job = {**job, "metadata": {**job["metadata"], "resourceVersion": str(self.version)}}
        if event != "DELETED":
            self.jobs[job["metadata"]["namespace"], job["metadata"]["name"]] = job
        self.history.append((self.version, event, job))
        self.changed.notify_all()


@contextmanager
def serving(folder: Path) -> Iterator[ApiServer]:
    """A server with TLS, and in the folder the files of a service account that may speak with it."""
    api = ApiServer()
    api.folder = folder
    shutil.copy(TLS / "server.crt", folder / "ca.crt")
    (folder / "token").write_text("token-1\n")
    (folder / "namespace").write_text("shop")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.crt", TLS / "server.key")

    class Server(ThreadingHTTPServer):
        daemon_threads = False
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is the client's affair."""

    class Handler(_Handler):
        server_api = api
        tls = context

    server = Server(("127.0.0.1", 0), Handler)
    api.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        with api.changed:
            api.closing = True
            api.changed.notify_all()
        for connection in list(api.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_api: ApiServer
    tls: ssl.SSLContext

    def setup(self) -> None:
        self.request = self.tls.wrap_socket(self.request, server_side=True)
        self.server_api.open.append(self.request)
        with self.server_api.changed:
            self.server_api.connections += 1
            self.connection_number = self.server_api.connections
        super().setup()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def _handle(self, method: str) -> None:
        api = self.server_api
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = json.loads(raw) if raw else None
        with api.changed:
            headers = {k.lower(): v for k, v in self.headers.items()}
            api.requests.append(Seen(method, self.path, headers, body, self.connection_number))
            fault = api.faults.popleft() if api.faults else None
            api.changed.notify_all()
        api.arrived.set()
        if fault is not None and not fault.applied:
            return self._fail(fault)
        if api.tokens is not None and headers.get("authorization", "").removeprefix("Bearer ") not in api.tokens:
            return self._status(401, "Unauthorized", "Unauthorized")
        answer = getattr(self, f"_{method.lower()}")(body)
        if fault is not None:
            return self._fail(fault)
        answer()
        return None

    def _fail(self, fault: Fault) -> None:
        if fault.release is not None:
            fault.release.wait(30)
        elif fault.status is not None:
            return self._status(fault.status, fault.reason, fault.message, fault.headers)
        elif fault.truncated:
            self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{")
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        return None

    def _post(self, job: dict[str, Any]) -> Callable[[], None]:
        api = self.server_api
        namespace = self.path.removeprefix(PREFIX).split("/")[0]
        with api.changed:
            name = job["metadata"]["name"]
            if (namespace, name) in api.jobs:
                said = f'questjobs.questline.dev "{name}" already exists'
                return lambda: self._status(409, "AlreadyExists", said)
            refused = api.reject(job)
            if refused is not None:
                return lambda: self._status(*refused)
            api.put("ADDED", {"status": {"state": "Waiting"}, **job})
            made = api.jobs[namespace, name]
        return lambda: self._json(201, made)

    def _patch(self, operations: Any) -> Callable[[], None]:
        refused = self.server_api.refuse_patch
        if refused is not None:
            return lambda: self._status(*refused)
        return lambda: self._json(200, {})

    def _get(self, _body: Any) -> Callable[[], None]:
        api, parts = self.server_api, urlsplit(self.path)
        query = parse_qs(parts.query)
        namespace, _, name = parts.path.removeprefix(PREFIX).split("/", 2) + [""] * (parts.path.count("/") < 7)
        if "watch" in query:
            return self._watch(query["fieldSelector"][0].partition("=")[2], int(query["resourceVersion"][0]))
        job = api.jobs.get((namespace, name))
        if job is None:
            return lambda: self._status(404, "NotFound", f'questjobs.questline.dev "{name}" not found')
        return lambda: self._json(200, job)

    def _watch(self, name: str, version: int) -> Callable[[], None]:
        api = self.server_api
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if version < api.forgotten_before:
            self._chunk({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
            version = -1
        elif api.watches_end_at_once:
            api.watches_end_at_once -= 1
            version = -1
        while version >= 0 and not api.closing:
            with api.changed:
                news = [entry for entry in api.history if entry[0] > version and entry[2]["metadata"]["name"] == name]
                if not news:
                    api.changed.wait(5)
                    continue
            for _, event, job in news:
                self._chunk({"type": event, "object": job})
            version = news[-1][0]
        return lambda: self._end_of_chunks()

    def _end_of_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, value: Any) -> None:
        line = json.dumps(value).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _status(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._json(status, {"kind": "Status", "reason": reason, "message": message, "code": status}, headers)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
