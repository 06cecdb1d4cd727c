"""What must be there before the demo's first Job: the volume, the mail server, the Queues and the Worker."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

from examples.demo.cluster import CHECKOUT, Cluster, DemoError

MEDIA = CHECKOUT / "examples" / "media"
IMAGE = "questline.dev/example-media:dev"
CLAIM = "questline-demo"
MAILBOX = "deployment/mailbox"
RUN_AS = 65532  # the UID and GID of the worker image's user


def prepare(cluster: Cluster, image: str, storage_class: str | None) -> None:
    """Brings the namespace to where the demo can start; what is there already stays as it is.

    Raises DemoError when Questline is not installed there or the cluster has no storage for the files.
    """
    check_installed(cluster)
    storage = volume(cluster, storage_class)
    cluster.apply(storage)
    if storage[0]["kind"] == "PersistentVolume":
        # A pod that is scheduled before its claim is bound waits for the scheduler's next round, 5 s later.
        cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{CLAIM}", "--timeout=60s")
    cluster.apply(setup(image))
    cluster.kubectl("rollout", "status", MAILBOX, "--timeout=180s")


def check_installed(cluster: Cluster) -> None:
    """Raises DemoError when the cluster has no Questline, or the namespace no ServiceAccount for tasks."""
    cluster.get("/version")  # a cluster that does not answer says so in its own words
    if not cluster.exists("customresourcedefinition/questjobs.questline.dev"):
        raise DemoError("Questline is not installed on this cluster: `make install` installs it")
    if not cluster.exists("serviceaccount/questline-worker"):
        raise DemoError(
            f"namespace {cluster.namespace} has no ServiceAccount questline-worker:"
            " name the namespace in the chart's value defaultWorker.namespaces"
        )


def setup(image: str) -> list[dict[str, Any]]:
    """setup.yaml with the image of choice. Another source or image starts the mail server anew."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(Path(__file__).with_name("setup.yaml").read_text()))
    source = hashlib.sha256((MEDIA / "mailbox.py").read_bytes()).hexdigest()[:16]
    for document in documents:
        if document["kind"] == "Worker":
            document["spec"]["image"] = image
        elif document["kind"] == "Deployment":
            template = document["spec"]["template"]
            template["metadata"]["annotations"] = {"questline.dev/example-source": source}
            template["spec"]["containers"][0]["image"] = image
    return documents


def volume(cluster: Cluster, storage_class: str | None) -> list[dict[str, Any]]:
    """A claim of the given or the default StorageClass; on the local cluster, which has none, a folder."""
    if storage_class is None and not has_default_storage_class(cluster):
        if cluster.is_local:
            return local_volume(cluster)
        raise DemoError("the cluster has no default StorageClass: name one with --storage-class")
    claim = claim_of(cluster.namespace)
    if storage_class is not None:
        claim["spec"]["storageClassName"] = storage_class
    return [claim]


def claim_of(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    }


def has_default_storage_class(cluster: Cluster) -> bool:
    marked = "storageclass.kubernetes.io/is-default-class"
    classes = cluster.get("/apis/storage.k8s.io/v1/storageclasses")["items"]
    return any((each["metadata"].get("annotations") or {}).get(marked) == "true" for each in classes)


def local_volume(cluster: Cluster) -> list[dict[str, Any]]:
    """A `local` PersistentVolume in .cluster/volumes on the cluster's real node, and the claim bound to it."""
    nodes = [
        node["metadata"]["name"]
        for node in cluster.get("/api/v1/nodes")["items"]
        if (node["metadata"].get("labels") or {}).get("type") != "kwok"
    ]
    if not nodes:
        raise DemoError("the local cluster has no real node: `make cluster` heals it")
    name = f"{CLAIM}-{cluster.namespace}"
    forget_released(cluster, name)
    folder = cluster.kubeconfig.parent / "volumes" / name
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, RUN_AS, RUN_AS)
    claim = claim_of(cluster.namespace)
    claim["spec"] |= {"storageClassName": "", "volumeName": name}
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": nodes[:1]}
    persistent = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "64Mi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "name": CLAIM,
                "namespace": cluster.namespace,
            },
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }
    return [persistent, claim]


def forget_released(cluster: Cluster, name: str) -> None:
    """Deletes the PersistentVolume of a claim that was deleted: it would never be bound again."""
    found = cluster.get("/api/v1/persistentvolumes")["items"]
    for each in found:
        if each["metadata"]["name"] == name and each.get("status", {}).get("phase") in {"Released", "Failed"}:
            cluster.kubectl("delete", "persistentvolume", name, "--wait=true")
