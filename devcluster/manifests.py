"""Objects that `up` itself puts into the cluster: DNS and fake nodes."""

from __future__ import annotations

from typing import Any

from devcluster.paths import COREDNS_IMAGE, DNS_ADDRESS

FAKE_NODE_PREFIX = "fake-"
COREFILE = """\
.:53 {
    errors
    health :8080
    ready :8181
    kubernetes cluster.local in-addr.arpa
    cache 5
}
"""
_CORE, _APPS, _RBAC = "/api/v1", "/apis/apps/v1", "/apis/rbac.authorization.k8s.io/v1"
_SYSTEM = "namespaces/kube-system"
_LABELS = {"k8s-app": "kube-dns"}

Object = tuple[str, dict[str, Any]]
"""An object's path at the API server and its manifest."""


def _object(base: str, path: str, kind: str, name: str, **content: Any) -> Object:
    version = base.removeprefix("/apis/").removeprefix("/api/")
    labels = content.pop("labels", {})
    manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **content}
    return f"{base}/{path}/{name}", manifest


def dns() -> list[Object]:
    """CoreDNS, in order of creation."""
    read = {"verbs": ["list", "watch"]}
    return [
        _object(_CORE, f"{_SYSTEM}/serviceaccounts", "ServiceAccount", "coredns"),
        _object(
            _RBAC,
            "clusterroles",
            "ClusterRole",
            "system:coredns",
            rules=[
                {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], **read},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **read},
            ],
        ),
        _object(
            _RBAC,
            "clusterrolebindings",
            "ClusterRoleBinding",
            "system:coredns",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            subjects=[{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        ),
        _object(_CORE, f"{_SYSTEM}/configmaps", "ConfigMap", "coredns", data={"Corefile": COREFILE}),
        _object(_APPS, f"{_SYSTEM}/deployments", "Deployment", "coredns", labels=_LABELS, spec=_deployment()),
        _object(
            _CORE,
            f"{_SYSTEM}/services",
            "Service",
            "kube-dns",
            labels={**_LABELS, "kubernetes.io/cluster-service": "true"},
            spec={
                "selector": _LABELS,
                "clusterIP": DNS_ADDRESS,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                ],
            },
        ),
    ]


def _deployment() -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        },
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "failureThreshold": 5},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    return {
        "replicas": 1,
        "selector": {"matchLabels": _LABELS},
        "template": {
            "metadata": {"labels": _LABELS},
            "spec": {
                "serviceAccountName": "coredns",
                "priorityClassName": "system-cluster-critical",
                "dnsPolicy": "Default",
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
            },
        },
    }


def fake_node(number: int) -> Object:
    """One of kwok's nodes; only pods that tolerate its taint come to it."""
    name = f"{FAKE_NODE_PREFIX}{number}"
    path, manifest = _object(
        _CORE,
        "nodes",
        "Node",
        name,
        labels={
            "type": "kwok",
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        },
        spec={"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
    )
    manifest["metadata"]["annotations"] = {
        "kwok.x-k8s.io/node": "fake",
        "node.alpha.kubernetes.io/ttl": "0",
    }
    return path, manifest
