"""Images without a registry: the base, our own small ones, builds by buildah, the way into containerd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from devcluster.gobuild import COREDNS, PAUSE, Module, binary
from devcluster.mounts import mounts_below
from devcluster.paths import (
    BASE_IMAGE,
    COREDNS_IMAGE,
    PAUSE_IMAGE,
    DevclusterError,
    Paths,
    cache_home,
    digest_of,
)

Say = Callable[[str], None]

SUITE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip-whl")
BASE_VERSION = "1"
"""Raised by hand when the making of the base image changes."""
LOCAL_BASE = f"localhost/{BASE_IMAGE}"
"""Under this name the short name in a FROM line is found on this machine, before anybody is asked."""
DIGEST_LABEL = "dev.questline.devcluster.digest"
STORAGE = Path("/var/lib/containers/storage")

SYSTEM_IMAGES: dict[str, tuple[Module, str]] = {
    PAUSE_IMAGE: (PAUSE, "pause"),
    COREDNS_IMAGE: (COREDNS, "coredns"),
}
"""Images that hold one static binary: name -> (its module, the binary)."""


def _run(command: list[str], what: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise DevclusterError(f"{what} failed: {' / '.join(words) or done.returncode}")
    return done.stdout


def _buildah(*arguments: str) -> str:
    return _run(["buildah", "--storage-driver", "overlay", *arguments], f"buildah {arguments[0]}")


def image_id(name: str) -> str | None:
    """The id of an image in buildah's storage, None when it has no image of that name."""
    try:
        return _buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", name).strip()
    except DevclusterError:
        return None


def _label(name: str) -> str:
    try:
        return _buildah(
            "inspect", "--type", "image", "--format", f'{{{{index .OCIv1.Config.Labels "{DIGEST_LABEL}"}}}}', name
        ).strip()
    except DevclusterError:
        return ""


def base_archive() -> Path:
    """Where the base image is kept once it is made, as a docker-archive."""
    return cache_home() / "images" / f"base-{digest_of(BASE_VERSION.encode(), repr(BASE_PACKAGES).encode())}.tar"


def system_archive(name: str) -> Path:
    module, program = SYSTEM_IMAGES[name]
    return cache_home() / "images" / f"{program}-{module.digest}.tar"


def ensure_system_images(say: Say) -> None:
    """Makes the archives of pause and CoreDNS, from binaries that are built."""
    for name, (_, program) in SYSTEM_IMAGES.items():
        archive = system_archive(name)
        if archive.is_file():
            continue
        say(f"making image {name}")
        archive.parent.mkdir(parents=True, exist_ok=True)
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("copy", "--quiet", container, str(binary(program)), f"/{program}")
            _buildah("config", "--entrypoint", json.dumps([f"/{program}"]), container)
            _commit_to_archive(container, name, archive)
        finally:
            _buildah("rm", container)


def _commit_to_archive(container: str, name: str, archive: Path) -> None:
    _buildah("commit", "--quiet", container, name)
    _to_archive(name, archive)


def _to_archive(name: str, archive: Path) -> None:
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        _buildah("push", "--quiet", name, f"docker-archive:{temporary}:{name}")
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)


def mirror(targets: str) -> str:
    """The Debian mirror that this machine's apt uses, from lines of `URI release component`.

    Raises DevclusterError when apt knows none for bookworm.
    """
    for line in targets.splitlines():
        uri, release, component = line.split()
        if release in {SUITE, "stable"} and component == "main" and uri.rstrip("/").endswith("debian"):
            return uri
    raise DevclusterError(
        f"apt on this machine knows no Debian mirror for {SUITE}/main; add one to its sources to build the base image"
    )


def _apt_environment() -> dict[str, str]:
    """This environment with apt's own proxy, which debootstrap does not know."""
    env = dict(os.environ)
    dump = _run(["apt-config", "dump", "--format", "%f=%v%n", "Acquire::http::Proxy"], "apt-config")
    for line in dump.splitlines():
        key, _, value = line.partition("=")
        if key == "Acquire::http::Proxy" and value:
            env["http_proxy"] = value
    return env


def ensure_base(say: Say) -> None:
    """Has the image that Dockerfiles start from in buildah's storage, made or from the cache."""
    archive = base_archive()
    digest = archive.stem.removeprefix("base-")
    if _label(LOCAL_BASE) == digest:
        return
    if not archive.is_file():
        _make_base(archive, digest, say)
    _buildah("pull", "--quiet", f"docker-archive:{archive}")


