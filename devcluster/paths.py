"""Where things are: names and addresses of the cluster, folders of a checkout and of the machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

NETNS = "questline"
"""Name of the network namespace in which every daemon runs."""
HOST_LINK, CLUSTER_LINK, SERVICE_BRIDGE = "questline0", "questline1", "svc0"
HOST_ADDRESS, CLUSTER_ADDRESS, PREFIX_LENGTH = "198.51.100.1", "198.51.100.2", 30
API_PORT = 6443
API_SERVER = f"https://{CLUSTER_ADDRESS}:{API_PORT}"
SERVICE_CIDR, POD_CIDR = "10.96.0.0/16", "10.88.0.0/16"
API_SERVICE_ADDRESS, DNS_ADDRESS = "10.96.0.1", "10.96.0.10"
NODE = "questline"
"""Name of the one real node."""
CGROUP = "questline"
"""The cgroup, in every hierarchy, below which all containers of the cluster live."""

KUBERNETES_VERSION = "v1.35.4"

PAUSE_IMAGE = "questline.dev/pause:1"
COREDNS_IMAGE = "questline.dev/coredns:1"
BASE_IMAGE = "python:3.11-slim-bookworm"
"""The short name that Dockerfiles say after FROM."""

RUN_DIR = Path("/run/questline-devcluster")
"""What belongs to the machine and not to a checkout: the claim on the addresses, short socket paths."""
LOCK_FILE = Path("/run/questline-devcluster.lock")
NETNS_FILE = Path("/run/netns") / NETNS

UNIX_SOCKET_LIMIT = 107
"""Longest path of a unix socket, in bytes (sockaddr_un holds 108 with the closing NUL)."""

SOURCE = Path(__file__).resolve().parent


class DevclusterError(Exception):
    """Something that the person at the terminal can mend; its text is shown as one line, without a traceback."""


def cache_home() -> Path:
    """Folder for what is built once a machine: XDG's cache folder, ``~/.cache`` by default."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "questline-devcluster"


def digest_of(*parts: bytes) -> str:
    """Key of a cache entry: the first 16 hex digits of a sha256 over the parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Paths:
    """Every file and folder that the cluster of one checkout uses."""

    root: Path
    """The folder that holds .cluster: the checkout."""

    @property
    def state(self) -> Path:
        return self.root / ".cluster"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def bin(self) -> Path:
        return self.state / "bin"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def etcd(self) -> Path:
        return self.state / "etcd"

    @property
    def containerd(self) -> Path:
        return self.state / "containerd"

    @property
    def pod_logs(self) -> Path:
        return self.state / "pods"

    @property
    def cni_addresses(self) -> Path:
        return self.state / "cni"

    @property
    def settings(self) -> Path:
        return self.state / "settings.json"

    @property
    def loaded_images(self) -> Path:
        return self.state / "images.json"

    @property
    def kubelet(self) -> Path:
        """The kubelet's root: below .cluster unless its sockets' paths would be too long there."""
        here = self.state / "kubelet"
        longest = here / "pod-resources" / "kubelet.sock"
        return here if len(os.fsencode(longest)) <= UNIX_SOCKET_LIMIT else RUN_DIR / "kubelet"

    @property
    def containerd_state(self) -> Path:
        return RUN_DIR / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return RUN_DIR / "containerd.sock"

    def log_of(self, daemon: str) -> Path:
        return self.log / f"{daemon}.log"

    def kubeconfig_of(self, user: str) -> Path:
        return self.config / f"{user}.kubeconfig"
