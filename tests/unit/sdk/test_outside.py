"""Enqueues from a program that is no attempt, and waiting for their Jobs."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from questline import (
    ApiRefused,
    ApiUnavailable,
    ConfigurationError,
    EnqueueRefused,
    EnqueueUncertain,
    JobGone,
    JobNotSucceeded,
    MissingDependency,
    NotInAttempt,
    ResultInvalid,
    WaitTimeout,
    chain,
    current,
    enqueue,
    enqueue_many,
)
from tests.unit.sdk.apiserver import ApiServer, Fault
from tests.unit.sdk.apps.shop import nothing, resize


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A developer's machine with a kubeconfig for the server."""
    authority = base64.b64encode((api.folder / "ca.crt").read_bytes()).decode()
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "staging"}}],
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": f"https://127.0.0.1:{api.port}",
                            "certificate-authority-data": authority,
                        },
                    }
                ],
                "users": [{"name": "u", "user": {"token": "my-token"}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("QUESTLINE_SERVICEACCOUNT_DIR", str(tmp_path / "none"))
    enqueue.forget_connection()
    return path


def finish(api: ApiServer, name: str, **status: Any) -> None:
    """The operator's write, as soon as the SDK waits."""
    api.change("shop", name, **{"state": "Succeeded", **status})


def test_a_job_from_outside_has_no_parent_and_a_name_of_its_own(in_pod: ApiServer) -> None:
    handle = resize.enqueue("a")
    (seen,) = in_pod.requests
    assert seen.path.endswith("/namespaces/shop/questjobs")
    assert "parent" not in seen.body["spec"]
    assert re.fullmatch(r"resize-[a-z0-9]{10}", handle.name)
    assert (handle.namespace, seen.body["metadata"]) == ("shop", {"name": handle.name, "namespace": "shop"})


def test_the_namespace_can_be_chosen(in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLINE_NAMESPACE", "other")
    assert resize.enqueue("a").namespace == "other"


@pytest.mark.parametrize("applied", [False, True])
def test_a_lost_answer_makes_one_job(in_pod: ApiServer, applied: bool) -> None:
    in_pod.faults.append(Fault(applied=applied))
    handle = resize.enqueue("a")
    assert in_pod.names() == [handle.name]
    assert len(in_pod.posts()) == 2


def test_a_chosen_name_that_is_taken_is_refused(in_pod: ApiServer) -> None:
    mine = resize.options(name="nightly")
    assert mine.enqueue("a").name == "nightly"
    with pytest.raises(EnqueueRefused, match="there is a Job shop/nightly already: choose another name"):
        mine.enqueue("b")


def test_a_chosen_name_whose_answer_was_lost_is_known_as_ours(in_pod: ApiServer) -> None:
    in_pod.faults.append(Fault(applied=True))
    assert resize.options(name="nightly").enqueue("a").name == "nightly"


def test_a_chosen_name_that_another_took_meanwhile_is_refused(in_pod: ApiServer) -> None:
    resize.options(name="nightly").enqueue("a")
    in_pod.faults.append(Fault(applied=False))
    with pytest.raises(EnqueueRefused, match="already"):
        resize.options(name="nightly").enqueue("b")


def test_a_job_of_unknown_fate_is_said_to_be(in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 0.3)
    in_pod.faults.extend(Fault(applied=True) for _ in range(20))
    with pytest.raises(EnqueueUncertain, match=r"was created is unknown: .*; look for it before you enqueue it again"):
        resize.enqueue("a")


def test_many_jobs_are_enqueued_from_outside_too(in_pod: ApiServer) -> None:
    handles = enqueue_many(resize.call(str(n)) for n in range(50))
    by_name = {name: job["spec"]["args"]["picture"] for (_, name), job in in_pod.jobs.items()}
    assert [by_name[handle.name] for handle in handles] == [str(n) for n in range(50)]


def test_a_chain_from_outside_waits_by_name(in_pod: ApiServer) -> None:
    first, second = chain(resize.call("a"), nothing.call())
    assert in_pod.jobs["shop", second.name]["spec"]["after"] == [{"job": first.name}]
    assert "after" not in in_pod.jobs["shop", first.name]["spec"]


def test_current_needs_an_attempt(in_pod: ApiServer) -> None:
    with pytest.raises(NotInAttempt, match="no attempt runs here"):
        current()


# Waiting


def while_waiting(api: ApiServer, then: Any) -> threading.Thread:
    """Calls it as soon as a watch has been asked for."""

    def run() -> None:
        with api.changed:
            api.changed.wait_for(lambda: any("watch=1" in seen.path for seen in api.requests), timeout=30)
        then()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.fixture
def waits(in_pod: ApiServer) -> ApiServer:
    return in_pod


def test_a_result_is_what_the_task_returned(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    finish(waits, handle.name, result="a-320")
    assert handle.result() == "a-320"
    assert handle.wait() == "Succeeded"


def test_waiting_ends_with_the_event_and_asks_nothing_twice(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    thread = while_waiting(waits, lambda: finish(waits, handle.name, result="x"))
    assert handle.result(timeout="30s") == "x"
    thread.join()
    reads = [seen.path for seen in waits.requests if seen.method == "GET"]
    assert len(reads) == 2
    assert f"fieldSelector=metadata.name%3D{handle.name}" in reads[1]


def test_a_watch_that_ends_early_or_is_expired_is_begun_again(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    waits.watches_end_at_once = 2
    waits.forgotten_before = waits.version + 1

    def remember() -> None:
        waits.forgotten_before = 0
        finish(waits, handle.name, result="x")

    thread = while_waiting(waits, remember)
    assert handle.result(timeout=30) == "x"
    thread.join()


def test_a_watch_that_is_refused_as_expired_is_begun_again(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    waits.faults.extend([None, Fault(status=410, reason="Expired", message="too old resource version")])
    thread = while_waiting(waits, lambda: finish(waits, handle.name, result="x"))
    assert handle.result(timeout=30) == "x"
    thread.join()


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_a_watch_that_is_refused_for_the_moment_is_begun_again(waits: ApiServer, status: int) -> None:
    handle = resize.enqueue("a")
    waits.faults.extend([None, Fault(status=status, reason="ServerTimeout", message="try again")])
    thread = while_waiting(waits, lambda: finish(waits, handle.name, result="x"))
    assert handle.result(timeout=30) == "x"
    thread.join()


def test_a_job_that_did_not_succeed_says_how_it_ended(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    said = "attempt 5 of 5: ValueError: no"
    finish(waits, handle.name, state="Failed", reason="TaskError", message=said)
    assert handle.wait() == "Failed"
    with pytest.raises(JobNotSucceeded) as refusal:
        handle.result()
    assert (refusal.value.state, refusal.value.reason) == ("Failed", "TaskError")
    assert str(refusal.value).endswith(f"is Failed (TaskError) {said}")


def test_a_duplicate_names_the_job_that_ran_in_its_place(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    finish(waits, handle.name, state="Skipped", reason="Duplicate", duplicateOf="other-1")
    with pytest.raises(JobNotSucceeded, match=r"Skipped \(Duplicate\) - the Job that ran in its place is other-1"):
        handle.result()


def test_waiting_has_an_end(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    with pytest.raises(
        WaitTimeout, match=r"Job shop/resize-.* has not ended in 0.2 s: its state is Waiting"
    ) as timeout:
        handle.wait(timeout=0.2)
    assert isinstance(timeout.value, TimeoutError)


def test_a_job_that_has_ended_is_no_timeout_however_short(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    with pytest.raises(WaitTimeout, match="has not ended in 0 s: its state is Waiting"):
        handle.wait(timeout=0)
    finish(waits, handle.name, result="x")
    assert (handle.wait(timeout=0), handle.result(timeout=0)) == ("Succeeded", "x")


def test_a_job_that_is_deleted_is_gone(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    thread = while_waiting(waits, lambda: waits.delete("shop", handle.name))
    with pytest.raises(JobGone, match="was deleted before it had ended"):
        handle.wait(timeout=30)
    thread.join()
    with pytest.raises(JobGone, match="does not exist"):
        handle.wait()


def test_a_result_of_another_type_is_refused(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    finish(waits, handle.name, result=3)
    with pytest.raises(ResultInvalid, match=r"the result of Job shop/resize-.*: expected str, got int 3"):
        handle.result()


def test_a_server_that_shows_nothing_is_an_error_of_its_own(waits: ApiServer) -> None:
    handle = resize.enqueue("a")
    waits.faults.append(Fault(status=403, reason="Forbidden", message="cannot get questjobs"))
    with pytest.raises(ApiRefused, match=r"403 Forbidden\): cannot get questjobs"):
        handle.wait()


# A developer's machine


def test_a_kubeconfig_says_where_and_as_whom(api: ApiServer, kubeconfig: Path) -> None:
    handle = resize.enqueue("a")
    assert handle.namespace == "staging"
    (seen,) = api.requests
    assert seen.path.endswith("/namespaces/staging/questjobs")
    assert seen.headers["authorization"] == "Bearer my-token"
    assert seen.headers["user-agent"].startswith("questline/")
    thread = while_waiting(api, lambda: api.change("staging", handle.name, state="Succeeded", result="r"))
    assert handle.result(timeout=30) == "r"
    thread.join()
    enqueue.forget_connection()


@pytest.mark.parametrize(
    "fault",
    [Fault(applied=True), Fault(applied=False, reset=True), Fault(status=503), Fault(applied=True, truncated=True)],
)
def test_lost_answers_are_borne_by_a_kubeconfig_too(api: ApiServer, kubeconfig: Path, fault: Fault) -> None:
    api.faults.append(fault)
    handle = resize.enqueue("a")
    assert api.names() == [handle.name]
    enqueue.forget_connection()


def test_a_fork_speaks_on_a_connection_of_its_own(api: ApiServer, kubeconfig: Path) -> None:
    resize.enqueue("a")
    child = os.fork()
    if child == 0:
        try:
            resize.enqueue("b")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    resize.enqueue("c")
    first, forked, last = (seen.connection for seen in api.posts())
    assert (forked != first, last == first) == (True, True)
    enqueue.forget_connection()


def test_a_server_that_is_not_there_made_nothing(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, api: ApiServer
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 0.3)
    kubeconfig.write_text(kubeconfig.read_text().replace(f":{api.port}", ":1"))
    with pytest.raises(ApiUnavailable, match=r"cannot connect to https://127\.0\.0\.1:1"):
        resize.enqueue("a")
    enqueue.forget_connection()


def test_without_a_kubeconfig_the_error_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    monkeypatch.setenv("QUESTLINE_SERVICEACCOUNT_DIR", str(tmp_path / "none"))
    enqueue.forget_connection()
    with pytest.raises(ConfigurationError, match="neither a pod's service account nor a kubeconfig"):
        resize.enqueue("a")


@pytest.mark.parametrize("content", ["a: [", "- a", "clusters: 3", "current-context: a\ncontexts: [{name: a}]"])
def test_a_kubeconfig_that_is_broken_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "broken").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
    monkeypatch.setenv("QUESTLINE_SERVICEACCOUNT_DIR", str(tmp_path / "none"))
    enqueue.forget_connection()
    with pytest.raises(ConfigurationError, match="neither a pod's service account nor a kubeconfig"):
        resize.enqueue("a")


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    """In a Python without site packages, as a lean installation is."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(enqueue.__file__).parents[1])!r})
sys.path.insert(0, {str(Path(__file__).parent / "apps")!r})
import questline, shop
try:
    shop.resize.enqueue("a")
except questline.MissingDependency as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    assert done.stdout == ("enqueueing from outside a cluster needs the client: pip install 'questline[client]'\n")
    assert issubclass(MissingDependency, ConfigurationError)