def _make_base(archive: Path, digest: str, say: Say) -> None:
    say(f"making the base image {BASE_IMAGE} with debootstrap (about a minute)")
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        "apt-get indextargets",
    )
    archive.parent.mkdir(parents=True, exist_ok=True)
    for torn in archive.parent.glob(".base-root-*"):
        if not mounts_below([torn]):
            shutil.rmtree(torn)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".base-root-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        include = f"--include={','.join(BASE_PACKAGES)}"
        _run(
            ["debootstrap", "--variant=minbase", include, SUITE, folder, mirror(listed)],
            "debootstrap",
            _apt_environment(),
        )
        _finish_python(root)
        _trim(root)
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", "--quiet", container, folder, "/")
            _buildah(
                *("config", "--env", "LANG=C.UTF-8", "--label", f"{DIGEST_LABEL}={digest}"),
                *("--cmd", "python3", container),
            )
            _commit_to_archive(container, LOCAL_BASE, archive)
        finally:
            _buildah("rm", container)


def _finish_python(root: Path) -> None:
    """Python where the image of that name has it, with pip from its wheel."""
    local = root / "usr/local/bin"
    for name in ("python", "python3", "python3.11"):
        (local / name).symlink_to("/usr/bin/python3.11")
    # The image's Python is the user's to install into, as in the image of that name.
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    wheel = next((root / "usr/share/python-wheels").glob("pip-*.whl"))
    inside = f"/{wheel.relative_to(root)}"
    _run(
        [
            *("chroot", str(root), "/usr/local/bin/python3", f"{inside}/pip", "install", "--quiet"),
            *("--no-index", "--no-cache-dir", "--root-user-action=ignore", inside),
        ],
        "installing pip in the base image",
    )


def _trim(root: Path) -> None:
    for pattern in (
        "var/cache/apt/*",
        "var/lib/apt/lists/*",
        "var/log/*",
        "usr/share/doc/*",
        "usr/share/man/*",
        "usr/share/locale/*",
        "debootstrap",
    ):
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def build(tag: str, dockerfile: Path, context: Path, say: Say) -> None:
    """Builds an image from a Dockerfile, as `docker build` would, and keeps it in buildah's storage."""
    if not dockerfile.is_file():
        raise DevclusterError(f"no Dockerfile {dockerfile}")
    if not context.is_dir():
        raise DevclusterError(f"the build context {context} is no folder")
    ensure_base(say)
    command = ["buildah", "--storage-driver", "overlay", "bud", "--isolation", "chroot", "--layers"]
    command += ["--pull-never", "--tag", tag, "--file", str(dockerfile), str(context)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise DevclusterError(f"building {tag} from {dockerfile} failed; see above")


def _ctr(paths: Paths, *arguments: str) -> str:
    return _run(
        ["ctr", "--address", str(paths.containerd_socket), "--namespace", "k8s.io", *arguments],
        f"ctr {' '.join(arguments[:2])}",
    )


def import_archive(paths: Paths, archive: Path) -> None:
    """Imports a docker-archive or OCI archive into containerd."""
    _ctr(paths, "images", "import", str(archive))


def import_system_images(paths: Paths) -> None:
    present = set(_ctr(paths, "images", "list", "--quiet").split())
    for name in SYSTEM_IMAGES:
        if name not in present:
            import_archive(paths, system_archive(name))


def load(paths: Paths, source: str, say: Say) -> None:
    """Brings an image, by its name in buildah's storage or as an archive's path, to the cluster's node.

    An image that the node has already, by id, is not sent again.
    """
    if Path(source).is_file():
        import_archive(paths, Path(source))
        say(f"loaded {source}")
        return
    identity = image_id(source)
    if identity is None:
        raise DevclusterError(f"no image {source} in buildah's storage, and no file of that name")
    try:
        loaded = json.loads(paths.loaded_images.read_text())
    except (FileNotFoundError, ValueError):
        loaded = {}
    if loaded.get(source) == identity and source in _ctr(paths, "images", "list", "--quiet").split():
        say(f"{source} is loaded already")
        return
    archive = paths.state / f"load-{os.getpid()}.tar"
    try:
        _to_archive(source, archive)
        import_archive(paths, archive)
    finally:
        archive.unlink(missing_ok=True)
    paths.loaded_images.write_text(json.dumps({**loaded, source: identity}, indent=1))
    say(f"loaded {source}")


def release_storage() -> None:
    """Unmounts what buildah leaves mounted when it is idle: its storage folder onto itself."""
    below = mounts_below([STORAGE])
    if below == [STORAGE / "overlay"]:
        subprocess.run(["umount", str(below[0])], check=False, capture_output=True)
