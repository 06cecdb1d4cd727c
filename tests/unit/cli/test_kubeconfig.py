"""Which cluster is meant, as kubectl finds it; who one is; and what is said of a kubeconfig that is broken."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from questline.cli.cluster import JOBS, Cluster
from questline.cli.errors import CommandError
from questline.cli.kubeconfig import ClusterTransport, find_target
from questline.client import HttpTransport
from questline.errors import ConfigurationError
from tests.unit.cli.server import Server
from tests.unit.sdk.apiserver import TLS, serving

SERVER_CRT = (TLS / "server.crt").read_bytes()


@pytest.fixture(autouse=True)
def _no_other_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUESTLINE_SERVICEACCOUNT_DIR", str(tmp_path / "none"))


def config(file: Path, *, cluster: Any = None, user: Any = None, **more: Any) -> str:
    """A kubeconfig with one context `one`."""
    content = {
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"} if cluster is None else cluster}],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        **more,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return str(file)


def listed(kubeconfig: str | None, context: str | None = None) -> list[str]:
    """The names of the Jobs that are found by it."""
    cluster = Cluster(find_target(kubeconfig, context, None))
    try:
        return [job["metadata"]["name"] for job in cluster.listed(JOBS)]
    finally:
        cluster.close()


# Which one


def test_the_flag_goes_before_the_variable_and_that_before_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def namespace(given: str | None) -> str:
        return find_target(given, None, None).namespace

    def named(name: str) -> Any:
        return [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": name}}]

    config(tmp_path / "home" / ".kube" / "config", contexts=named("home"))
    assert namespace(None) == "home"
    monkeypatch.setenv("KUBECONFIG", config(tmp_path / "variable", contexts=named("variable")))
    assert namespace(None) == "variable"
    assert namespace(config(tmp_path / "flag", contexts=named("flag"))) == "flag"


def test_of_several_files_the_first_that_names_a_thing_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = config(tmp_path / "first", clusters=[], users=[])
    second = config(
        tmp_path / "second",
        contexts=[
            {"name": name, "context": {"cluster": "c", "user": "u", "namespace": f"{name}-of-second"}}
            for name in ("one", "two")
        ],
        **{"current-context": "two"},
    )
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([first, str(tmp_path / "missing"), second]))
    assert find_target(None, None, None).namespace == "shop"
    assert find_target(None, "two", None).namespace == "two-of-second"
    assert find_target(None, "two", "given").namespace == "given"


def test_without_a_kubeconfig_a_pod_speaks_with_its_own_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "account"
    folder.mkdir()
    with serving(folder) as api:
        for name, value in api.environ().items():
            monkeypatch.setenv(name, value)
        target = find_target(None, None, None)
        assert (target.namespace, target.where) == ("shop", "the cluster of this pod")


# Who one is


def test_a_token_in_a_file_beside_the_kubeconfig(server: Server, tmp_path: Path) -> None:
    server.job("a")
    (tmp_path / "token").write_text("secret\n")
    address = {"server": f"http://127.0.0.1:{server.port}"}
    assert listed(config(tmp_path / "config", cluster=address, user={"tokenFile": "token"})) == ["a"]


PLUGIN = """#!{python}
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["kind"] == "ExecCredential" and info["apiVersion"] == "client.authentication.k8s.io/v1", info
with open({count!r}, "a") as file:
    file.write("asked ")
