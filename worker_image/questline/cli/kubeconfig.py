"""Which cluster is meant, as kubectl finds it, and a transport that speaks with it.

Read here, and not by the `kubernetes` client: that takes most of a second to import, which each completion of a name at
the prompt would pay.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import yaml

from questline.client import Answer, HttpTransport, NotSentError, TokenFile, Transport, lenient, service_account
from questline.errors import ConfigurationError

EXPIRY_MARGIN_SECONDS = 10.0
"""A credential is asked for anew so long before it expires."""


@dataclass(frozen=True)
class Target:
    """A cluster and a namespace.

    Attributes:
        where: what error messages call it.
    """

    transport: Transport
    namespace: str
    where: str


def find_target(kubeconfig: str | None, context: str | None, namespace: str | None) -> Target:
    """The cluster that kubectl would speak with, given the same flags.

    That is the context named, else the current one, of the file named, else of those in KUBECONFIG, else of
    ~/.kube/config; without any of them, in a pod, its service account's.

    Raises:
        ConfigurationError: there is none, or what says it is broken.
    """
    config = _load(kubeconfig)
    if config is None:
        account = service_account(os.environ)
        if account is not None and context is None:
            return Target(account.transport, namespace or account.namespace, "the cluster of this pod")
        raise ConfigurationError(
            "no kubeconfig is found (KUBECONFIG is not set and ~/.kube/config does not exist): name one with "
            "--kubeconfig, or set KUBECONFIG"
        )
    return config.target(context, namespace)


@dataclass
class _Kubeconfig:
    """One or several files as one; of entries with the same name the first counts."""

    source: str
    current: str = ""
    clusters: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    contexts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, file: Path, content: Mapping[str, Any]) -> None:
        """The entries of one more file; what they name by relative paths lies beside it."""
        self.current = self.current or str(content.get("current-context") or "")
        for kind, into, inner in (
            ("clusters", self.clusters, "cluster"),
            ("users", self.users, "user"),
            ("contexts", self.contexts, "context"),
        ):
            entries = content.get(kind) or ()
            if not isinstance(entries, list | tuple):
                raise ConfigurationError(f"{file}: {kind} is no list")
            for entry in entries:
                if not isinstance(entry, dict) or not isinstance(entry.get(inner) or {}, dict):
                    raise ConfigurationError(f"{file}: an entry of {kind} is no {inner}: {entry!r}")
                into.setdefault(str(entry.get("name")), {**(entry.get(inner) or {}), "_folder": file.parent})

    def target(self, name: str | None, namespace: str | None) -> Target:
        name = name or self.current
        if not name:
            raise ConfigurationError(f"{self.source} names no current-context: give --context{self._there_are()}")
        context = self.contexts.get(name)
        if context is None:
            raise ConfigurationError(
                f"{self.source} has no context {name!r}: give another --context{self._there_are()}"
            )
        cluster = self._named(self.clusters, context, "cluster", name)
        user = self._named(self.users, context, "user", name) if context.get("user") else {}
        where = f"context {name} of {self.source}"
        transport = ClusterTransport(_Server(cluster, where), _Credentials(user, where))
        return Target(transport, namespace or str(context.get("namespace") or "default"), where)

    def _named(
        self, entries: Mapping[str, dict[str, Any]], context: Mapping[str, Any], kind: str, name: str
    ) -> dict[str, Any]:
        entry = entries.get(str(context.get(kind)))
        if entry is None:
            raise ConfigurationError(
                f"context {name} of {self.source} names the {kind} {context.get(kind)!r}, which is not there"
            )
        return entry

    def _there_are(self) -> str:
        return f" ({', '.join(sorted(self.contexts))})" if self.contexts else ""


def _load(kubeconfig: str | None) -> _Kubeconfig | None:
    if kubeconfig:
        files, asked = [Path(kubeconfig).expanduser()], True
    else:
        given = os.environ.get("KUBECONFIG", "")
        files = [Path(part) for part in given.split(os.pathsep) if part]
        asked = bool(files)
        files = files or [Path("~/.kube/config").expanduser()]
    config = _Kubeconfig(os.pathsep.join(map(str, files)))
    found = False
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the kubeconfig {file} cannot be read: {error}") from None
        found = True
        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ConfigurationError(f"the kubeconfig {file} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise ConfigurationError(f"the kubeconfig {file} holds no clusters, users and contexts")
        config.take(file, content)
    if not found and asked:
        raise ConfigurationError(f"the kubeconfig {config.source} does not exist: correct --kubeconfig or KUBECONFIG")
    return config if found else None


class _Server:
    """Where the API server is, by which proxy, and how it proves to be the one that is meant."""

    def __init__(self, cluster: Mapping[str, Any], where: str) -> None:
        self.where = where
        try:
            url = urlsplit(str(cluster.get("server", "")))
        except ValueError as error:
            raise ConfigurationError(f"{where}: cluster.server is {cluster.get('server')!r}: {error}") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigurationError(f"{where}: cluster.server is {cluster.get('server')!r}, a URL is needed")
        self.tls = url.scheme == "https"
        try:
            self.host, self.port = url.hostname, url.port or (443 if self.tls else 80)
        except ValueError as error:
            raise ConfigurationError(f"{where}: cluster.server is {cluster.get('server')!r}: {error}") from None
        self.prefix = url.path.rstrip("/")
        self.name = str(cluster.get("tls-server-name") or self.host)
        self.insecure = bool(cluster.get("insecure-skip-tls-verify"))
        self.authority = _text_of(cluster, "certificate-authority", where)
        self.proxy = self._proxy_of(cluster)

    def _proxy_of(self, cluster: Mapping[str, Any]) -> str | None:
        given = cluster.get("proxy-url")
        if not given:
            if _needs_no_proxy(self.host):
                return None
            given = getproxies_environment().get("https" if self.tls else "http")
            if given and "://" not in given:
                given = f"http://{given}"
        if given and urlsplit(str(given)).scheme != "http":
            raise ConfigurationError(f"{self.where}: the proxy {given} cannot be used: only http:// proxies can")
        return str(given) if given else None


def _needs_no_proxy(host: str) -> bool:
    """As Go, and so kubectl, has it: NO_PROXY may name networks, and what is on this machine needs none anyway."""
    if host == "localhost" or proxy_bypass(host):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    for exempt in getproxies_environment().get("no", "").split(","):
        with suppress(ValueError):
            if "/" in exempt and address in ip_network(exempt.strip(), strict=False):
                return True
    return False


class _Credentials:
    """Who the user is: a certificate, a token, or what a plugin says."""

    def __init__(self, user: Mapping[str, Any], where: str) -> None:
        self._where = where
        if user.get("auth-provider"):
            name = user["auth-provider"].get("name") if isinstance(user["auth-provider"], dict) else ""
            raise ConfigurationError(
                f"{where}: the user's auth-provider {name!r} is not supported: use an exec plugin, such as kubelogin"
            )
        self._exec: dict[str, Any] | None = user.get("exec")
        plugin = user.get("exec") or {}
        if not isinstance(plugin, dict) or not all(
            isinstance(one, dict) and {"name", "value"} <= one.keys() for one in plugin.get("env") or ()
        ):
            raise ConfigurationError(f"{where}: the user's exec is no plugin with a command, args and env")
        self._folder: Path = user.get("_folder", Path())
        self._lock = threading.Lock()
        self._expires = float("inf")
        self.certificate = _text_of(user, "client-certificate", where)
        self.key = _text_of(user, "client-key", where)
        self._token = str(user.get("token") or "")
        self._file = TokenFile(self._folder / str(user["tokenFile"])) if user.get("tokenFile") else None
        self._impersonation = {
            "Impersonate-User": user.get("as"),
            "Impersonate-Uid": user.get("as-uid"),
        }
        if user.get("as-groups") or user.get("as-user-extra"):
            raise ConfigurationError(
                f"{where}: as-groups and as-user-extra are not supported: use kubectl, or no groups"
            )

    def prepare(self) -> None:
        """Asks the plugin, where there is one and what it said last has expired."""
        if self._exec is None:
            return
        with self._lock:
            if (self.certificate or self._token) and time.time() < self._expires:
                return
            self._ask()

    def headers(self) -> dict[str, str]:
        self.prepare()
        token = self._file.read() if self._file is not None else self._token
        headers = {name: str(value) for name, value in self._impersonation.items() if value}
        return headers | ({"Authorization": f"Bearer {token}"} if token else {})

    def _ask(self) -> None:
        plugin = self._exec or {}
        command = str(plugin.get("command", ""))
        if "/" in command:
            command = str(self._folder / command)
        info = {
            "apiVersion": plugin.get("apiVersion"),
            "kind": "ExecCredential",
            "spec": {"interactive": sys.stdin.isatty()},
        }
        environ = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        environ |= {str(one["name"]): str(one["value"]) for one in plugin.get("env") or ()}
        what = f"{self._where}: the user's exec plugin {plugin.get('command')!r}"
        try:
            done = subprocess.run(
                [command, *map(str, plugin.get("args") or ())], env=environ, stdout=subprocess.PIPE, check=False
            )
        except OSError as error:
            hint = plugin.get("installHint")
            raise ConfigurationError(f"{what} cannot be run: {error}" + (f"; {hint}" if hint else "")) from None
        if done.returncode != 0:
            raise ConfigurationError(f"{what} ended with {done.returncode}: run it by hand to see why")
        try:
            status = json.loads(done.stdout)["status"]
            expires = status.get("expirationTimestamp")
            self._expires = _seconds_of(expires) - EXPIRY_MARGIN_SECONDS if expires else float("inf")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{what} did not print an ExecCredential with a status: {error!r}") from None
        self._token = str(status.get("token") or "")
        self.certificate = str(status.get("clientCertificateData") or "").encode() or None
        self.key = str(status.get("clientKeyData") or "").encode() or None
        if not self._token and not self.certificate:
            raise ConfigurationError(f"{what} printed neither a token nor a certificate")


class ClusterTransport(HttpTransport):
    """Requests to the API server of a kubeconfig, over a pool of kept connections."""

    def __init__(self, server: _Server, credentials: _Credentials) -> None:
        super().__init__(server.host, server.port, token=None, ca_file=None)
        self._server, self._credentials = server, credentials

    def send(self, method: str, path: str, body: bytes | None, content_type: str, timeout: float) -> Answer:
        """See `Transport.send`."""
        return super().send(method, self._server.prefix + path, body, content_type, timeout)

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        """See `Transport.stream`."""
        return super().stream(self._server.prefix + path, timeout)

    def _headers(self, content_type: str) -> dict[str, str]:
        return super()._headers(content_type) | self._credentials.headers()

    def _new_connection(self, timeout: float) -> http.client.HTTPConnection:
        server = self._server
        self._credentials.prepare()
        host, port, headers = server.host, server.port, {}
        if server.proxy is not None:
            proxy = urlsplit(server.proxy)
            host, port = proxy.hostname or "", proxy.port or 80
            if proxy.username:
                secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
                headers["Proxy-Authorization"] = "Basic " + base64.b64encode(secret).decode()
        connection: http.client.HTTPConnection
        if server.tls:
            connection = _TlsConnection(host, port, timeout, self._context(), server.name)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        if server.proxy is not None:
            connection.set_tunnel(server.host, server.port, headers)
        return connection

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = self._make_context()
            return self._tls

    def _make_context(self) -> ssl.SSLContext:
        server, credentials = self._server, self._credentials
        try:
            # Comments may be in any language; ssl takes ASCII alone.
            authority = server.authority.decode("ascii", errors="ignore") if server.authority else None
            context = lenient(ssl.create_default_context(cadata=authority))
            if server.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if credentials.certificate:
                # ssl takes a key from a file only.
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "client.pem")
                    file.touch(mode=0o600)
                    file.write_bytes(credentials.certificate + b"\n" + (credentials.key or b""))
                    context.load_cert_chain(file)
        except (OSError, ValueError) as error:
            raise NotSentError(f"{server.where}: its certificates cannot be used: {error}", final=True) from None
        return context


class _TlsConnection(http.client.HTTPSConnection):
    """One that may ask for another name's certificate than that of the host (tls-server-name)."""

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls_context, self._tls_name = context, name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._tls_name)


def _text_of(entry: Mapping[str, Any], name: str, where: str) -> bytes | None:
    """A certificate or key: in the entry itself, or in the file that it names."""
    data, file = entry.get(f"{name}-data"), entry.get(name)
    try:
        if data:
            return base64.b64decode(data)
        return Path(entry["_folder"], str(file)).read_bytes() if file else None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{where}: {name} cannot be read: {error}") from None


def _seconds_of(time_text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(time_text).timestamp()
