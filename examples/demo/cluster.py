"""The cluster as the demo sees it: kubectl, and watches that miss no event."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
LOCAL_KUBECONFIG = CHECKOUT / ".cluster" / "kubeconfig"

JOBS = "/apis/questline.dev/v1alpha1/namespaces/{namespace}/questjobs"
PODS = "/api/v1/namespaces/{namespace}/pods"


class DemoError(Exception):
    """The demo cannot go on. Its message says what is wrong and what to do; no traceback is shown."""


@dataclass(frozen=True)
class Event:
    """One event of a watch, or one object of the list that a watch began with (as ADDED)."""

    type: str  # ADDED, MODIFIED or DELETED
    object: dict[str, Any]

    @property
    def version(self) -> int:
        """The object's resourceVersion: the order of all writes, Jobs' and pods', where one etcd holds both."""
        return int(self.object["metadata"]["resourceVersion"])

    @property
    def is_job(self) -> bool:
        return "containers" not in self.object["spec"]


@dataclass(frozen=True)
class WatchLost:
    """A watch could not be resumed where it broke off: events are missing, the rest proves nothing."""

    message: str


class Cluster:
    """One namespace of one cluster, through kubectl. Methods raise DemoError with kubectl's own words."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._kubectl = find_kubectl()

    @property
    def is_local(self) -> bool:
        """Whether it is the one that this checkout's devcluster started."""
        return LOCAL_KUBECONFIG.exists() and self.kubeconfig.samefile(LOCAL_KUBECONFIG)

    def kubectl(self, *args: str, stdin: bytes | None = None) -> bytes:
        """Runs kubectl in the namespace; its stdout."""
        done = subprocess.run(self._command(*args), input=stdin, capture_output=True, check=False)
        if done.returncode:
            raise DemoError(f"kubectl {' '.join(args[:4])}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def apply(self, documents: Iterable[dict[str, Any]]) -> None:
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents).encode())

    def get(self, path: str) -> dict[str, Any]:
        """GET of an API path, in which {namespace} stands for the namespace."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "--raw", path.format(namespace=self.namespace)))
        return found

    def exists(self, *what: str) -> bool:
        return bool(self.kubectl("get", *what, "--ignore-not-found", "--output=name").strip())

    def put_file(self, pod: str, path: str, content: bytes) -> None:
        """Writes a file in a pod, whole or not at all."""
        script = 'mkdir -p "$(dirname "$0")" && cat > "$0.part" && mv "$0.part" "$0"'
        self.kubectl("exec", "--stdin", pod, "--", "sh", "-c", script, path, stdin=content)

    def read_file(self, pod: str, path: str) -> bytes:
        return self.kubectl("exec", pod, "--", "cat", path)

    def watch(self, path: str, sink: Callable[[Event | WatchLost], None]) -> Watch:
        """Lists path, hands each object to sink, and from then on every event, in a thread of its own."""
        listed = self.get(path)
        for item in listed["items"]:
            sink(Event("ADDED", item))
        raw = path.format(namespace=self.namespace)
        return Watch(lambda version: self.open_watch(raw, version), listed["metadata"]["resourceVersion"], sink)

    def open_watch(self, path: str, version: str) -> subprocess.Popen[bytes]:
        """kubectl that writes each event of path after that version as one line of JSON."""
        url = f"{path}?watch=true&resourceVersion={version}"
        return subprocess.Popen(self._command("get", "--raw", url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _command(self, *args: str) -> list[str]:
        return [self._kubectl, f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *args]


class Watch:
    """A watch that is resumed at the last version seen whenever the server ends it, until `stop`."""

    def __init__(
        self,
        open_at: Callable[[str], subprocess.Popen[bytes]],
        version: str,
        sink: Callable[[Event | WatchLost], None],
    ) -> None:
        self._open_at = open_at
        self._version = version
        self._sink = sink
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # between stop and the opening of the next process
        self._process = open_at(version)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the kubectl that watches now."""
        return self._process.pid

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            self._process.terminate()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while True:
            seen = self._version
            with self._process as process:
                assert process.stdout is not None
                assert process.stderr is not None
                if not self._take_all(process.stdout):
                    process.terminate()
                    return
                said = process.stderr.read().decode(errors="replace").strip()
            failures = failures + 1 if process.returncode and self._version == seen else 0
            if failures == 5:  # the API server may be restarting: that is seconds, not for ever
                self._sink(WatchLost(said))
                return
            self._stopping.wait(failures)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._open_at(self._version)

    def _take_all(self, lines: Iterable[bytes]) -> bool:
        """Takes a process's events to its end. False when the watch cannot be resumed after it."""
        for line in lines:
            try:
                raw = json.loads(line)
            except ValueError:  # kubectl ended in the middle of an event: the next process begins with it
                return True
            if not self._take(raw):
                return False
        return True

    def _take(self, raw: dict[str, Any]) -> bool:
        if raw["type"] == "ERROR":
            self._sink(WatchLost(str(raw["object"].get("message", raw["object"]))))
            return False
        self._version = raw["object"]["metadata"]["resourceVersion"]
        self._sink(Event(raw["type"], raw["object"]))
        return True


def find_kubectl() -> str:
    """devcluster's own kubectl, else the one on PATH. Raises DemoError when there is none."""
    own = CHECKOUT / ".cluster" / "bin" / "kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    if not found:
        raise DemoError("kubectl not found: install it, or start the local cluster with `make cluster`")
    return found


def find_kubeconfig() -> Path:
    """CLUSTER_KUBECONFIG, else KUBECONFIG, else the local cluster's. Raises DemoError when there is none of them."""
    for variable in ("CLUSTER_KUBECONFIG", "KUBECONFIG"):
        given = os.environ.get(variable)
        if given and not Path(given).exists():
            raise DemoError(f"{variable}={given}: no such file; it must name one kubeconfig")
        if given:
            return Path(given).resolve()
    if not LOCAL_KUBECONFIG.exists():
        raise DemoError("no cluster: start one with `make cluster`, or name a kubeconfig in CLUSTER_KUBECONFIG")
    return LOCAL_KUBECONFIG
