"""`Api` over HTTP to a real API server.

It sends each request once: whether to repeat one whose fate is unknown is for the caller to decide, who knows what
makes it safe.
"""

import dataclasses
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
import kopf
import orjson
from yarl import URL

from questline_operator.shell.api import (
    ApiError,
    Listing,
    NoAnswerError,
    Object,
    PatchOperation,
    Resource,
    WatchEvent,
)
from questline_operator.shell.clock import Clock, SystemClock
from questline_operator.shell.parse_json import parse_json

logger = logging.getLogger(__name__)

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TOKEN_CHECK_SECONDS = 60.0
"""How often, at most, the token file is looked at: the kubelet renews it long before the old token ends."""
REQUEST_SECONDS = 10.0
CONNECT_SECONDS = 5.0
PAGE_SIZE = 500
WATCH_SECONDS = 290
"""After how long the API server is asked to end a watch."""
SILENCE_SECONDS = 150.0
"""How long a watch may be silent: bookmarks come once a minute, so a connection as quiet as this is dead."""
MESSAGE_LIMIT = 300
"""How much of a body that is no Status goes into an error."""

_JSON = "application/json"
_JSON_PATCH = "application/json-patch+json"


class HttpApi:
    """The calls of `Api` to the API server of a `kopf.ConnectionInfo`; made by `HttpApi.connect`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        info: kopf.ConnectionInfo,
        token_file: Path,
        clock: Clock,
        silence_seconds: float,
    ) -> None:
        self._session = session
        self._server = info.server.rstrip("/")
        self._proxy = info.proxy_url
        self._credentials = _Credentials(info, token_file, clock)
        self._silence_seconds = silence_seconds

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        info: kopf.ConnectionInfo,
        *,
        token_file: Path = TOKEN_FILE,
        clock: Clock | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> AsyncIterator[Self]:
        """A client whose connections end with the context; nothing is sent yet.

        Args:
            info: the server and the credentials, as kopf's login functions give them.
            token_file: where ``info.token`` came from, when it did: it is read again as it changes.
        """
        tls = info.as_ssl_context() if info.server.startswith("https:") else True
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            # Compressing a large list costs the API server more than sending it.
            headers={"Accept": _JSON, "Accept-Encoding": "identity", "User-Agent": "questline-operator"},
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=[_sent_once],
            trust_env=info.trust_env,
        ) as session:
            yield cls(session, info, token_file, clock or SystemClock(), silence_seconds)

    async def list(self, resource: Resource, *, labels: str = "") -> Listing:
        """See `Api.list`. All pages are of the moment of the first; 410 when reading them took too long for that."""
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": labels} if labels else {})
        items: list[Object] = []
        while True:
            page = await self.request("GET", _path(resource, ""), query=query)
            items += page.get("items") or ()
            meta = page["metadata"]
            if not meta.get("continue"):
                return Listing(items, meta["resourceVersion"])
            query["continue"] = meta["continue"]

    async def watch(self, resource: Resource, *, since: str, labels: str = "") -> AsyncIterator[WatchEvent]:
        """See `Api.watch`. A stream silent for longer than bookmarks are apart is taken for dead."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(WATCH_SECONDS),
        } | ({"labelSelector": labels} if labels else {})
        path = _path(resource, "")
        timeout = aiohttp.ClientTimeout(
            total=WATCH_SECONDS + self._silence_seconds,
            sock_connect=CONNECT_SECONDS,
            sock_read=self._silence_seconds,
        )
        async with self._send("GET", path, query, None, "", timeout) as response:
            connection, rest = response.connection, b""
            try:
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield _event(line, path)
            finally:
                # Whoever leaves a stream early does not wait for the server to agree.
                if not response.content.at_eof() and connection is not None and connection.transport is not None:
                    connection.transport.abort()
            if rest:
                raise NoAnswerError(f"watch {path}: the stream broke in the middle of an event")

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """See `Api.get`."""
        return _object(await self.request("GET", _path(resource, namespace, name)))

    async def create(self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        """See `Api.create`."""
        query = {"dryRun": "All"} if dry_run else {}
        return _object(await self.request("POST", _path(resource, namespace), query=query, body=orjson.dumps(body)))

    async def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """See `Api.replace`."""
        return _object(await self.request("PUT", _path(resource, namespace, name), body=orjson.dumps(body)))

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        operations: Sequence[PatchOperation],
        *,
        subresource: str = "",
    ) -> Object:
        """See `Api.patch`."""
        body = orjson.dumps([dict(operation) for operation in operations])
        path = _path(resource, namespace, name, subresource)
        return _object(await self.request("PATCH", path, body=body, content_type=_JSON_PATCH))

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str = ""
    ) -> None:
        """See `Api.delete`."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        await self.request("DELETE", _path(resource, namespace, name), body=orjson.dumps(options))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
    ) -> Any:
        """One request and the JSON of its answer, within `REQUEST_SECONDS`.

        Args:
            path: from the server's root, its parts quoted.

        Raises:
            ApiError: the server answered 400 or above.
            NoAnswerError: no answer came, or one that is no API server's.
        """
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        async with self._send(method, path, query or {}, body, content_type, timeout) as response:
            data = await response.read()
        try:
            return parse_json(data)
        except orjson.JSONDecodeError:
            raise NoAnswerError(f"{method} {path}: the answer is not JSON: {_shortened(data)}") from None

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - handed to aiohttp, which enforces it
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The successful response; every other outcome as one of the two errors, while it is read too."""
        headers = self._credentials.headers()
        if body is not None:
            headers["Content-Type"] = content_type
        address = f"{self._server}{path}?{urlencode(query)}" if query else f"{self._server}{path}"
        url = URL(address, encoded=True)
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False, proxy=self._proxy
            ) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise _refusal(response, await response.read())
                if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                    raise NoAnswerError(f"{method} {path}: answered {response.status}, which no API server does")
                yield response
        except TimeoutError as error:
            raise NoAnswerError(f"{method} {path}: timed out") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswerError(f"{method} {path}: {type(error).__name__}: {error}") from error


