"""`up`, `down` and `status`: from whatever is found to the state that is asked for."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devcluster import certs, cleanup, gobuild, host, images, manifests, network
from devcluster.api import Api, ApiRefusedError
from devcluster.daemons import Daemon, Settings, all_daemons
from devcluster.paths import API_SERVER, LOCK_FILE, NODE, RUN_DIR, DevclusterError, Paths, cache_home
from devcluster.processes import Identity, Record, processes, spawn, stop, tail

Say = Callable[[str], None]

READY_TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.05
SETTLE_SECONDS = 1.0
"""A daemon that was just started must live this long to count as started."""
STOP_SECONDS = 3.0
CLAIM = RUN_DIR / "claim.json"


@contextlib.contextmanager
def machine_lock(say: Say) -> Iterator[None]:
    """One devcluster command at a time on this machine; a killed one holds nothing."""
    with LOCK_FILE.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another devcluster command on this machine to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _claimed_by() -> Paths | None:
    try:
        return Paths(Path(json.loads(CLAIM.read_text())["root"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _claim(paths: Paths) -> None:
    RUN_DIR.mkdir(mode=0o755, exist_ok=True)
    CLAIM.write_text(json.dumps({"root": str(paths.root)}))


def _resolve_claim(paths: Paths, say: Say) -> None:
    """Cleans what another checkout left. Raises DevclusterError when that checkout's cluster is alive."""
    owner = _claimed_by()
    if owner is None or owner.root == paths.root:
        return
    if cleanup.in_namespace() and owner.state.is_dir():
        raise DevclusterError(
            f"the cluster of {owner.root} runs on this machine; end it first: "
            f"cd {owner.root} && python -m devcluster down"
        )
    say(f"removing the remains of the cluster of {owner.root}")
    cleanup.clean(owner)


def _records(paths: Paths) -> dict[str, Record]:
    found = {path.stem: Record.read(path) for path in paths.pids.glob("*.json")}
    return {name: record for name, record in found.items() if record is not None}


def _alive(paths: Paths) -> dict[str, Record]:
    return {name: record for name, record in _records(paths).items() if record.identity.alive}


