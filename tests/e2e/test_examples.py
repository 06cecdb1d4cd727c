"""Every example of examples/ does what its header says, and the demo keeps its promises."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import pytest
import yaml

from examples.demo.cluster import CHECKOUT, JOBS, PODS, Cluster, DemoError, Event, WatchLost
from examples.demo.record import Record
from examples.demo.show import label_of
from questline.cli.view import JobView

MANIFESTS = CHECKOUT / "examples" / "manifests"
PATIENCE = 120.0  # seconds for an example to end


class Examples:
    """A namespace with what the examples need, and a record of all that happens in it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.record = Record()
        self._events: queue.SimpleQueue[Event | WatchLost] = queue.SimpleQueue()
        self._watches = [cluster.watch(path, self._events.put) for path in (JOBS, PODS)]

    def apply(self, *names: str) -> None:
        for name in names:
            self.cluster.kubectl("apply", f"--filename={MANIFESTS / name}")

    def until(self, reached: Callable[[Record], bool]) -> None:
        """Takes events in until `reached`. Fails with the states of all Jobs when that does not come."""
        deadline = time.monotonic() + PATIENCE
        while not reached(self.record):
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"not reached in {PATIENCE} s; the Jobs are {self.states()}")
            assert isinstance(event, Event), event
            self.record.add(event)

    def until_states(self, expected: dict[str, tuple[str, str]]) -> None:
        """Waits until each Job named is in that (state, reason)."""
        self.until(lambda _: {name: self.states().get(name) for name in expected} == expected)

    def states(self) -> dict[str, tuple[str, str]]:
        return {job.name: (job.state, job.reason) for job in self.record.jobs.values()}

    def job(self, name: str) -> JobView:
        return self.record.jobs[name]

    def close(self) -> None:
        for watch in self._watches:
            watch.stop()


@pytest.fixture
def worker_namespace(installed: Path) -> Iterator[str]:
    """A fresh namespace in which the Worker's ServiceAccount has its rights, as the chart gives them in `default`."""
    name = f"examples-{token_hex(4)}"
    cluster = Cluster(installed, name)
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("create", "serviceaccount", "questline-worker")
    role = ["--clusterrole=questline-worker", f"--serviceaccount={name}:questline-worker"]
    cluster.kubectl("create", "rolebinding", "questline-worker", *role)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "persistentvolume", f"questline-demo-{name}", "--ignore-not-found", "--wait=false")


@pytest.fixture
def examples(installed: Path, worker_namespace: str) -> Iterator[Examples]:
    opened = Examples(Cluster(installed, worker_namespace))
    yield opened
    opened.close()


def names_in(manifest: str) -> list[str]:
    """The Jobs of a manifest, in its order."""
    documents = yaml.safe_load_all((MANIFESTS / manifest).read_text())
    return [document["metadata"]["name"] for document in documents if document["kind"] == "Job"]


def test_a_chain_by_after_runs_its_steps_in_order(examples: Examples) -> None:
    examples.apply("chain-after.yaml")
    steps = ["process-upload", "generate-thumbnail", "notify-user"]
    examples.until(lambda record: record.is_complete(steps))
    assert [examples.job(step).state for step in steps] == ["Succeeded"] * 3
    assert examples.record.ran_in_order(steps)
    assert examples.job("process-upload").status["result"] == {"processed": True}


def test_a_chain_by_after_stops_at_a_step_out_of_attempts(examples: Examples) -> None:
    examples.apply("chain-after-stops.yaml")
    examples.until_states(
        {
            "stops-upload": ("Succeeded", ""),
            "stops-thumbnail": ("Failed", "NonZeroExit"),
            "stops-notify": ("Skipped", "UpstreamFailed"),
            "stops-cleanup": ("Succeeded", ""),
        }
    )
    assert examples.job("stops-thumbnail").attempt == 2
    assert examples.record.first_pod_version("stops-notify") is None


def test_of_equal_unique_jobs_one_runs(examples: Examples) -> None:
    examples.apply("unique.yaml")
    jobs = names_in("unique.yaml")
    examples.until(lambda record: record.is_complete(jobs))
    (winner,) = [name for name in jobs if examples.job(name).state == "Succeeded"]
    for loser in set(jobs) - {winner}:
        assert examples.states()[loser] == ("Skipped", "Duplicate")
        assert examples.job(loser).status["duplicateOf"] == winner
        assert examples.record.first_pod_version(loser) is None


def test_fan_out_of_commands_runs_two_at_a_time_and_the_report_last(examples: Examples) -> None:
    examples.apply("fan-out.yaml")
    jobs = names_in("fan-out.yaml")
    examples.until(lambda record: record.is_complete(jobs))
    assert {examples.job(name).state for name in jobs} == {"Succeeded"}
    assert examples.record.highest_slots("resize") == 2
    for step in jobs[:-1]:
        assert examples.record.ran_in_order([step, "resize-report"])


