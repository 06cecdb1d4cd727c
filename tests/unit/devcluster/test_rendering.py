"""What the daemons are started with, and what their digests stand for."""

import json
import tomllib
from pathlib import Path

import pytest

from devcluster import manifests
from devcluster.daemons import Daemon, Settings, all_daemons, containerd_config, kubelet_config
from devcluster.mounts import mounts_below
from devcluster.paths import RUN_DIR, UNIX_SOCKET_LIMIT, Paths, cache_home, digest_of

PATHS = Paths(Path('/some where/check"out'))


def test_containerd_and_cni_configurations_parse_whatever_the_path_holds() -> None:
    config = tomllib.loads(containerd_config(PATHS))
    assert config["root"] == str(PATHS.containerd)
    plugin = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert plugin["sandbox_image"] == "questline.dev/pause:1"
    assert plugin["containerd"]["runtimes"]["runc"]["runtime_type"] == "io.containerd.runc.v2"


def test_the_kubelet_is_told_the_socket_that_containerd_listens_on() -> None:
    config = json.loads(kubelet_config(PATHS))
    listens = tomllib.loads(containerd_config(PATHS))["grpc"]["address"]
    assert config["containerRuntimeEndpoint"] == f"unix://{listens}"


@pytest.mark.parametrize("length", [10, 60, 200])
def test_no_socket_path_is_longer_than_unix_allows(length: int) -> None:
    paths = Paths(Path("/" + "x" * length))
    for socket in (paths.kubelet / "pod-resources" / "kubelet.sock", paths.containerd_socket):
        assert len(str(socket)) <= UNIX_SOCKET_LIMIT
    assert paths.kubelet.is_relative_to(paths.state) or paths.kubelet.is_relative_to(RUN_DIR)


def test_only_a_durable_etcd_flushes_its_writes() -> None:
    fast = all_daemons(PATHS, Settings())["etcd"]
    durable = all_daemons(PATHS, Settings(durable=True))["etcd"]
    assert "--unsafe-no-fsync" in fast.command
    assert "--unsafe-no-fsync" not in durable.command
    assert fast.digest != durable.digest


def test_fake_nodes_start_kwok_and_leave_every_other_daemon_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = tmp_path / "stage.yaml"
    stage.write_text("kind: Stage")
    monkeypatch.setattr("devcluster.daemons.binary", lambda name: stage)
    without = {name: daemon.digest for name, daemon in all_daemons(PATHS, Settings()).items()}
    wanted = {name: daemon.digest for name, daemon in all_daemons(PATHS, Settings(kwok_nodes=2)).items()}
    assert wanted.keys() - without.keys() == {"kwok", "fakeworker"}
    assert without == {name: wanted[name] for name in without}


def test_a_daemons_digest_changes_with_its_command_and_its_configuration() -> None:
    file = Path("/etc/daemon.json")
    base = Daemon("d", ["d", "--a"], {file: "1"})
    assert base.digest == Daemon("d", ["d", "--a"], {file: "1"}).digest
    others = [Daemon("d", ["d", "--b"], {file: "1"}), Daemon("d", ["d", "--a"], {file: "2"}), Daemon("d", ["d", "--a"])]
    assert base.digest not in {other.digest for other in others}


def test_every_daemon_runs_inside_the_clusters_network() -> None:
    for daemon in all_daemons(PATHS, Settings()).values():
        assert daemon.argv[:3] == ["nsenter", "--net=/run/netns/questline", "--"]
        assert daemon.argv[3:] == daemon.command


def test_a_later_up_without_options_keeps_what_an_earlier_one_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    assert Settings.read(file) == Settings()
    Settings().merged(durable=True, kwok_nodes=3).write(file)
    assert Settings.read(file).merged(durable=False, kwok_nodes=None) == Settings(durable=True, kwok_nodes=3)
    assert Settings.read(file).merged(durable=False, kwok_nodes=0).kwok_nodes == 0
    file.write_text("{")
    assert Settings.read(file) == Settings()


def test_pods_come_to_a_fake_node_only_if_they_ask_for_it() -> None:
    path, node = manifests.fake_node(4)
    assert path == "/api/v1/nodes/fake-4"
    assert node["metadata"]["labels"]["type"] == "kwok"
    assert node["spec"]["taints"] == [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]


def test_mounts_are_found_deepest_first_and_only_below_the_folder() -> None:
    info = "\n".join(
        f"1 2 0:1 / {point} rw - tmpfs tmpfs rw" for point in ("/a", r"/a/b\040c", "/ab", "/a/b\\040c/d", "/z")
    )
    assert mounts_below([Path("/a")], info) == [Path("/a/b c/d"), Path("/a/b c"), Path("/a")]


def test_digest_keys_tell_parts_apart() -> None:
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")
    assert len(digest_of(b"")) == 16


def test_the_cache_is_outside_the_checkout_and_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_home() == Path("/somewhere/questline-devcluster")
    # The XDG specification says that a relative path is to be ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_home() == Path.home() / ".cache" / "questline-devcluster"
