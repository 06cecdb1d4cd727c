"""The living devcluster, in a sandbox of its own: the cluster that other tests use is never touched."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.sandbox import ROOT, Machine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DAEMONS = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
TRACES = (
    "cut -d' ' -f4,5 /proc/self/mountinfo; ip -oneline link; ip netns; ip route; "
    "find /run /var/log /var/lib/cni /var/lib/kubelet /sys/fs/cgroup -type d; find /run -name '*.sock*'"
)
"""What a cluster could leave on a machine beside processes: mounts, links, namespaces, cgroups, folders, sockets."""


@pytest.fixture(scope="module")
def built() -> None:
    done = subprocess.run([sys.executable, "-m", "devcluster", "build"], check=False, cwd=ROOT)
    assert done.returncode == 0


@pytest.fixture(scope="module")
def machine(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.boot()
    yield machine
    machine.crash()


@pytest.fixture
def running(machine: Machine) -> Machine:
    up(machine)
    return machine


def up(machine: Machine, *options: str) -> str:
    done = machine.devcluster("up", *options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def pids(machine: Machine) -> dict[str, int]:
    files = (machine.checkout / ".cluster" / "pids").glob("*.json")
    return {file.stem: json.loads(file.read_text())["identity"]["pid"] for file in files}


def kill(machine: Machine, *victims: int) -> None:
    """SIGKILL them, and wait until they have ended: a process that is being ended holds its sockets a little longer."""
    killer = (
        "import os, select, signal, sys\n"
        "for end in [os.pidfd_open(int(pid)) for pid in sys.argv[1:]]:\n"
        "    signal.pidfd_send_signal(end, signal.SIGKILL)\n"
        "    select.select([end], [], [])\n"
    )
    done = machine.run(sys.executable, "-c", killer, *map(str, victims))
    assert done.returncode == 0, done.stderr


def kubectl(machine: Machine, *arguments: str, manifest: object = None) -> str:
    state = machine.checkout / ".cluster"
    # A cache of its own: kubectl keeps what it discovers by the server's address, which is that of the cluster outside.
    cache = f"--cache-dir={state / 'kubectl-cache'}"
    command = [str(state / "bin" / "kubectl"), f"--kubeconfig={state / 'kubeconfig'}", cache, *arguments]
    if manifest is not None:
        file = machine.checkout / "manifest.json"
        file.write_text(json.dumps(manifest))
        command += ["-f", str(file)]
    done = machine.run(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def get(machine: Machine, *arguments: str) -> Any:
    return json.loads(kubectl(machine, "get", *arguments, "-o", "json"))


def traces(machine: Machine) -> set[str]:
    return set(machine.run("sh", "-c", TRACES).stdout.splitlines())


def test_a_second_up_changes_nothing_and_takes_about_a_second(running: Machine) -> None:
    before = pids(running)
    begun = time.monotonic()
    said = up(running)
    assert time.monotonic() - begun < 3
    assert "up already" in said
    assert pids(running) == before
    assert set(before) == set(DAEMONS)
    assert running.devcluster("status").returncode == 0


@pytest.mark.parametrize("daemon", DAEMONS)
def test_up_heals_a_killed_daemon_and_leaves_the_others_running(running: Machine, daemon: str) -> None:
    kubectl(running, "create", "configmap", f"before-{daemon}")
    before = pids(running)
    kill(running, before[daemon])
    assert running.devcluster("status").returncode == 3
    assert f"starting {daemon}\n" in up(running)
    after = pids(running)
    assert after.pop(daemon) != before.pop(daemon)
    assert after == before
    assert running.devcluster("status").returncode == 0
    assert get(running, "configmap", f"before-{daemon}")["metadata"]["name"] == f"before-{daemon}"


def test_up_starts_afresh_when_every_daemon_was_killed(running: Machine) -> None:
    kill(running, *pids(running).values())
    assert "no longer runs" in up(running)
    assert running.devcluster("status").returncode == 0
    # Containers of the dead cluster are gone with it: one CoreDNS runs, not two.
    assert [Path(argv[0]).name for argv in running.ps().values()].count("coredns") == 1


def test_up_goes_on_where_a_killed_up_has_stopped(machine: Machine) -> None:
    machine.devcluster("down")
    with subprocess.Popen(
        machine.command("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "devcluster", "up"),
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stderr is not None
        for line in first.stderr:
            if "starting kube-controller-manager" in line:
                break
        victims = [pid for pid, argv in machine.ps().items() if argv[1:4] == ["-m", "devcluster", "up"]]
        kill(machine, *victims)
    up(machine)
    assert machine.devcluster("status").returncode == 0
    programs = [Path(argv[0]).name for argv in machine.ps().values()]
    assert {name: programs.count(name) for name in DAEMONS} == dict.fromkeys(DAEMONS, 1)


def test_down_leaves_no_process_mount_namespace_link_cgroup_or_socket(machine: Machine) -> None:
    assert machine.devcluster("down").returncode == 0
    before = traces(machine)
    up(machine, "--kwok-nodes", "1")
    assert get(machine, "pods", "-A")["items"]
    assert traces(machine) - before
    assert machine.devcluster("down").returncode == 0
    assert traces(machine) == before
    assert machine.ps() == {}
    assert {path.name for path in (machine.checkout / ".cluster").iterdir()} <= {"log", "log.previous"}


def test_down_ends_containers_whose_shims_and_containerd_were_killed(running: Machine) -> None:
    shims = [pid for pid, argv in running.ps().items() if "containerd-shim" in argv[0]]
    assert shims
    kill(running, pids(running)["containerd"], *shims)
    assert running.devcluster("down").returncode == 0
    assert running.ps() == {}
    # And a second one finds nothing to do.
    assert running.devcluster("down").returncode == 0


@pytest.mark.parametrize("durable", [False, True])
def test_after_a_power_cut_up_heals_and_a_durable_etcd_keeps_what_it_was_told(machine: Machine, durable: bool) -> None:
    machine.devcluster("down")
    up(machine, *(["--durable"] if durable else []))
    kubectl(machine, "create", "configmap", "kept")
    machine.crash()
    machine.boot()
    assert machine.devcluster("status").returncode == 3
    up(machine)
    assert machine.devcluster("status").returncode == 0
    found = {item["metadata"]["name"] for item in get(machine, "configmaps")["items"]}
    assert ("kept" in found) is durable
    machine.devcluster("down")


def test_a_cluster_of_another_checkout_is_named_while_it_lives_and_cleared_when_it_is_dead(
    running: Machine,
) -> None:
    other = running.checkout.parent / "other"
    other.mkdir()
    for command in ("up", "down"):
        refused = running.devcluster(command, cwd=other)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert f"cd {running.checkout} && python -m devcluster down" in refused.stderr
    assert running.devcluster("status").returncode == 0
    running.crash()
    running.boot()
    healed = running.devcluster("up", cwd=other)
    assert healed.returncode == 0, healed.stderr
    assert f"removing the remains of the cluster of {running.checkout}" in healed.stderr
    assert running.devcluster("down", cwd=other).returncode == 0
    assert running.ps() == {}


def test_a_daemon_that_dies_during_the_start_is_named_with_the_end_of_its_log(running: Machine) -> None:
    listener = (
        "import socket, sys, time; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('198.51.100.2', 6443)); "
        "s.listen(); print('listening', flush=True); time.sleep(600)"
    )
    kill(running, pids(running)["kube-apiserver"])
    with subprocess.Popen(
        running.command("nsenter", "--net=/run/netns/questline", sys.executable, "-c", listener),
        stdout=subprocess.PIPE,
        text=True,
    ) as intruder:
        assert intruder.stdout is not None
        assert intruder.stdout.readline() == "listening\n"
        failed = running.devcluster("up")
        kill(running, *(pid for pid, argv in running.ps().items() if argv[-1:] == [listener]))
    assert failed.returncode == 1
    assert "kube-apiserver died during the start" in failed.stderr
    assert "address already in use" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "starting kube-apiserver" in up(running)


def test_a_go_that_is_too_old_is_told_in_one_line_and_nothing_is_touched(running: Machine, tmp_path: Path) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    (tmp_path / "go").chmod(0o755)
    search = f"PATH={tmp_path}:{os.environ['PATH']}"
    unbuilt = f"XDG_CACHE_HOME={tmp_path / 'cache'}"
    refused = running.run("env", search, unbuilt, sys.executable, "-m", "devcluster", "up")
    assert refused.returncode == 1
    assert re.fullmatch(r"devcluster: .*needs Go 1\.\d+ or newer on PATH; found go1\.19\n", refused.stderr)
    assert not (tmp_path / "cache").exists()
    assert running.devcluster("status").returncode == 0


def test_nothing_inside_the_cluster_has_a_way_out(running: Machine) -> None:
    routes = running.run("nsenter", "--net=/run/netns/questline", "ip", "route").stdout
    assert "198.51.100.0/30" in routes
    assert "default" not in routes


def test_fake_nodes_run_what_args_say_with_the_rights_of_the_pod(machine: Machine) -> None:
    up(machine, "--kwok-nodes", "2")
    kubectl(machine, "apply", "-f", str(ROOT / "crds" / "questjobs.yaml"))
    kubectl(machine, "wait", "--for=condition=Established", "crd/questjobs.questline.dev")
    kubectl(machine, "create", "serviceaccount", "worker")
    kubectl(machine, "create", "role", "worker", "--verb=create", "--resource=questjobs.questline.dev")
    kubectl(machine, "create", "rolebinding", "worker", "--role=worker", "--serviceaccount=default:worker")
    played = {"children": 3, "child": {"queue": "emails"}, "result": {"none": None}, "seconds": 0.05}
    job = {
        "apiVersion": "questline.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": "parent"},
        "spec": {"task": "app:send_it", "args": {"fake": played}},
    }
    kubectl(machine, "create", manifest=job)
    uid = get(machine, "questjobs", "parent")["metadata"]["uid"]
    kubectl(machine, "create", manifest=attempt_pod("parent", uid, {"fake": played}))
    kubectl(machine, "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/parent-{uid[:8]}-1", "--timeout=30s")

    pod = get(machine, "pod", f"parent-{uid[:8]}-1")
    assert pod["spec"]["nodeName"].startswith("fake-")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 0
    report = get(machine, "questjobs", "parent")["status"]["report"]
    assert report == {**json.loads(ended["message"]), "podUID": pod["metadata"]["uid"]}
    assert report["outcome"] == "Succeeded"
    assert report["children"] == {"total": 3, "groups": {}}
    jobs = {item["metadata"]["name"]: item for item in get(machine, "questjobs")["items"]}
    expected = {f"send-it-{pod['metadata']['uid'][:8]}-{index}" for index in range(3)}
    assert set(jobs) == {"parent", *expected}
    child = jobs[min(expected)]
    assert child["spec"]["parent"]["podUID"] == pod["metadata"]["uid"]
    assert child["spec"]["queue"] == "emails"


def test_a_pod_on_a_fake_node_that_may_not_enqueue_fails_with_the_servers_words(machine: Machine) -> None:
    up(machine, "--kwok-nodes", "2")
    kubectl(machine, "create", "namespace", "powerless")
    pod = attempt_pod("alone", "00000000-0000", {"fake": {"children": 1}}, account="default")
    kubectl(machine, "create", "--namespace=powerless", manifest=pod)
    name = f"pod/{pod['metadata']['name']}"
    kubectl(machine, "wait", "--namespace=powerless", "--for=jsonpath={.status.phase}=Failed", name, "--timeout=30s")
    ended = get(machine, "--namespace=powerless", name)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 1
    assert re.search(r"a child was refused: 40[34] ", json.loads(ended["message"])["message"])


def attempt_pod(job: str, uid: str, args: dict[str, Any], account: str = "worker") -> dict[str, Any]:
    """A pod as the operator makes it for the first attempt of a Job, for fake nodes."""
    payload = {
        "v": 1,
        "job": {"namespace": "default", "name": job, "uid": uid, "queue": "default", "task": "app:send_it"},
        "attempt": 1,
        "args": args,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job}-{uid[:8]}-1",
            "labels": {"questline.dev/job": job, "questline.dev/attempt": "1"},
            "annotations": {"questline.dev/payload": json.dumps(payload)},
        },
        "spec": {
            "serviceAccountName": account,
            "restartPolicy": "Never",
            "nodeSelector": {"type": "kwok"},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "containers": [{"name": "worker", "image": "questline.dev/worker:dev"}],
        },
    }


@pytest.fixture
def image(built: None, tmp_path: Path) -> Iterator[str]:
    """An image built from a Dockerfile that names its base as anyone would, with no network at all."""
    name = "questline.dev/devcluster-test:dev"
    (tmp_path / "Dockerfile").write_text(
        "FROM python:3.11-slim-bookworm\nRUN python -c 'import ssl, sqlite3' && pip --version\n"
        'COPY hello.py /hello.py\nUSER 65532\nENTRYPOINT ["python", "/hello.py"]\n'
    )
    (tmp_path / "hello.py").write_text("import socket\nsocket.getaddrinfo('kubernetes.default', 443)\n")
    done = subprocess.run(
        [
            *("unshare", "--net", sys.executable, "-m", "devcluster", "image", "-t", name),
            *("-f", str(tmp_path / "Dockerfile"), str(tmp_path)),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    yield name
    subprocess.run(["buildah", "--storage-driver", "overlay", "rmi", name], check=True, capture_output=True)


def test_an_image_built_without_a_network_runs_and_finds_a_service_by_name(running: Machine, image: str) -> None:
    loaded = running.devcluster("load", image)
    assert f"loaded {image}" in loaded.stderr
    assert "loaded already" in running.devcluster("load", image).stderr
    kubectl(running, "run", "hello", f"--image={image}", "--restart=Never")
    kubectl(running, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/hello", "--timeout=60s")


def test_an_archive_is_loaded_by_its_path_and_a_wrong_name_is_told_in_one_line(
    running: Machine, image: str, tmp_path: Path
) -> None:
    archive = tmp_path / "image.tar"
    subprocess.run(
        ["buildah", "--storage-driver", "overlay", "push", "--quiet", image, f"docker-archive:{archive}:x.dev/y:1"],
        check=True,
        capture_output=True,
    )
    assert running.devcluster("load", str(archive)).returncode == 0
    listed = running.run("ctr", "-a", "/run/questline-devcluster/containerd.sock", "-n", "k8s.io", "images", "ls", "-q")
    assert "x.dev/y:1" in listed.stdout.split()
    wrong = running.devcluster("load", "questline.dev/nothing:dev")
    assert wrong.returncode == 1
    assert wrong.stderr == (
        "devcluster: no image questline.dev/nothing:dev in buildah's storage, and no file of that name\n"
    )