class Cluster:
    """The running side of one checkout's cluster."""

    def __init__(self, paths: Paths, settings: Settings, say: Say) -> None:
        self._say = say
        self.paths = paths
        self.settings = settings
        self.daemons = all_daemons(paths, settings)
        self.started: dict[str, tuple[Identity, float]] = {}
        self._log_starts: dict[str, int] = {}
        self.kubelet_started = ""
        """RFC 3339, when this command has started it."""
        self.api = Api(paths)

    def is_current(self, daemon: Daemon) -> bool:
        """True when it runs with exactly this configuration."""
        record = Record.read(self.paths.pids / f"{daemon.name}.json")
        return record is not None and record.identity.alive and record.digest == daemon.digest

    def ensure(self, *names: str) -> None:
        """Starts those daemons that do not run, or run with another configuration."""
        wanted = [name for name in names if not self.is_current(self.daemons[name])]
        if wanted:
            self._say(f"starting {', '.join(wanted)}")
        for name in wanted:
            self.stop(name)
            if name == "kubelet":
                self.kubelet_started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._start(self.daemons[name])

    def stop(self, name: str) -> None:
        file = self.paths.pids / f"{name}.json"
        record = Record.read(file)
        if record is not None and record.identity.alive:
            stop(record.identity, STOP_SECONDS)
        file.unlink(missing_ok=True)

    def _start(self, daemon: Daemon) -> None:
        # One that was started by a devcluster which was killed before it could note the pid.
        for pid, argv in processes():
            if argv == daemon.command:
                with contextlib.suppress(ProcessLookupError):
                    stop(Identity.of(pid), STOP_SECONDS)
        daemon.write_files()
        log = self.paths.log_of(daemon.name)
        self._log_starts[daemon.name] = log.stat().st_size if log.exists() else 0
        child = spawn(daemon.argv, log, {**os.environ, **daemon.env})
        try:
            identity = Identity.of(child.pid)
        except ProcessLookupError:
            raise self._died(daemon.name) from None
        Record(identity, daemon.digest).write(self.paths.pids / f"{daemon.name}.json")
        self.started[daemon.name] = (identity, time.monotonic())

    def _died(self, name: str) -> DevclusterError:
        log = self.paths.log_of(name)
        words = tail(log, since=self._log_starts.get(name, 0))
        return DevclusterError(f"{name} died during the start; the end of {log}:\n{words}")

    def check_started(self) -> None:
        """Raises DevclusterError with its last words when a daemon started by this command has died."""
        for name, (identity, _) in self.started.items():
            if not identity.alive:
                raise self._died(name)

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Waits for a condition while daemons live. Raises DevclusterError when one dies or time runs out."""
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not condition():
            self.check_started()
            if time.monotonic() > deadline:
                raise DevclusterError(
                    f"waited {READY_TIMEOUT_SECONDS:.0f} s for {what}; the daemons' logs are in {self.paths.log}"
                )
            time.sleep(POLL_SECONDS)

    def settle(self) -> None:
        """Waits until each daemon that this command started has lived SETTLE_SECONDS."""
        for name, (identity, since) in self.started.items():
            rest = since + SETTLE_SECONDS - time.monotonic()
            try:
                pidfd = os.pidfd_open(identity.pid)
            except ProcessLookupError:
                raise self._died(name) from None
            ended, _, _ = select.select([pidfd], [], [], max(rest, 0))
            os.close(pidfd)
            if ended:
                raise self._died(name)

    def containerd_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.paths.containerd_socket))
            except OSError:
                return False
        return True

    def containerd_serves(self) -> bool:
        """True when it serves the kubelet too: it listens before it has looked at all the containers that it finds."""
        if "containerd" not in self.started:
            return True
        log = self.paths.log_of("containerd").read_bytes()
        return b"Start streaming server" in log[self._log_starts["containerd"] :]

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            return self.api.get(path)
        except (OSError, ApiRefusedError):
            return None

    def node_ready(self, name: str = NODE) -> bool:
        node = self._get(f"/api/v1/nodes/{name}")
        conditions = (node or {}).get("status", {}).get("conditions", [])
        # What the kubelet wrote before it died is no news of the one that runs now.
        since = self.kubelet_started if name == NODE else ""
        return any(
            c["type"] == "Ready" and c["status"] == "True" and c.get("lastHeartbeatTime", "") >= since
            for c in conditions
        )

    def kubelet_answers(self) -> bool:
        try:
            return bool(self.api.request("GET", f"/api/v1/nodes/{NODE}/proxy/healthz") == "ok")
        except (OSError, ApiRefusedError):
            return False

    def fake_nodes(self) -> set[str]:
        found = self._get("/api/v1/nodes?labelSelector=type%3Dkwok") or {"items": []}
        return {item["metadata"]["name"] for item in found["items"]}

    def problems(self) -> list[str]:
        """What is not as it should be, in a person's words; empty when the cluster works."""
        found = [f"{name} does not run" for name in self.daemons if not self.is_current(self.daemons[name])]
        if not network.is_complete():
            found.append("the network namespace is not complete")
        if found:
            return found
        if not self.api.ready():
            return [f"the API server at {API_SERVER} is not ready"]
        if not self.node_ready():
            found.append(f"node {NODE} is not Ready")
        if not network.dns_answers():
            found.append("cluster DNS does not answer")
        if len(self.fake_nodes()) != self.settings.kwok_nodes:
            found.append(f"there are not {self.settings.kwok_nodes} fake nodes")
        return found


def up(paths: Paths, durable: bool, kwok_nodes: int | None, say: Say) -> None:
    """Brings the cluster up, or heals it, or finds that there is nothing to do.

    Raises DevclusterError for what the machine lacks (before any work) and for a daemon that dies.
    """
    begun = time.monotonic()
    host.require_root()
    with machine_lock(say):
        settings = Settings.read(paths.settings).merged(durable, kwok_nodes)
        if _is_up(paths, settings, say):
            say(f"the cluster is up already; kubeconfig: {paths.kubeconfig}")
            return
        _resolve_claim(paths, say)
        prepare(paths, modules_for(settings), say)
        images.ensure_system_images(say)
        prepared = time.monotonic()
        _clear_remains(paths, settings, say)
        cluster = _configure(paths, settings, say)
        _start(cluster)
        now = time.monotonic()
        say(f"the cluster is Ready in {now - prepared:.1f} s ({now - begun:.1f} s in all)")
        say(f"kubeconfig: {paths.kubeconfig}; logs: {paths.log}")


def modules_for(settings: Settings) -> tuple[gobuild.Module, ...]:
    return gobuild.ALL if settings.kwok_nodes > 0 else gobuild.NEEDED


def prepare(paths: Paths, modules: tuple[gobuild.Module, ...], say: Say) -> None:
    """Checks the machine, then installs packages and builds binaries that are missing."""
    to_build = any(not module.built for module in modules)
    if to_build:
        host.require_go()
        host.require_disk(cache_home(), host.DISK_TO_BUILD)
    host.require_disk(paths.state, host.DISK_TO_RUN)
    packages = host.missing_packages()
    if packages:
        host.install_packages(packages, say)
    gobuild.build_missing(modules, say)


def _is_up(paths: Paths, settings: Settings, say: Say) -> bool:
    owner = _claimed_by()
    if owner is None or owner.root != paths.root or settings != Settings.read(paths.settings):
        return False
    if not all(module.built for module in modules_for(settings)):
        return False
    try:
        return not Cluster(paths, settings, say).problems()
    except OSError:  # a configuration file or certificate is gone
        return False


