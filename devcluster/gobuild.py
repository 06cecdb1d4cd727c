"""The Go binaries: built from pinned modules, kept in a cache folder keyed by go.mod and go.sum."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.paths import KUBERNETES_VERSION, SOURCE, DevclusterError, cache_home, digest_of

Say = Callable[[str], None]

_KUBE = "k8s.io/kubernetes/cmd/"
_KUBE_VERSION = "k8s.io/component-base/version"
_, _MINOR, _ = KUBERNETES_VERSION.split(".")


@dataclass(frozen=True)
class Module:
    """One Go module below devcluster/go and what is built from it."""

    name: str
    packages: dict[str, str]
    """Binary's name -> package path."""
    ldflags: tuple[str, ...] = ()
    extras: dict[str, str] = field(default_factory=dict)
    """Files of a required module that are kept beside the binaries: name -> `module:path in it`."""

    @property
    def source(self) -> Path:
        return SOURCE / "go" / self.name

    @property
    def digest(self) -> str:
        """Changes with go.mod, go.sum, own Go files, packages and flags, and with nothing else."""
        files = sorted(path for path in self.source.iterdir() if path.suffix in {".mod", ".sum", ".go"})
        return digest_of(
            *(part for path in files for part in (path.name.encode(), path.read_bytes())),
            repr((sorted(self.packages.items()), self.ldflags, sorted(self.extras.items()))).encode(),
        )

    @property
    def folder(self) -> Path:
        return cache_home() / "go" / f"{self.name}-{self.digest}"

    @property
    def built(self) -> bool:
        return all((self.folder / name).is_file() for name in (*self.packages, *self.extras))


KUBERNETES = Module(
    "kubernetes",
    {
        name: _KUBE + name
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        )
    },
    (
        f"-X {_KUBE_VERSION}.gitVersion={KUBERNETES_VERSION}",
        f"-X {_KUBE_VERSION}.gitMajor=1",
        f"-X {_KUBE_VERSION}.gitMinor={_MINOR}",
        f"-X {_KUBE_VERSION}.gitTreeState=clean",
    ),
)
ETCD = Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"})
COREDNS = Module("coredns", {"coredns": "github.com/coredns/coredns"})
HELM = Module("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}, ("-X helm.sh/helm/v4/internal/version.version=v4.3.1",))
_KWOK_STAGES = "sigs.k8s.io/kwok:kustomize/stage/node"
KWOK = Module(
    "kwok",
    {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
    extras={
        "node-initialize.yaml": f"{_KWOK_STAGES}/fast/node-initialize.yaml",
        "node-heartbeat.yaml": f"{_KWOK_STAGES}/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    },
)
PAUSE = Module("pause", {"pause": "questline.dev/devcluster/pause"})

NEEDED = (ETCD, KUBERNETES, PAUSE, COREDNS, HELM)
"""What every cluster needs; kwok is built when fake nodes are asked for."""
ALL = (*NEEDED, KWOK)


def binary(name: str) -> Path:
    """Path of a built binary or extra file. Raises KeyError for a name that no module has."""
    for module in ALL:
        if name in module.packages or name in module.extras:
            return module.folder / name
    raise KeyError(name)


def build_missing(modules: tuple[Module, ...], say: Say) -> None:
    """Builds those modules whose binaries are not in the cache. Raises DevclusterError with Go's own words."""
    missing = [module for module in modules if not module.built]
    for number, module in enumerate(missing, 1):
        _build(module, f"[{number}/{len(missing)}] {module.name}", say)


def _go(arguments: list[str], module: Module, env: dict[str, str]) -> str:
    done = subprocess.run(["go", *arguments], check=False, capture_output=True, text=True, cwd=module.source, env=env)
    if done.returncode != 0:
        words = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise DevclusterError(f"go {arguments[0]} failed for {module.name}: {words}")
    return done.stdout


def _build(module: Module, title: str, say: Say) -> None:
    started = time.monotonic()
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    module.folder.parent.mkdir(parents=True, exist_ok=True)
    for torn in module.folder.parent.glob(f".{module.name}-*"):
        shutil.rmtree(torn, ignore_errors=True)
    say(f"{title}: fetching modules")
    packages = sorted(set(module.packages.values()))
    total = len(_go(["list", "-deps", *packages], module, env).split())
    say(f"{title}: compiling {', '.join(module.packages)} ({total} packages)")
    with tempfile.TemporaryDirectory(dir=module.folder.parent, prefix=f".{module.name}-") as folder:
        command = ["go", "build", "-v", "-trimpath", "-buildvcs=false"]
        command += ["-ldflags", " ".join(("-s", "-w", *module.ldflags)), "-o", f"{folder}/", *packages]
        _compile(command, module, env, Progress(title, total, started, say))
        _name_binaries(module, Path(folder))
        for name, source in module.extras.items():
            where, _, inside = source.partition(":")
            base = _go(["list", "-m", "-f", "{{.Dir}}", where], module, env).strip()
            shutil.copyfile(Path(base) / inside, Path(folder) / name)
        Path(folder).chmod(0o755)
        # Renaming is what makes a build count: one that was killed midway leaves no half of a folder.
        shutil.rmtree(module.folder, ignore_errors=True)
        Path(folder).rename(module.folder)
    say(f"{title}: built in {elapsed(started)}")


def _name_binaries(module: Module, folder: Path) -> None:
    # `go build -o FOLDER/` names a binary by the last element of its path, which for etcd is "server".
    for name, package in module.packages.items():
        if not (folder / name).exists():
            parts = [part for part in package.split("/") if not part.startswith("v")]
            (folder / parts[-1]).rename(folder / name)


def _compile(command: list[str], module: Module, env: dict[str, str], progress: Progress) -> None:
    words: list[str] = []
    with subprocess.Popen(command, cwd=module.source, env=env, stderr=subprocess.PIPE, text=True) as build:
        if build.stderr is None:
            raise AssertionError("stderr is a pipe")
        for line in build.stderr:
            if line.startswith(("#", "go: ", "\t")) or ": " in line:
                words.append(line.strip())
            else:
                progress.package(line.strip())
    if build.returncode != 0:
        raise DevclusterError(f"go build failed for {module.name}: {' / '.join(words[-5:])}")


def elapsed(since: float) -> str:
    """Minutes and seconds since a moment of time.monotonic()."""
    seconds = int(time.monotonic() - since)
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"


class Progress:
    """Shows how far a compilation is: in place on a terminal, a line every 15 s elsewhere."""

    LINE_EVERY_SECONDS = 15.0

    def __init__(self, title: str, total: int, started: float, say: Say) -> None:
        self._title, self._total, self._started, self._say = title, total, started, say
        self._count = 0
        self._last = time.monotonic()

    def package(self, name: str) -> None:
        """Counts one package that Go began to compile (those of its own cache are not named)."""
        self._count += 1
        pause = 0.2 if sys.stderr.isatty() else self.LINE_EVERY_SECONDS
        if time.monotonic() - self._last >= pause:
            self._last = time.monotonic()
            text = f"{self._title}: {self._count}/{self._total} packages, {elapsed(self._started)}: {name}"
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{text[:110]}\r")
                sys.stderr.flush()
            else:
                self._say(text)
