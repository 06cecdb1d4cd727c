"""The API server of a developer's kubeconfig, by the `kubernetes` client of the extra `questline[client]`.

That library knows every way in which a kubeconfig may say who one is (certificates, tokens, exec plugins, proxies);
requests and their repetition are ours, as in a pod.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from questline.client import USER_AGENT, Answer, LostAnswerError, NotSentError, RefusedError, Transport
from questline.errors import ConfigurationError, MissingDependency


def connect() -> tuple[Transport, str]:
    """The API server and the namespace of the kubeconfig's current context.

    Raises:
        MissingDependency: the library is not installed.
        ConfigurationError: there is no kubeconfig, or it is broken.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        raise MissingDependency(
            "enqueueing from outside a cluster needs the client: pip install 'questline[client]'"
        ) from None
    configuration = client.Configuration()
    try:
        # Read here: the library looks at KUBECONFIG once, when it is imported.
        file = os.environ.get("KUBECONFIG")
        config.load_kube_config(file, client_configuration=configuration)  # type: ignore[no-untyped-call]
        _, context = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    except Exception as error:  # of a broken file the library raises whatever it stumbles over
        said = " ".join(str(error).split())
        raise ConfigurationError(
            f"neither a pod's service account nor a kubeconfig is found here ({said}): set KUBECONFIG, or run "
            "`kubectl config get-contexts` to see what there is"
        ) from None
    namespace = context.get("context", {}).get("namespace") or "default"
    return KubeconfigTransport(client.ApiClient(configuration)), namespace


class KubeconfigTransport:
    """Requests by the connection pool of a configured `kubernetes.client.ApiClient`."""

    def __init__(self, api_client: Any) -> None:
        self._configuration = api_client.configuration
        self._pool = api_client.rest_client.pool_manager
        self._host = self._configuration.host.rstrip("/")
        self._process = os.getpid()

    def send(self, method: str, path: str, body: bytes | None, content_type: str, timeout: float) -> Answer:
        """See `Transport.send`."""
        response = self._request(method, path, body, content_type if body is not None else "", timeout, stream=False)
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, response.data)

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        """See `Transport.stream`."""
        from urllib3.exceptions import HTTPError

        response = self._request("GET", path, None, "", timeout, stream=True)
        try:
            if response.status != 200:
                raise RefusedError(Answer(response.status, dict(response.headers), response.read()))
            rest = b""
            for chunk in response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from filter(None, lines)
        except (HTTPError, OSError) as error:
            raise LostAnswerError(f"{type(error).__name__}: {error}") from None
        finally:
            response.close()

    def close(self) -> None:
        """See `Transport.close`."""
        self._pool.clear()

    def _request(
        self, method: str, path: str, body: bytes | None, content_type: str, timeout: float, *, stream: bool
    ) -> Any:
        from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

        if self._process != os.getpid():
            # A fork's copies of our connections are its parent's still: two must not speak on one.
            self._pool.clear()
            self._process = os.getpid()
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        if content_type:
            headers["Content-Type"] = content_type
        for setting in self._configuration.auth_settings().values():  # tokens are refreshed by this
            if setting["in"] == "header":
                headers[setting["key"]] = setting["value"]
        try:
            return self._pool.request(
                method,
                self._host + path,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=not stream,
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise NotSentError(f"cannot connect to {self._host}: {error}") from None
        except (HTTPError, OSError) as error:
            # Any other error of TLS may have come after the request.
            if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise NotSentError(f"cannot connect to {self._host}: {error}", final=True) from None
            raise LostAnswerError(f"{type(error).__name__}: {error}") from None
