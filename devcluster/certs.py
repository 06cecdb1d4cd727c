"""The cluster's certificates and keys, made by openssl; kubeconfigs that hold them."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.paths import (
    API_SERVER,
    API_SERVICE_ADDRESS,
    CLUSTER_ADDRESS,
    NODE,
    DevclusterError,
    Paths,
)

DAYS = 3650
SERVING_NAMES = (
    f"IP:{CLUSTER_ADDRESS}",
    f"IP:{API_SERVICE_ADDRESS}",
    "IP:127.0.0.1",
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Subject:
    """Whom a client certificate names: a user and, with `group`, its Kubernetes group."""

    user: str
    group: str = ""


CLIENTS = {
    "admin": Subject("admin", "system:masters"),
    "apiserver-kubelet": Subject("kube-apiserver-kubelet-client", "system:masters"),
    "kube-controller-manager": Subject("system:kube-controller-manager"),
    "kube-scheduler": Subject("system:kube-scheduler"),
    "kube-proxy": Subject("system:kube-proxy"),
    "kubelet": Subject(f"system:node:{NODE}", "system:nodes"),
    "kwok": Subject("kwok", "system:masters"),
}
"""Client certificates by name."""

KUBECONFIGS = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kwok")
"""Those of CLIENTS that get a kubeconfig below .cluster/config (the admin's is .cluster/kubeconfig)."""


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise DevclusterError(f"openssl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")


def _key(path: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))


def _sign(pki: Path, name: str, subject: Subject, extensions: Sequence[str]) -> None:
    key, request, certificate = (pki / f"{name}.{end}" for end in ("key", "csr", "crt"))
    _key(key)
    group = f"/O={subject.group}" if subject.group else ""
    _openssl(
        *("req", "-new", "-key", str(key), "-out", str(request), "-subj", f"{group}/CN={subject.user}"),
    )
    wanted = pki / f"{name}.ext"
    wanted.write_text("\n".join(extensions) + "\n")
    _openssl(
        *("x509", "-req", "-in", str(request), "-out", str(certificate), "-days", str(DAYS), "-sha256"),
        *("-CA", str(pki / "ca.crt"), "-CAkey", str(pki / "ca.key"), "-CAcreateserial"),
        *("-extfile", str(wanted)),
    )
    request.unlink()
    wanted.unlink()


def ensure(paths: Paths) -> None:
    """Makes all certificates, keys and kubeconfigs unless a finished set exists."""
    done = paths.pki / "complete"
    if done.exists() and paths.kubeconfig.exists():
        return
    pki = paths.pki
    pki.mkdir(parents=True, exist_ok=True)
    pki.chmod(0o700)
    done.unlink(missing_ok=True)
    _key(pki / "ca.key")
    _openssl(
        *("req", "-x509", "-new", "-key", str(pki / "ca.key"), "-out", str(pki / "ca.crt")),
        *("-days", str(DAYS), "-sha256", "-subj", "/CN=questline-devcluster"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    _key(pki / "service-account.key")
    _openssl(
        *("ec", "-in", str(pki / "service-account.key"), "-pubout"),
        *("-out", str(pki / "service-account.pub")),
    )
    _sign(
        pki,
        "apiserver",
        Subject("kube-apiserver"),
        ("extendedKeyUsage=serverAuth", f"subjectAltName={','.join(SERVING_NAMES)}"),
    )
    for name, subject in CLIENTS.items():
        _sign(pki, name, subject, ("extendedKeyUsage=clientAuth",))
    paths.config.mkdir(parents=True, exist_ok=True)
    for name in KUBECONFIGS:
        _write_private(paths.kubeconfig_of(name), kubeconfig(pki, name))
    _write_private(paths.kubeconfig, kubeconfig(pki, "admin"))
    done.touch()


def kubeconfig(pki: Path, name: str) -> str:
    """A kubeconfig, as JSON, that stands for itself: certificates and key are inside."""

    def encoded(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "questline",
            "clusters": [
                {
                    "name": "questline",
                    "cluster": {"server": API_SERVER, "certificate-authority-data": encoded("ca.crt")},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": encoded(f"{name}.crt"),
                        "client-key-data": encoded(f"{name}.key"),
                    },
                }
            ],
            "contexts": [{"name": "questline", "context": {"cluster": "questline", "user": name}}],
        },
        indent=1,
    )


def _write_private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
