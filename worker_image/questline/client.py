"""HTTP to the API server: one request, and one that is repeated until its fate is known.

`HttpTransport` speaks for a pod, with its service account and the standard library's HTTP client, which is imported
when the first connection is opened: a task that calls nothing need not pay for it. `questline.kubeconfig` has the
transport of a developer's machine.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from questline.errors import ConfigurationError

if TYPE_CHECKING:
    import http.client
    import ssl

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVICE_ACCOUNT_ENV = "QUESTLINE_SERVICEACCOUNT_DIR"
"""Where the service account's files are instead, for tests of the process from outside."""

USER_AGENT = "questline/0.1.0"
"""The API server takes what stands before the slash as the field manager of what we write."""

REQUEST_SECONDS = 10.0
"""How long one request may go without a byte of its answer."""
IDLE_SECONDS = 30.0
"""A connection that idled longer is not used again: load balancers drop idle ones without a word."""
POOL_SIZE = 16


class NotSentError(Exception):
    """The API server surely has not seen the request. ``final``: nor would it see the next one."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class LostAnswerError(Exception):
    """The request was sent, perhaps, and no answer came. ``stale``: on a connection that may have been dead before."""

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class UnsettledError(Exception):
    """A request was repeated until its time was over. ``maybe_done``: one of the tries may have had its effect."""

    def __init__(self, message: str, *, maybe_done: bool) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class Answer(NamedTuple):
    """What the API server answered. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; {} where it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def reason(self) -> str:
        """The API's word for an error, such as AlreadyExists."""
        return str(self.json().get("reason", ""))

    @property
    def message(self) -> str:
        """What it says, on one line."""
        text = str(self.json().get("message", "")) or self.body[:512].decode(errors="replace")
        return " ".join(text.split()) or f"HTTP status {self.status}"

    @property
    def passes(self) -> bool:
        """Whether it may well be another in a moment: the server is busy, or is starting."""
        return self.status in (408, 429) or self.status >= 500

    @property
    def is_of_unknown_kind(self) -> bool:
        """Whether there is no such kind: that gets no Status but a page's "404 page not found"; a proxy may say it in
        kubectl's own words."""
        return self.status == 404 and (not self.reason or "could not find" in self.message)


class Transport(Protocol):
    """Sends requests to one API server. Safe to use from many threads."""

    def send(self, method: str, path: str, body: bytes | None, content_type: str, timeout: float) -> Answer:
        """One request. ``timeout`` in seconds. Raises NotSentError or LostAnswerError."""

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        """The lines of a watch's answer, until the server ends it or ``timeout`` seconds pass with none.

        Raises NotSentError, LostAnswerError, or RefusedError.
        """

    def close(self) -> None:
        """Closes the connections that are kept."""


class RefusedError(Exception):
    """A watch was answered with an error."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


class TokenFile:
    """A bound token, read again when the kubelet has put a new one in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """The token as it is now; the last one known where the file cannot be read."""
        with suppress(OSError):
            stat = os.stat(self._path)  # noqa: PTH116  follows the links by which the kubelet swaps the files
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                self._token = self._path.read_text(encoding="ascii").strip()
                self._seen = seen
        return self._token


class HttpTransport:
    """Requests over a pool of kept connections.

    Args:
        host: name or address of the API server.
        port: its port.
        token: the bearer token's file, or None to send none.
        ca_file: certificates to trust; None for plain HTTP, which only tests speak.
    """

    def __init__(self, host: str, port: int, *, token: TokenFile | None, ca_file: Path | None) -> None:
        self._host, self._port = host, port
        self._token, self._ca_file = token, ca_file
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._process = os.getpid()
        self._tls: ssl.SSLContext | None = None
        self._warming: threading.Thread | None = None

    def warm_up(self) -> None:
        """Opens a connection in the background, so that the first request finds it open."""
        self._warming = threading.Thread(target=self._warm_up, name="questline-connect", daemon=True)
        self._warming.start()

    def _warm_up(self) -> None:
        with suppress(NotSentError):  # whoever needs the connection tries again, and says what is wrong
            self._keep(self._open(REQUEST_SECONDS))

    def send(self, method: str, path: str, body: bytes | None, content_type: str, timeout: float) -> Answer:
        """See `Transport.send`."""
        from http.client import HTTPException

        connection, reused = self._connection(timeout)
        try:
            connection.request(method, path, body, self._headers(content_type if body is not None else ""))
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, HTTPException) as error:
            connection.close()
            raise LostAnswerError(_say(error), stale=reused and isinstance(error, ConnectionError)) from None
        except BaseException:  # interrupted: what is left of the answer must not meet the next request
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return answer

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        """See `Transport.stream`."""
        from http.client import HTTPException

        with closing(self._open(timeout)) as connection:
            try:
                connection.request("GET", path, None, self._headers(""))
                response = connection.getresponse()
                if response.status != 200:
                    raise RefusedError(Answer(response.status, dict(response.getheaders()), response.read()))
                while line := response.readline():
                    if not line.endswith(b"\n") and _broke_off(response):
                        break
                    yield line
                if _broke_off(response):
                    raise LostAnswerError("the answer broke off")
            except (OSError, HTTPException) as error:
                raise LostAnswerError(_say(error)) from None

    def close(self) -> None:
        """Closes the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        if content_type:
            headers["Content-Type"] = content_type
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.read()}"
        return headers

    def _connection(self, timeout: float) -> tuple[http.client.HTTPConnection, bool]:
        warming, self._warming = self._warming, None
        if warming is not None and self._process == os.getpid():
            warming.join(timeout)
        with self._lock:
            if self._process != os.getpid():
                # A fork's copies of our connections are its parent's still: two must not speak on one.
                self._idle.clear()
                self._process = os.getpid()
            now = time.monotonic()
            while self._idle:
                since, connection = self._idle.pop()
                if now - since < IDLE_SECONDS and connection.sock is not None:
                    connection.sock.settimeout(timeout)
                    return connection, True
                connection.close()
        return self._open(timeout), False

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < POOL_SIZE:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _new_connection(self, timeout: float) -> http.client.HTTPConnection:
        import http.client

        if self._ca_file is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context())

    def _open(self, timeout: float) -> http.client.HTTPConnection:
        connection = self._new_connection(timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            # An untrusted certificate does not get better by trying again.
            final = type(error).__name__ == "SSLCertVerificationError"
            raise NotSentError(f"cannot connect to {self._host}:{self._port}: {_say(error)}", final=final) from None
        return connection

    def _context(self) -> ssl.SSLContext:
        import ssl

        with self._lock:
            if self._tls is None:
                try:
                    self._tls = lenient(ssl.create_default_context(cafile=self._ca_file))
                except (OSError, ssl.SSLError) as error:
                    raise NotSentError(f"{self._ca_file} cannot be read: {_say(error)}", final=True) from None
            return self._tls


def lenient(context: ssl.SSLContext) -> ssl.SSLContext:
    """Trusts the authorities that Go trusts: chain, name and dates are checked.

    From Python 3.13 on, those of many clusters (EKS, MicroK8s) would be refused for extensions that they lack.
    """
    import ssl

    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class ServiceAccount(NamedTuple):
    """A pod's own access to the API."""

    transport: HttpTransport
    namespace: str
    token: TokenFile