print({answer!r} if sys.argv[1:] == ["get", "token"] and os.environ["REGION"] == "here" else sys.exit(3))
"""


def plugin(folder: Path, answer: str) -> dict[str, Any]:
    """A user whose credentials a plugin in that folder tells."""
    script = folder / "plugin"
    script.write_text(PLUGIN.format(python=sys.executable, answer=answer, count=str(folder / "count")))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "args": ["get", "token"],
            "env": [{"name": "REGION", "value": "here"}],
        }
    }


@pytest.mark.parametrize(("expires", "asked"), [("2998-01-01T00:00:00Z", 1), ("2000-01-01T00:00:00Z", 4)])
def test_a_plugin_is_asked_once_for_as_long_as_its_token_lasts(
    server: Server, tmp_path: Path, expires: str, asked: int
) -> None:
    server.job("a")
    answer = json.dumps({"status": {"token": "secret", "expirationTimestamp": expires}})
    address = {"server": f"http://127.0.0.1:{server.port}"}
    cluster = Cluster(
        find_target(config(tmp_path / "config", cluster=address, user=plugin(tmp_path, answer)), None, None)
    )
    for _ in range(3):
        assert len(cluster.listed(JOBS)) == 1
    cluster.close()
    assert (tmp_path / "count").read_text().count("asked") == asked


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"exec": {"command": "/no/such/plugin", "installHint": "install it"}}, "cannot be run: .*; install it"),
        ({"exec": {"command": "false"}}, "exec plugin 'false' ended with 1: run it by hand to see why"),
        ({"exec": {"command": "true"}}, "exec plugin 'true' did not print an ExecCredential with a status"),
        (
            {"exec": {"command": "echo", "args": ['{"status": {}}']}},
            "exec plugin 'echo' printed neither a token nor a certificate",
        ),
    ],
)
def test_a_plugin_that_does_not_do_its_work_is_named(tmp_path: Path, user: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        listed(config(tmp_path / "config", user=user))


def test_who_is_unknown_is_told_to_renew_the_credentials(server: Server, tmp_path: Path) -> None:
    address = {"server": f"http://127.0.0.1:{server.port}"}
    with pytest.raises(CommandError, match=r"the API server does not know who you are .*: renew the credentials of"):
        listed(config(tmp_path / "config", cluster=address, user={"token": "wrong"}))


# How the server proves to be the one that is meant


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "account"
    folder.mkdir()
    with serving(folder) as api:
        yield api.port


def asks(kubeconfig: str) -> str:
    """What is said when a Job is asked for that is not there."""
    cluster = Cluster(find_target(kubeconfig, None, None))
    with pytest.raises(CommandError) as refusal:
        cluster.get(JOBS, "nothing")
    cluster.close()
    return str(refusal.value)


@pytest.mark.parametrize("how", ["data", "comment", "file", "insecure"])
def test_a_server_with_the_authoritys_certificate_is_trusted(tmp_path: Path, tls_port: int, how: str) -> None:
    (tmp_path / "ca.crt").write_bytes(SERVER_CRT)
    trust: dict[str, dict[str, Any]] = {
        "data": {"certificate-authority-data": base64.b64encode(SERVER_CRT).decode()},
        "comment": {"certificate-authority-data": base64.b64encode("# Behörde\n".encode() + SERVER_CRT).decode()},
        "file": {"certificate-authority": "ca.crt"},
        "insecure": {"insecure-skip-tls-verify": True},
    }
    cluster = {"server": f"https://127.0.0.1:{tls_port}", **trust[how]}
    assert asks(config(tmp_path / "config", cluster=cluster)).startswith("there is no Job shop/nothing")


@pytest.mark.parametrize(
    "cluster",
    [
        {"certificate-authority-data": base64.b64encode((TLS / "other.crt").read_bytes()).decode()},
        {"certificate-authority-data": base64.b64encode(SERVER_CRT).decode(), "tls-server-name": "elsewhere.example"},
    ],
)
def test_another_server_is_not_trusted(tmp_path: Path, tls_port: int, cluster: dict[str, Any]) -> None:
    said = asks(config(tmp_path / "config", cluster={"server": f"https://127.0.0.1:{tls_port}", **cluster}))
    assert said.startswith("the API server of context one of ")
    assert "CERTIFICATE_VERIFY_FAILED" in said


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, tls_port: int) -> None:
    address = {"server": f"https://127.0.0.1:{tls_port}"}
    garbage = {"client-certificate-data": base64.b64encode(b"no certificate").decode()}
    assert "its certificates cannot be used" in asks(config(tmp_path / "config", cluster=address, user=garbage))


@pytest.mark.parametrize("by", ["kubeconfig", "service account"])
def test_authorities_need_no_extensions_that_go_does_not_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """EKS's have no key identifier, MicroK8s's no key usage: Python 3.13's default context refuses both."""
    made = ssl.create_default_context

    def of_python_3_13(**given: Any) -> ssl.SSLContext:
        context = made(**given)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", of_python_3_13)
    if by == "kubeconfig":
        cluster = {"certificate-authority-data": base64.b64encode(SERVER_CRT).decode(), "server": "https://127.0.0.1:1"}
        found = find_target(config(tmp_path / "config", cluster=cluster), None, None).transport
        assert isinstance(found, HttpTransport)
        context = found._context()
    else:
        context = HttpTransport("127.0.0.1", 1, token=None, ca_file=TLS / "server.crt")._context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@contextmanager
def proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy that opens tunnels; its port, and the heads of the requests that it was sent."""
    heads: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            heads.append(head.decode())
            host, _, port = head.split()[1].decode().partition(":")
            host = host.replace("cluster.example", "127.0.0.1")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pass_on, args=(server, client))
                back.start()
                pass_on(client, server)
                back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    with listening:
        yield listening.getsockname()[1], heads
    thread.join()


@pytest.mark.parametrize("by", ["proxy-url", "variable"])
def test_a_proxy_is_passed_through(tmp_path: Path, tls_port: int, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    cluster = {
        "server": f"https://cluster.example:{tls_port}",
        "tls-server-name": "127.0.0.1",
        "certificate-authority-data": base64.b64encode(SERVER_CRT).decode(),
    }
    with proxy() as (port, heads):
        url = f"http://user:pass%20word@127.0.0.1:{port}"
        if by == "proxy-url":
            cluster["proxy-url"] = url
        else:
            monkeypatch.setenv("HTTPS_PROXY", url)
        assert asks(config(tmp_path / "config", cluster=cluster)).startswith("there is no Job shop/nothing")
    assert heads[0].startswith(f"CONNECT cluster.example:{tls_port} ")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:pass word').decode()}" in heads[0]


def test_a_host_that_is_exempt_needs_no_proxy(tmp_path: Path, tls_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cluster = {"server": f"https://127.0.0.1:{tls_port}", "insecure-skip-tls-verify": True}
    assert asks(config(tmp_path / "config", cluster=cluster)).startswith("there is no Job shop/nothing")


@pytest.mark.parametrize(
    ("server", "exempt", "proxied"),
    [
        ("https://127.0.0.1:6443", "", False),
        ("https://localhost:6443", "", False),
        ("https://[::1]:6443", "", False),
        ("https://10.1.2.3:6443", "example.com,10.0.0.0/8", False),
        ("https://11.1.2.3:6443", "example.com,10.0.0.0/8", True),
        ("https://cluster.example:6443", "", True),
    ],
)
def test_proxies_are_used_as_kubectl_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, exempt: str, proxied: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128" if proxied else "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    target = find_target(config(tmp_path / "config", cluster={"server": server}), None, None)
    assert isinstance(target.transport, ClusterTransport)
    assert target.transport._server.proxy == ("http://proxy.example:3128" if proxied else None)


# What is broken


def test_no_kubeconfig_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no kubeconfig is found .*: name one with --kubeconfig"):
        find_target(None, None, None)


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_kubeconfig_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "variable":
        monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    with pytest.raises(ConfigurationError, match="the kubeconfig /no/such/file does not exist: correct --kubeconfig"):
        find_target("/no/such/file" if by == "flag" else None, None, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is no YAML: "),
        ("- a", "holds no clusters, users and contexts"),
        ("{}", "names no current-context: give --context$"),
        ("clusters: [1]", "an entry of clusters is no cluster: 1"),
        (
            "current-context: gone\ncontexts: [{name: a}, {name: b}]",
            r"has no context 'gone': give another --context \(a, b\)",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]",
            "context a of .* names the cluster 'c', which is not there",
        ),
    ],
)
def test_a_kubeconfig_that_says_nothing_is_named_with_what_is_missing(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(ConfigurationError, match=said):
        find_target(str(tmp_path / "config"), None, None)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"cluster": {}}, "cluster.server is None, a URL is needed"),
        ({"cluster": {"server": "127.0.0.1:6443"}}, "cluster.server is '127.0.0.1:6443', a URL is needed"),
        ({"cluster": {"server": "https://[::1:6443"}}, "cluster.server is 'https://.*': Invalid IPv6 URL"),
        ({"clusters": 3}, "clusters is no list"),
        ({"user": {"exec": "aws"}}, "the user's exec is no plugin"),
        ({"user": {"exec": {"command": "aws", "env": [{"name": "A"}]}}}, "the user's exec is no plugin"),
        ({"cluster": {"server": "https://a:b"}}, "cluster.server is 'https://a:b': Port could not be cast"),
        ({"cluster": {"server": "https://a", "proxy-url": "socks5://b"}}, "the proxy socks5://b cannot be used"),
        (
            {"cluster": {"server": "https://a", "certificate-authority": "gone.crt"}},
            "certificate-authority cannot be read: .*gone.crt",
        ),
        ({"user": {"auth-provider": {"name": "oidc"}}}, "the user's auth-provider 'oidc' is not supported"),
        ({"user": {"token": "t", "as": "eve", "as-groups": ["g"]}}, "as-groups and as-user-extra are not supported"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path: Path, entry: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        find_target(config(tmp_path / "config", **entry), None, None)