class _Credentials:
    """The Authorization header, with a service account's token as its file says it now."""

    def __init__(self, info: kopf.ConnectionInfo, token_file: Path, clock: Clock) -> None:
        self._info = info
        self._file = token_file
        self._clock = clock
        self._checked = clock.monotonic()
        # Only a token that came from the file follows it: a kubeconfig's must not be replaced by a stray pod's.
        self._follows = bool(info.token) and _read(token_file) == info.token

    def headers(self) -> dict[str, str]:
        """What to send with a request now."""
        if self._follows and self._clock.monotonic() >= self._checked + TOKEN_CHECK_SECONDS:
            self._checked = self._clock.monotonic()
            token = _read(self._file)
            if token and token != self._info.token:
                logger.info("the service account's token was renewed")
                self._info = dataclasses.replace(self._info, token=token)
        return dict(self._info.as_http_headers())


async def _sent_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a PUT or DELETE on a new connection when an old one breaks.

    The first may have been applied; the second would then be refused, and its refusal taken for the answer.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise NoAnswerError(f"{request.method} {request.url.path}: {type(error).__name__}: {error}") from error


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _path(resource: Resource, namespace: str, name: str = "", subresource: str = "") -> str:
    parts = ["apis", resource.group] if resource.group else ["api"]
    parts.append(resource.version)
    if resource.namespaced and namespace:
        parts += ["namespaces", namespace]
    parts.append(resource.plural)
    parts += [part for part in (name, subresource) if part]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _object(value: Any) -> Object:
    body: Object = value
    return body


def _event(line: bytes, path: str) -> WatchEvent:
    try:
        event = parse_json(line)
    except orjson.JSONDecodeError:
        raise NoAnswerError(f"watch {path}: not an event: {_shortened(line)}") from None
    if event["type"] == "ERROR":
        raise _of_status(event["object"], HTTPStatus.INTERNAL_SERVER_ERROR, None)
    return WatchEvent(event["type"], event["object"])


def _refusal(response: aiohttp.ClientResponse, data: bytes) -> ApiError:
    """The error of an answer of 400 and above, whether a Status says more or a proxy answered in its own words."""
    header = response.headers.get("Retry-After", "")
    retry_after = float(header) if header.isascii() and header.isdigit() else None
    try:
        status = parse_json(data)
    except orjson.JSONDecodeError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = _shortened(data) or (response.reason or "no body")
        status = {"reason": (response.reason or "Unknown").replace(" ", ""), "message": text}
    return _of_status(status, response.status, retry_after)


def _of_status(status: Mapping[str, Any], code: int, retry_after: float | None) -> ApiError:
    details = status.get("details") or {}
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    return ApiError(
        status.get("code") or code,
        status.get("reason") or "Unknown",
        status.get("message") or "the API server gave no message",
        retry_after_seconds=retry_after,
    )


def _shortened(data: bytes) -> str:
    return " ".join(data[: MESSAGE_LIMIT * 4].decode(errors="replace").split())[:MESSAGE_LIMIT]
