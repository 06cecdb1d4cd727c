"""The daemons: what each is started with, and the files that they read. Nothing here starts anything."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from devcluster.gobuild import binary
from devcluster.paths import (
    API_PORT,
    CGROUP,
    CLUSTER_ADDRESS,
    DNS_ADDRESS,
    NETNS_FILE,
    NODE,
    PAUSE_IMAGE,
    POD_CIDR,
    RUN_DIR,
    SERVICE_CIDR,
    SOURCE,
    Paths,
    digest_of,
)

ETCD_URL, ETCD_PEER_URL = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
CNI_NETWORK = "questline"


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for; kept, so that a later `up` without options changes nothing."""

    durable: bool = False
    """etcd flushes every write to the disk."""
    kwok_nodes: int = 0

    def merged(self, durable: bool, kwok_nodes: int | None) -> Settings:
        """These settings with what another `up` asks for on top."""
        return Settings(self.durable or durable, self.kwok_nodes if kwok_nodes is None else kwok_nodes)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Settings:
        """The defaults when nothing readable is there."""
        try:
            data = json.loads(path.read_text())
            return cls(bool(data["durable"]), int(data["kwok_nodes"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls()


@dataclass(frozen=True)
class Daemon:
    """One long-running program of the cluster."""

    name: str
    command: list[str]
    files: dict[Path, str] = field(default_factory=dict)
    """Configuration that it reads, path -> content: part of its digest, written before it starts."""
    env: dict[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        # nsenter, not `ip netns exec`: that replaces /sys, which hides the cgroups.
        return ["nsenter", f"--net={NETNS_FILE}", "--", *self.command]

    @property
    def digest(self) -> str:
        """What it is started with; another digest means that it must be started again."""
        files = sorted((str(path), content) for path, content in self.files.items())
        return digest_of(repr((self.command, sorted(self.env.items()), files)).encode())

    def write_files(self) -> None:
        """Writes those of its files that differ from what is there."""
        for path, content in self.files.items():
            if not path.exists() or path.read_text() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)


def etcd(paths: Paths, settings: Settings) -> Daemon:
    command = [
        str(binary("etcd")),
        "--name=questline",
        f"--data-dir={paths.etcd}",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        f"--listen-peer-urls={ETCD_PEER_URL}",
        f"--initial-advertise-peer-urls={ETCD_PEER_URL}",
        f"--initial-cluster=questline={ETCD_PEER_URL}",
        "--quota-backend-bytes=8589934592",
        "--auto-compaction-retention=10m",
        "--log-level=warn",
    ]
    if not settings.durable:
        command.append("--unsafe-no-fsync")
    return Daemon("etcd", command)


def containerd(paths: Paths) -> Daemon:
    config, network = paths.config / "containerd.toml", paths.config / "cni" / "10-questline.conflist"
    return Daemon(
        "containerd",
        ["containerd", f"--config={config}"],
        {config: containerd_config(paths), network: cni_config(paths)},
    )


def kube_apiserver(paths: Paths) -> Daemon:
    pki = paths.pki
    return Daemon(
        "kube-apiserver",
        [
            str(binary("kube-apiserver")),
            f"--advertise-address={CLUSTER_ADDRESS}",
            f"--bind-address={CLUSTER_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--etcd-servers={ETCD_URL}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--cert-dir={paths.config / 'apiserver'}",
            "--profiling=false",
        ],
    )


def kube_controller_manager(paths: Paths) -> Daemon:
    kubeconfig = str(paths.kubeconfig_of("kube-controller-manager"))
    return Daemon(
        "kube-controller-manager",
        [
            str(binary("kube-controller-manager")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={paths.pki / 'service-account.key'}",
            f"--root-ca-file={paths.pki / 'ca.crt'}",
            f"--cert-dir={paths.config / 'controller-manager'}",
            # Defaults (20 and 30 a second) would be what a benchmark measures.
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            "--profiling=false",
        ],
    )


def kube_scheduler(paths: Paths) -> Daemon:
    kubeconfig = str(paths.kubeconfig_of("kube-scheduler"))
    return Daemon(
        "kube-scheduler",
        [
            str(binary("kube-scheduler")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            f"--cert-dir={paths.config / 'scheduler'}",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            "--profiling=false",
        ],
    )


def kubelet(paths: Paths) -> Daemon:
    return Daemon(
        "kubelet",
        [
            str(binary("kubelet")),
            f"--config={paths.config / 'kubelet.json'}",
            f"--kubeconfig={paths.kubeconfig_of('kubelet')}",
            f"--root-dir={paths.kubelet}",
            f"--cert-dir={paths.config / 'kubelet-pki'}",
            f"--node-ip={CLUSTER_ADDRESS}",
            f"--hostname-override={NODE}",
        ],
        {paths.config / "kubelet.json": kubelet_config(paths)},
    )


def kube_proxy(paths: Paths) -> Daemon:
    return Daemon(
        "kube-proxy",
        [
            str(binary("kube-proxy")),
            f"--kubeconfig={paths.kubeconfig_of('kube-proxy')}",
            f"--hostname-override={NODE}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_CIDR}",
            # The machine's conntrack table is not ours to resize.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--iptables-min-sync-period=0s",
        ],
    )


def kwok(paths: Paths) -> Daemon:
    stages = [binary("node-initialize.yaml"), binary("node-heartbeat.yaml"), SOURCE / "manifests" / "kwok-stages.yaml"]
    command = [str(binary("kwok")), f"--kubeconfig={paths.kubeconfig_of('kwok')}"]
    command += [f"--config={stage}" for stage in stages]
    command += [
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40",
    ]
    return Daemon("kwok", command, {stage: stage.read_text() for stage in stages}, env={"HOME": str(paths.config)})


def fakeworker(paths: Paths) -> Daemon:
    """The stand-in for the SDK on fake nodes: Python, from this checkout."""
    source = SOURCE / "fakeworker.py"
    return Daemon(
        "fakeworker",
        [sys.executable, "-m", "devcluster", "fakeworker", f"--kubeconfig={paths.kubeconfig}"],
        {source: source.read_text()},
        env={"PYTHONPATH": str(SOURCE.parent)},
    )


def containerd_config(paths: Paths) -> str:
    """containerd 1.6's configuration, TOML."""
    return f"""\
version = 2
root = {json.dumps(str(paths.containerd))}
state = {json.dumps(str(paths.containerd_state))}
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = {json.dumps(str(paths.containerd_socket))}

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = {json.dumps(str(paths.config / "cni"))}

[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = {json.dumps(str(RUN_DIR / "runc"))}
"""


def cni_config(paths: Paths) -> str:
    """The pods' network: a bridge inside the cluster's namespace, with nothing behind it."""
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": CNI_NETWORK,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": POD_CIDR}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(paths.cni_addresses),
                    },
                }
            ],
        },
        indent=1,
    )


