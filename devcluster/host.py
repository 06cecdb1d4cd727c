"""What the machine must have: checked before any work, each lack said in one line; Debian packages installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from devcluster.paths import SOURCE, DevclusterError

DEBIAN_PACKAGES = (
    "buildah",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "debian-archive-keyring",
    "debootstrap",
    "iproute2",
    "iptables",
    "make",
    "openssl",
    "runc",
)
GIB = 1024**3
DISK_TO_BUILD = 10 * GIB
"""Go's module cache and build cache, the binaries, the base image."""
DISK_TO_RUN = 3 * GIB
"""Images in containerd and in buildah, etcd, logs."""


def require_root() -> None:
    if os.geteuid() != 0:
        raise DevclusterError("devcluster needs root (network namespaces, mounts, containers): run it as root")


def require_disk(folder: Path, needed: int) -> None:
    """Raises DevclusterError when the file system of `folder`, which need not exist yet, has less free bytes."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DevclusterError(
            f"too little disk space for {folder}: {free / GIB:.1f} GiB free, {needed / GIB:.0f} GiB needed"
        )


def go_needed(source: Path = SOURCE) -> tuple[int, int]:
    """The newest Go (major, minor) that a go.mod of ours, or a module that it builds, asks for."""
    found = [
        re.search(r"^go (\d+)\.(\d+)", file.read_text(), re.MULTILINE) for file in (source / "go").glob("*/go.mod")
    ]
    return max((int(match[1]), int(match[2])) for match in found if match)


def _go_version() -> str:
    # GOTOOLCHAIN=local: the version installed here, not one that Go would download to satisfy a go.mod.
    return subprocess.run(
        ["go", "version"],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "GOTOOLCHAIN": "local"},
    ).stdout


def require_go(version: Callable[[], str] = _go_version) -> None:
    """Raises DevclusterError when Go is missing or older than go.mod files ask for."""
    needed = go_needed()
    wanted = f"Go {needed[0]}.{needed[1]} or newer"
    try:
        said = version()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise DevclusterError(f"devcluster builds Kubernetes and needs {wanted} on PATH; found none") from error
    match = re.search(r"\bgo(\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < needed:
        found = match[0] if match else said.strip()
        raise DevclusterError(f"devcluster builds Kubernetes and needs {wanted} on PATH; found {found}")


def missing_packages() -> list[str]:
    """Those of DEBIAN_PACKAGES that are not installed."""
    try:
        query = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n", *DEBIAN_PACKAGES],
            check=False,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise DevclusterError("devcluster needs Debian 12 or a relative of it: there is no dpkg here") from error
    installed = {line.split()[1] for line in query.stdout.splitlines() if line.startswith("installed ")}
    return [package for package in DEBIAN_PACKAGES if package not in installed]


def install_packages(packages: list[str], say: Callable[[str], None]) -> None:
    """Installs Debian packages. Raises DevclusterError with apt's last words when that fails."""
    say(f"installing Debian packages: {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-qq", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", *arguments], check=False, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise DevclusterError(f"apt-get {arguments[0]} failed: {' / '.join(words)}")
