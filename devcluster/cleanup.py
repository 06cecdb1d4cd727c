"""Taking a cluster down to the last process, mount, namespace and cgroup, whatever state it is in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from devcluster import network
from devcluster.mounts import mounts_below, unmount
from devcluster.paths import CGROUP, NETNS_FILE, RUN_DIR, DevclusterError, Paths
from devcluster.processes import Identity, Record, processes, stop

CGROUPS = Path("/sys/fs/cgroup")
RECORDS = "records"
"""The folder below .cluster where test runs keep their verdicts."""


def own_shims(paths: Paths) -> list[int]:
    """Pids of the containerd shims of this machine's cluster: those that were told our socket."""
    return [
        pid
        for pid, argv in processes()
        if argv and Path(argv[0]).name.startswith("containerd-shim") and str(paths.containerd_socket) in argv
    ]


def in_namespace() -> list[int]:
    """Pids of the processes whose network is the cluster's namespace: its daemons and shims."""
    try:
        wanted = NETNS_FILE.stat()
    except FileNotFoundError:
        return []
    found = []
    for pid, argv in processes():
        with contextlib.suppress(OSError):
            if argv and os.path.samestat(Path(f"/proc/{pid}/ns/net").stat(), wanted):
                found.append(pid)
    return found


def _cgroup_folders() -> list[Path]:
    """Our cgroup in every hierarchy: one on cgroup v2, one a controller on v1."""
    return [folder for folder in (CGROUPS / CGROUP, *CGROUPS.glob(f"*/{CGROUP}")) if folder.is_dir()]


def create_cgroups() -> None:
    """Makes the cgroup that the kubelet is told to put pods below; it must exist before it starts."""
    if (CGROUPS / "cgroup.controllers").exists():
        folder = CGROUPS / CGROUP
        controllers = (CGROUPS / "cgroup.controllers").read_text().split()
        for controller in controllers:
            # One that is refused (in use elsewhere) only matters if the kubelet asks for it, and it says so.
            with contextlib.suppress(OSError):
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir(exist_ok=True)
        return
    for hierarchy in CGROUPS.iterdir():
        if (hierarchy / "cgroup.procs").exists() and not hierarchy.is_symlink():
            folder = hierarchy / CGROUP
            folder.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (folder / name).write_text((hierarchy / name).read_text())


def container_pids() -> set[int]:
    """Pids of everything that runs in a container of the cluster."""
    pids: set[int] = set()
    for folder in _cgroup_folders():
        for procs in folder.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in procs.read_text().split())
    return pids - {0}


def _kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            stop(Identity.of(pid), term_seconds=0)


def kill_processes(paths: Paths) -> None:
    """Ends daemons, shims and containers. Raises DevclusterError when one survives SIGKILL."""
    # The kubelet and containerd go first, so that nothing starts a container again.
    order = ("kubelet", "containerd")
    records = sorted(paths.pids.glob("*.json"), key=lambda path: path.stem not in order)
    for path in records:
        record = Record.read(path)
        if record is not None:
            record.identity.kill(signal.SIGKILL, 10)
        path.unlink(missing_ok=True)
    # A daemon whose pid file a crash swallowed is still found: by its network.
    _kill_all(in_namespace())
    _kill_all(own_shims(paths))
    deadline = time.monotonic() + 10
    while pids := {pid for pid in container_pids() if _exists(pid)}:
        _kill_all(pids)
        if time.monotonic() > deadline:
            raise DevclusterError(f"containers' processes {sorted(pids)} do not end after SIGKILL")


def _exists(pid: int) -> bool:
    try:
        Identity.of(pid)
    except ProcessLookupError:
        return False
    return True


def _remove_cgroups() -> None:
    for folder in _cgroup_folders():
        inner = sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for path in (*inner, folder):
            deadline = time.monotonic() + 5
            while True:
                try:
                    path.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    # The kernel lets go of a cgroup a moment after its last process.
                    if time.monotonic() > deadline:
                        raise DevclusterError(f"cannot remove cgroup {path}: a process is in it") from None
                    time.sleep(0.02)
                else:
                    break


def _container_ids(paths: Paths) -> set[str]:
    """Containers and pod sandboxes that containerd has notes of."""
    tasks = "io.containerd.runtime.v2.task/k8s.io"
    folders = (paths.containerd_state / tasks, paths.containerd / tasks)
    return {entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()}


def _remove_strays(paths: Paths) -> None:
    """Files that daemons put outside .cluster, at places that no option of theirs changes."""
    for file in paths.containerd_state.rglob("address"):
        # A shim's socket, in a folder that containerd 1.6 has built in.
        with contextlib.suppress(OSError):
            Path(file.read_text().strip().removeprefix("unix://")).unlink()
    links = Path("/var/log/containers")
    for link in links.glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{paths.pod_logs}/"):
            link.unlink()
    results = Path("/var/lib/cni/results")
    for identity in _container_ids(paths):
        for file in results.glob(f"*-{identity}-*"):
            file.unlink()
    plugins = Path("/var/lib/kubelet/device-plugins")
    for name in ("kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"):
        (plugins / name).unlink(missing_ok=True)
    shims = Path("/run/containerd/s")
    for folder in (shims, shims.parent, links, results, results.parent, plugins, plugins.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


def clean(paths: Paths) -> None:
    """Ends everything of the cluster and removes what the machine holds of it; files of `.cluster` stay.

    Works from what it finds, not from what should be there. Raises DevclusterError for what cannot be ended.
    """
    kill_processes(paths)
    unmount([paths.state, RUN_DIR])
    _remove_cgroups()
    network.remove()
    _remove_strays(paths)
    shutil.rmtree(RUN_DIR, ignore_errors=True)


def remove_state(paths: Paths, keep: Iterable[Path]) -> None:
    """Removes all below .cluster but the given entries of it. Mounts must be gone: nothing is deleted through one.

    What test runs have recorded is no state of the cluster's, and outlives it.
    """
    kept = {RECORDS} | {path.name for path in keep}
    if mounts_below([paths.state]):
        raise DevclusterError(f"something is still mounted below {paths.state}")
    if not paths.state.is_dir():
        return
    for entry in paths.state.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