def kubelet_config(paths: Paths) -> str:
    """KubeletConfiguration, as JSON."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
            "podLogsDir": str(paths.pod_logs),
            "authentication": {"x509": {"clientCAFile": str(paths.pki / "ca.crt")}},
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            # A cgroup of our own makes every process of a container findable, whatever its shim does.
            "cgroupRoot": f"/{CGROUP}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "featureGates": {"KubeletInUserNamespace": True},
            "localStorageCapacityIsolation": False,
            "enforceNodeAllocatable": [],
            "evictionHard": {},
            # Images come by `load` alone: one that the kubelet throws away cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            # Otherwise a container that was killed ten times waits for minutes.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            "kubeAPIQPS": 500,
            "kubeAPIBurst": 1000,
            "eventRecordQPS": 0,
            "maxPods": 250,
            "healthzBindAddress": "127.0.0.1",
            "enableServer": True,
            "port": 10250,
        },
        indent=1,
    )


def all_daemons(paths: Paths, settings: Settings) -> dict[str, Daemon]:
    """Every daemon that these settings want, in order of start."""
    wanted = [
        etcd(paths, settings),
        containerd(paths),
        kube_apiserver(paths),
        kube_controller_manager(paths),
        kube_scheduler(paths),
        kubelet(paths),
        kube_proxy(paths),
    ]
    if settings.kwok_nodes > 0:
        wanted += [kwok(paths), fakeworker(paths)]
    return {daemon.name: daemon for daemon in wanted}
