"""What the machine lacks is said in one line, before any work."""

import os
from pathlib import Path

import pytest

from devcluster import host
from devcluster.gobuild import ALL, ETCD, KUBERNETES, KWOK, Module, binary, build_missing
from devcluster.images import mirror
from devcluster.paths import DevclusterError


def one_line(error: pytest.ExceptionInfo[DevclusterError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DevclusterError) as error:
        host.require_root()
    assert "needs root" in one_line(error)


def test_go_that_is_missing_or_too_old_is_named_with_the_version_that_is_needed(tmp_path: Path) -> None:
    for said in ("go version go1.24.13 linux/amd64", "go version go1.9 linux/amd64", "gccgo"):
        with pytest.raises(DevclusterError) as error:
            host.require_go(lambda said=said: said)  # type: ignore[misc]
        assert "Go 1.26 or newer" in one_line(error)

    def missing() -> str:
        raise FileNotFoundError("go")

    with pytest.raises(DevclusterError) as error:
        host.require_go(missing)
    assert "found none" in one_line(error)
    host.require_go(lambda: "go version go1.26.0 linux/amd64")
    host.require_go(lambda: "go version go2.0 linux/amd64")


def test_the_go_that_is_needed_is_the_newest_that_a_go_mod_asks_for(tmp_path: Path) -> None:
    for name, version in (("a", "1.9"), ("b", "1.31.2"), ("c", "1.30")):
        (tmp_path / "go" / name).mkdir(parents=True)
        (tmp_path / "go" / name / "go.mod").write_text(f"module {name}\n\ngo {version}\n")
    assert host.go_needed(tmp_path) == (1, 31)


def test_too_little_disk_space_is_named_with_what_is_free(tmp_path: Path) -> None:
    with pytest.raises(DevclusterError) as error:
        host.require_disk(tmp_path / "not" / "there" / "yet", 1 << 60)
    assert str(tmp_path) in one_line(error)
    assert "GiB free" in str(error.value)
    host.require_disk(tmp_path, 1)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH for stand-ins of Debian's tools, which this test must not really run."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def write_tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_only_packages_that_are_missing_are_installed(stub: Path) -> None:
    write_tool(stub, "dpkg-query", 'echo "installed runc"; echo "config-files conntrack"; echo oops >&2; exit 1')
    write_tool(stub, "apt-get", f'echo "$@" >> {stub}/calls')
    missing = host.missing_packages()
    assert "runc" not in missing
    assert {"conntrack", "containerd"} <= set(missing)
    host.install_packages(["conntrack"], lambda text: None)
    assert (stub / "calls").read_text().splitlines() == [
        "update -qq",
        "install -qq --yes --no-install-recommends conntrack",
    ]


def test_apts_own_words_are_shown_when_it_fails(stub: Path) -> None:
    write_tool(stub, "apt-get", "echo 'E: no network' >&2; exit 100")
    with pytest.raises(DevclusterError, match="apt-get update failed: E: no network"):
        host.install_packages(["conntrack"], lambda text: None)


def test_the_debian_mirror_is_the_one_that_apt_uses() -> None:
    listed = (
        "http://mirror.example/debian-security/ bookworm-security main\n"
        "http://mirror.example/debian/ bookworm-updates main\n"
        "http://mirror.example/debian/ bookworm main\n"
    )
    assert mirror(listed) == "http://mirror.example/debian/"
    with pytest.raises(DevclusterError, match="no Debian mirror"):
        mirror("http://mirror.example/debian-security/ bookworm-security main\n")


def test_a_modules_key_changes_with_its_go_mod_and_with_its_go_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devcluster.gobuild.SOURCE", tmp_path)
    folder = tmp_path / "go" / "thing"
    folder.mkdir(parents=True)
    module = Module("thing", {"thing": "example.org/thing"})
    keys = []
    for mod, total in (("1", "1"), ("2", "1"), ("1", "2")):
        (folder / "go.mod").write_text(mod)
        (folder / "go.sum").write_text(total)
        keys.append(module.digest)
    assert len(set(keys)) == 3
    (folder / "notes.txt").write_text("of no concern")
    assert module.digest == keys[-1]
    assert Module("thing", {"thing": "example.org/thing"}, ("-X a.b=c",)).digest != keys[-1]


def test_go_mod_and_go_sum_of_every_module_are_here() -> None:
    for module in ALL:
        assert (module.source / "go.mod").is_file()
        assert module.name == "pause" or (module.source / "go.sum").is_file()
    versions = (KUBERNETES.source / "go.mod").read_text()
    assert "k8s.io/kubernetes v1.35.4" in versions
    assert binary("etcd").parent == ETCD.folder
    assert binary("node-heartbeat.yaml").parent == KWOK.folder


def test_a_module_that_does_not_compile_leaves_nothing_and_says_what_go_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devcluster.gobuild.SOURCE", tmp_path)
    monkeypatch.setattr("devcluster.gobuild.cache_home", lambda: tmp_path / "cache")
    folder = tmp_path / "go" / "broken"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module example.org/broken\n\ngo 1.25\n")
    (folder / "main.go").write_text("package main\n\nfunc main() { undefined() }\n")
    broken = Module("broken", {"broken": "example.org/broken"})
    with pytest.raises(DevclusterError, match="undefined: undefined"):
        build_missing((broken,), lambda text: None)
    assert not broken.built
    assert list(broken.folder.parent.iterdir()) == []
    (folder / "main.go").write_text("package main\n\nfunc main() {}\n")
    said: list[str] = []
    build_missing((broken,), said.append)
    assert broken.built
    assert any("[1/1] broken: compiling broken (" in line for line in said)
    said.clear()
    build_missing((broken,), said.append)
    assert said == []