def service_account(environ: Mapping[str, str]) -> ServiceAccount | None:
    """The pod's service account, or None where this is no pod or it has none.

    Raises:
        ConfigurationError: there is one, but the pod does not know the API server's address.
    """
    folder = Path(environ.get(SERVICE_ACCOUNT_ENV, SERVICE_ACCOUNT_FOLDER))
    host = environ.get("KUBERNETES_SERVICE_HOST")
    try:
        namespace = (folder / "namespace").read_text(encoding="ascii").strip()
    except OSError:
        namespace = ""
    token_file = folder / "token"
    if not token_file.is_file():
        return None
    try:
        port = int(environ.get("KUBERNETES_SERVICE_PORT", "443"))
    except ValueError:
        port = 0
    if not host or not 0 < port < 65_536:
        raise ConfigurationError(
            "this pod has a service account's token, but KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT name no "
            "API server: leave these variables as Kubernetes sets them"
        )
    token = TokenFile(token_file)
    transport = HttpTransport(host, port, token=token, ca_file=folder / "ca.crt")
    return ServiceAccount(transport, namespace or "default", token)


def persist(
    transport: Transport,
    method: str,
    path: str,
    body: bytes | None,
    *,
    content_type: str = "application/json",
    seconds: float,
    request_seconds: float = REQUEST_SECONDS,
) -> tuple[Answer, bool]:
    """Sends a request until it is answered definitely, at most for so many seconds.

    Repeated are: answers that did not come, 5xx, 429 (not before its Retry-After), 408, and a 409 that is no
    AlreadyExists, such as a quota's. A 401 is repeated a few times, the token being read anew each time. A write that
    nobody has granted is repeated for some 3 s: an API server that has just started forbids what it allows once it has
    read the roles and the policies.

    Returns:
        the answer, and whether an earlier try may have had its effect: then AlreadyExists means ours.

    Raises:
        UnsettledError: the time was over.
    """
    deadline = time.monotonic() + seconds
    maybe_done = False
    tries = denials = step = 0
    while True:
        least = 0.0
        tries += 1
        step += 1
        try:
            answer = transport.send(method, path, body, content_type, min(request_seconds, seconds))
        except NotSentError as error:
            problem = str(error)
            if error.final:
                raise UnsettledError(problem, maybe_done=maybe_done) from None
        except LostAnswerError as error:
            problem = f"no answer: {error}"
            maybe_done = True
            if error.stale and tries == 1:
                continue
        else:
            if answer.status in (401, 403):
                denials += 1
                step = denials  # however long it was away before: what it says once it is there passes soon, or never
            if not _worth_repeating(method, answer, denials):
                return answer, maybe_done
            problem = f"{answer.status} {answer.message}"
            maybe_done = maybe_done or answer.status >= 500
            least = _retry_after(answer)
        import random  # 4 ms, for the rare case

        # Full jitter: many pods that lost the same API server do not come back at the same moment.
        delay = max(least, min(4.0, 0.1 * 2.0 ** min(step - 1, 16)) * random.uniform(0.5, 1.5))  # noqa: S311
        if time.monotonic() + delay >= deadline:
            raise UnsettledError(f"tried {tries} times in {seconds:g} s, at last: {problem}", maybe_done=maybe_done)
        time.sleep(delay)


def _worth_repeating(method: str, answer: Answer, denials: int) -> bool:
    match answer.status:
        case 401:
            return denials < 4
        case 403:
            return method != "GET" and denials < 6 and _may_be_starting(answer.message)
        case 409:
            return answer.reason != "AlreadyExists"
        case _:
            return answer.passes


def _may_be_starting(message: str) -> bool:
    """Whether a 403 is one that an API server also gives before it has read its roles, or its policies.

    The words are those of its authorizer and of its admission chain; a policy's refusal has words of its own.
    """
    return (" cannot " in message and " resource " in message) or "not yet ready to handle request" in message


def _retry_after(answer: Answer) -> float:
    """Seconds; the API server sends them as a number, never as a date."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def _broke_off(response: http.client.HTTPResponse) -> bool:
    """Whether the answer's end is missing. `readline` takes a connection that was cut for an end like any other."""
    return response.chunked and response.chunk_left is not None


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