def _clear_remains(paths: Paths, settings: Settings, say: Say) -> None:
    """Leaves a running cluster alone; removes what a dead or broken one has left."""
    if _alive(paths) and network.is_complete() and paths.pki.joinpath("complete").exists():
        return
    if paths.settings.exists():
        say("the cluster of this checkout no longer runs: clearing up what it left")
    cleanup.clean(paths)
    images.release_storage()
    keep = [paths.log.with_name("log.previous")]
    if settings.durable:
        keep += [paths.etcd, paths.pki, paths.containerd, paths.loaded_images]
    if paths.log.is_dir():
        shutil.rmtree(keep[0], ignore_errors=True)
        paths.log.rename(keep[0])
    cleanup.remove_state(paths, keep)


def _configure(paths: Paths, settings: Settings, say: Say) -> Cluster:
    if not network.is_complete():
        network.create()
    _claim(paths)
    certs.ensure(paths)
    settings.write(paths.settings)
    cleanup.create_cgroups()
    paths.bin.mkdir(exist_ok=True)
    for module in gobuild.ALL:
        for name in module.packages:
            link = paths.bin / name
            link.unlink(missing_ok=True)
            if module.built:
                link.symlink_to(module.folder / name)
    return Cluster(paths, settings, say)


def _start(cluster: Cluster) -> None:
    cluster.ensure("etcd", "containerd", "kube-apiserver")
    with ThreadPoolExecutor(1) as pool:
        imported: Future[None] = pool.submit(_import_images, cluster)
        cluster.wait("the API server", cluster.api.ready)
        # A kubelet that finds it not ready gives up.
        cluster.wait("containerd to serve", cluster.containerd_serves)
        # The sandbox image must be there before the first pod, which waits for the scheduler at least.
        cluster.ensure("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
        for path, manifest in manifests.dns():
            cluster.api.apply(path, manifest)
        imported.result()
    cluster.wait(f"node {NODE} to be Ready", cluster.node_ready)
    cluster.wait("the kubelet", cluster.kubelet_answers)
    _arrange_fake_nodes(cluster)
    cluster.wait(
        "the default ServiceAccount",
        lambda: cluster.api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None,
    )
    cluster.wait("cluster DNS", network.dns_answers)
    cluster.settle()


def _import_images(cluster: Cluster) -> None:
    cluster.wait("containerd", cluster.containerd_listens)
    images.import_system_images(cluster.paths)


def _arrange_fake_nodes(cluster: Cluster) -> None:
    wanted = dict(manifests.fake_node(number) for number in range(cluster.settings.kwok_nodes))
    names = {manifest["metadata"]["name"] for manifest in wanted.values()}
    for name in cluster.fake_nodes() - names:
        cluster.api.delete(f"/api/v1/nodes/{name}")
    if not wanted:
        for name in ("fakeworker", "kwok"):
            cluster.stop(name)
        return
    cluster.ensure("kwok", "fakeworker")
    for path, manifest in wanted.items():
        cluster.api.apply(path, manifest)
    for name in sorted(names):
        cluster.wait(f"fake node {name}", lambda name=name: cluster.node_ready(name))  # type: ignore[misc]


def down(paths: Paths, say: Say) -> None:
    """Ends the cluster: no process, mount, namespace, interface or cgroup of it is left; its logs stay."""
    host.require_root()
    with machine_lock(say):
        _resolve_claim(paths, say)
        cleanup.clean(paths)
        images.release_storage()
        cleanup.remove_state(paths, [paths.log, paths.log.with_name("log.previous")])
    say("the cluster is down")


def status(paths: Paths, say: Say) -> bool:
    """Says what runs; True when everything does."""
    host.require_root()
    settings = Settings.read(paths.settings)
    owner = _claimed_by()
    if owner is None or owner.root != paths.root or not paths.settings.exists():
        say(f"no cluster of this checkout runs{f' (one of {owner.root} does)' if owner else ''}")
        return False
    try:
        cluster = Cluster(paths, settings, say)
    except OSError as error:
        say(f"the cluster is broken ({error}); `python -m devcluster up` heals it")
        return False
    for name, daemon in cluster.daemons.items():
        record = Record.read(paths.pids / f"{name}.json")
        pid = f"pid {record.identity.pid}" if record and record.identity.alive else "does not run"
        say(f"{name:24} {pid:14} {paths.log_of(daemon.name)}")
    problems = cluster.problems()
    for problem in problems:
        say(f"problem: {problem}")
    say(f"{'not ready; `python -m devcluster up` heals it' if problems else 'Ready'}; kubeconfig: {paths.kubeconfig}")
    return not problems
