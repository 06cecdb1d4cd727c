"""The few calls that devcluster itself makes to the API server, on the standard library."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlencode

from devcluster.paths import API_PORT, CLUSTER_ADDRESS, DevclusterError, Paths

FIELD_MANAGER = "devcluster"
TIMEOUT_SECONDS = 5.0


class ApiRefusedError(DevclusterError):
    """The API server answered with an error; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """A connection as the cluster's admin. Calls raise OSError while no API server listens."""

    def __init__(self, paths: Paths) -> None:
        context = ssl.create_default_context(cafile=str(paths.pki / "ca.crt"))
        context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        self._context = context
        self._connection: http.client.HTTPSConnection | None = None

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """Sends one request, returns the decoded answer. Raises ApiRefusedError, OSError."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                CLUSTER_ADDRESS, API_PORT, timeout=TIMEOUT_SECONDS, context=self._context
            )
        try:
            payload = None if body is None else json.dumps(body).encode()
            self._connection.request(method, path, payload, {"Content-Type": content_type})
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._connection = None
            raise ConnectionError(f"API server: {error!r}") from error
        text = data.decode(errors="replace")
        if answer.status >= 300:
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                text = text[:300]
            raise ApiRefusedError(answer.status, f"{method} {path}: {answer.status} {text}")
        return json.loads(text) if text.startswith("{") else text

    def ready(self) -> bool:
        """True when every start hook of the API server has ended."""
        try:
            self.request("GET", "/readyz")
        except (OSError, ApiRefusedError):
            return False
        return True

    def get(self, path: str) -> dict[str, Any] | None:
        """None when the object does not exist."""
        try:
            found: dict[str, Any] = self.request("GET", path)
        except ApiRefusedError as error:
            if error.code == 404:
                return None
            raise
        return found

    def apply(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply of one object at its path."""
        query = urlencode({"fieldManager": FIELD_MANAGER, "force": "true"})
        answer: dict[str, Any] = self.request("PATCH", f"{path}?{query}", manifest, "application/apply-patch+yaml")
        return answer

    def delete(self, path: str) -> None:
        """Deletes one object; one that does not exist is fine."""
        try:
            self.request("DELETE", path)
        except ApiRefusedError as error:
            if error.code != 404:
                raise
