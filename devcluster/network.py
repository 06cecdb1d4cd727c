"""The cluster's network namespace: a link to the host, no default route, nothing that leaves the machine."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

from devcluster.mounts import unmount
from devcluster.paths import (
    API_SERVICE_ADDRESS,
    CLUSTER_ADDRESS,
    CLUSTER_LINK,
    DNS_ADDRESS,
    HOST_ADDRESS,
    HOST_LINK,
    NETNS,
    NETNS_FILE,
    PREFIX_LENGTH,
    SERVICE_BRIDGE,
    SERVICE_CIDR,
    DevclusterError,
)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise DevclusterError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _inside(*command: str) -> str:
    return _run("nsenter", f"--net={NETNS_FILE}", "--", *command)


def is_complete() -> bool:
    """True when the namespace and its link exist and are up (a reboot leaves a plain file of that name)."""
    try:
        host = _run("ip", "-oneline", "address", "show", "dev", HOST_LINK, "up")
        inside = _inside("ip", "-oneline", "address", "show", "up")
        routes = _inside("ip", "route")
    except DevclusterError:
        return False
    return (
        f" {HOST_ADDRESS}/" in host
        and f" {CLUSTER_ADDRESS}/" in inside
        and "127.0.0.1/" in inside
        and re.search(rf"^{re.escape(SERVICE_CIDR)} ", routes, re.MULTILINE) is not None
    )


def create() -> None:
    """Makes the namespace anew; what an earlier one of that name left is removed first."""
    remove()
    _run("ip", "netns", "add", NETNS)
    _run("ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", CLUSTER_LINK, "netns", NETNS)
    _run("ip", "address", "add", f"{HOST_ADDRESS}/{PREFIX_LENGTH}", "dev", HOST_LINK)
    _run("ip", "link", "set", HOST_LINK, "up")
    _inside("ip", "link", "set", "lo", "up")
    _inside("ip", "address", "add", f"{CLUSTER_ADDRESS}/{PREFIX_LENGTH}", "dev", CLUSTER_LINK)
    _inside("ip", "link", "set", CLUSTER_LINK, "up")
    # Service addresses need a route to reach kube-proxy's rules; one that they do not translate goes nowhere.
    _inside("ip", "link", "add", SERVICE_BRIDGE, "type", "bridge")
    _inside("ip", "link", "set", SERVICE_BRIDGE, "up")
    _inside("ip", "route", "add", SERVICE_CIDR, "dev", SERVICE_BRIDGE)
    _inside("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def remove() -> None:
    """Removes the namespace and the host's end of the link, if they are there."""
    if HOST_LINK in {name for _, name in socket.if_nameindex()}:
        _run("ip", "link", "delete", HOST_LINK)
    if NETNS_FILE.exists():
        _run("ip", "netns", "delete", NETNS)
    folder = NETNS_FILE.parent
    if folder.is_dir() and not any(folder.iterdir()):
        # `ip netns add` has mounted it onto itself; other namespaces, if there were any, would need it.
        unmount([folder])
        folder.rmdir()


_DNS_QUERY = """
import socket, sys
question = b"".join(bytes([len(p)]) + p for p in (b"kubernetes", b"default", b"svc", b"cluster", b"local"))
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(0.5)
link.connect((sys.argv[1], 53))
link.send(b"\\x51\\x4c\\x01\\x00\\x00\\x01" + bytes(6) + question + b"\\x00\\x00\\x01\\x00\\x01")
sys.exit(socket.inet_aton(sys.argv[2]) not in link.recv(512))
"""


def dns_answers() -> bool:
    """True when cluster DNS, asked at its Service's address, knows the API server's Service."""
    done = subprocess.run(
        [
            *("nsenter", f"--net={NETNS_FILE}", "--", sys.executable, "-S", "-c", _DNS_QUERY),
            *(DNS_ADDRESS, API_SERVICE_ADDRESS),
        ],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0