def test_a_plain_container_needs_no_sdk(examples: Examples) -> None:
    examples.apply("plain-container.yaml")
    examples.until(lambda record: record.is_complete(["plain-sum", "plain-flaky"]))
    assert examples.job("plain-sum").state == "Succeeded"
    assert examples.job("plain-sum").status["result"] == {"sum": 42}
    assert examples.job("plain-flaky").state == "Succeeded"
    assert examples.job("plain-flaky").outcomes == ["Failed", "Failed", "Succeeded"]


def test_a_chain_by_enqueue_leaves_one_set_of_children_run(examples: Examples) -> None:
    examples.apply("worker.yaml", "python-chain.yaml")
    examples.until(lambda record: record.is_complete(["python-chain"]))
    by_function = Counter((job.function, job.state, job.reason) for job in examples.record.tree("python-chain"))
    assert by_function == {
        ("process_upload", "Succeeded", ""): 1,
        ("generate_thumbnail", "Succeeded", ""): 1,
        ("notify_user", "Skipped", "ParentFailed"): 1,
        ("notify_user", "Succeeded", ""): 1,
    }
    ran = [job.name for job in examples.record.tree("python-chain") if job.state == "Succeeded"]
    assert examples.record.ran_in_order(ran)
    assert examples.job(ran[0]).status["result"] == {"processed": True}


def test_fan_out_by_enqueue_reaches_each_recipient_once_though_enqueued_twice(examples: Examples) -> None:
    examples.apply("worker.yaml", "python-fan-out.yaml")
    roots = ["python-broadcast", "python-broadcast-again"]
    examples.until(lambda record: record.is_complete(roots))
    emails = [job for root in roots for job in examples.record.children(root)]
    assert Counter(label_of(job) for job in emails if job.state == "Succeeded") == {
        f"send_email {recipient}": 1 for recipient in examples.job(roots[0]).spec["args"]["recipients"]
    }
    assert Counter((job.state, job.reason) for job in emails) == {
        ("Succeeded", ""): 6,
        ("Skipped", "Duplicate"): 6,
    }
    assert examples.record.highest_slots("example-emails") == 2


def test_bad_input_ends_in_a_state_and_a_message_that_say_what_is_wrong(examples: Examples) -> None:
    examples.apply("worker.yaml", "bad-input.yaml")
    expected = {
        "bad-module": ("Failed", "TaskNotFound", 1, "examples.python.chian"),
        "bad-function": ("Failed", "TaskNotFound", 1, "process_uplaod"),
        "bad-args": ("Failed", "ArgsInvalid", 1, "file"),
        "bad-command": ("Failed", "NonZeroExit", 2, "3"),
        "bad-image": ("Failed", "StartTimeout", 1, "not an image"),
        "bad-timeout": ("Failed", "Timeout", 1, "timeoutSeconds"),
        "bad-queue": ("Waiting", "QueueNotFound", 0, "emials"),
        "bad-worker": ("Waiting", "WorkerNotFound", 0, "exampels"),
        "bad-after": ("Waiting", "DependencyMissing", 0, "no-such-job"),
    }
    examples.until_states({name: (state, reason) for name, (state, reason, _, _) in expected.items()})
    assert sorted(expected) == sorted(names_in("bad-input.yaml"))
    for name, (_, _, attempts, said) in expected.items():
        job = examples.job(name)
        message = str(job.status.get("message", ""))
        assert (job.attempt, said in message, "\n" in message) == (attempts, True, False), (name, message)


def test_what_can_be_refused_at_once_is_refused_by_field(examples: Examples) -> None:
    expected = {
        "refused-both": ["task", "command"],
        "refused-task": ["spec.task"],
        "refused-env": ["env", "QUESTLINE_"],
        "refused-attempts": ["spec.maxAttempts"],
        "refused-window": ["windowSeconds"],
    }
    documents = list(yaml.safe_load_all((MANIFESTS / "refused.yaml").read_text()))
    assert [document["metadata"]["name"] for document in documents] == list(expected)
    for document in documents:
        with pytest.raises(DemoError) as refusal:
            examples.cluster.apply([document])
        for said in expected[document["metadata"]["name"]]:
            assert said in str(refusal.value)
    assert examples.cluster.get(JOBS)["items"] == []


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.glob("*.yaml")))
def test_every_manifest_says_what_happens(name: str) -> None:
    header = (MANIFESTS / name).read_text().partition("apiVersion")[0]
    assert f"examples/manifests/{name}" in header or name == "worker.yaml"
    assert all(line.startswith("#") for line in header.splitlines())


def test_the_demo_keeps_its_promises_twice_in_a_row(installed: Path, worker_namespace: str) -> None:
    for _ in range(2):
        demo = subprocess.run(
            [sys.executable, "-m", "examples.demo", f"--namespace={worker_namespace}"],
            cwd=CHECKOUT,
            env={**os.environ, "CLUSTER_KUBECONFIG": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert "BROKEN" not in demo.stdout
        assert "Slots of queue emails held at once: 4 at most, of 4" in demo.stdout
        assert demo.stderr == ""
