"""Enqueues inside an attempt."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import threading
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from questline import (
    ApiUnavailable,
    ArgsInvalid,
    EnqueueError,
    EnqueueFateUnknown,
    EnqueueRefused,
    Handle,
    NotInAttempt,
    OptionInvalid,
    QuestlineError,
    chain,
    current,
    enqueue,
    enqueue_many,
    fan_out,
)
from questline.attempt import Attempt
from questline.enqueue import slug
from tests.unit.sdk.apiserver import TLS, ApiServer, Fault
from tests.unit.sdk.apps.shop import fetch, nothing, once, resize, send_email
from tests.unit.sdk.processes import JOB_UID, POD_UID

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?-" + POD_UID[:8] + r"-[a-z0-9]{1,16}")
"""What the admission policy demands of a child's name."""


def totals(attempt: Attempt) -> tuple[int, str | None]:
    return attempt._children.total, attempt._children.unknown


def test_a_child_names_the_attempt_that_enqueued_it(attempt: Attempt, in_pod: ApiServer) -> None:
    handle = resize.enqueue("a", width=8)
    assert handle.name == f"resize-{POD_UID[:8]}-0"
    (seen,) = in_pod.requests
    assert seen.path == "/apis/questline.dev/v1alpha1/namespaces/shop/questjobs"
    assert seen.headers["authorization"] == "Bearer token-1"
    assert seen.headers["user-agent"].startswith("questline/")
    assert seen.body == {
        "apiVersion": "questline.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": handle.name, "namespace": "shop"},
        "spec": {
            "task": "tests.unit.sdk.apps.shop:resize",
            "queue": "media",
            "maxAttempts": 3,
            "timeoutSeconds": 600,
            "args": {"picture": "a", "width": 8},
            "parent": {"name": "parent", "uid": JOB_UID, "attempt": 2, "podUID": POD_UID, "index": 0},
        },
    }


def test_an_unstaged_child_says_so(attempt: Attempt, in_pod: ApiServer) -> None:
    nothing.options(stage=False).enqueue()
    assert in_pod.requests[0].body["spec"]["parent"]["staged"] is False


def test_children_are_counted_in_the_order_of_their_enqueues(attempt: Attempt, in_pod: ApiServer) -> None:
    handles = [resize.enqueue(str(n)) for n in range(3)]
    assert [handle.name.rpartition("-")[2] for handle in handles] == ["0", "1", "2"]
    assert totals(attempt) == (3, None)
    assert {seen.connection for seen in in_pod.requests} == {1}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("applied", [False, True])
def test_a_lost_answer_makes_one_child(attempt: Attempt, in_pod: ApiServer, applied: bool, reset: bool) -> None:
    resize.enqueue("a")
    in_pod.faults.append(Fault(applied=applied, reset=reset))
    resize.enqueue("b")
    assert len(in_pod.posts()) == 3
    assert in_pod.names() == [f"resize-{POD_UID[:8]}-0", f"resize-{POD_UID[:8]}-1"]
    assert totals(attempt) == (2, None)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, reason="InternalError"),
        Fault(status=500, applied=True),
        Fault(status=503, reason="ServiceUnavailable"),
        Fault(status=504, reason="Timeout", applied=True),
        Fault(status=408),
        Fault(status=409, reason="Conflict", message="Operation cannot be fulfilled on resourcequotas"),
        Fault(applied=True, truncated=True),
    ],
)
def test_an_answer_that_settles_nothing_is_asked_for_again(attempt: Attempt, in_pod: ApiServer, fault: Fault) -> None:
    in_pod.faults.append(fault)
    resize.enqueue("a")
    assert len(in_pod.posts()) == 2
    assert in_pod.names() == [f"resize-{POD_UID[:8]}-0"]
    assert totals(attempt) == (1, None)


def test_a_429_is_not_repeated_before_its_retry_after(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 10.0)
    waited: list[float] = []
    monkeypatch.setattr("questline.client.time.sleep", waited.append)
    in_pod.faults.append(Fault(status=429, headers={"Retry-After": "3"}))
    in_pod.faults.append(Fault(status=429, headers={"Retry-After": "0"}))
    resize.enqueue("a")
    assert waited[0] == 3.0
    assert 0 < waited[1] < 1


def test_a_silent_server_is_asked_again(attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 5.0)
    monkeypatch.setattr(
        "questline.client.persist.__kwdefaults__", {"content_type": "application/json", "request_seconds": 0.2}
    )
    release = threading.Event()
    in_pod.faults.append(Fault(applied=True, release=release))
    resize.enqueue("a")
    release.set()
    assert len(in_pod.posts()) == 2
    assert totals(attempt) == (1, None)


def test_a_refusal_is_told_in_the_api_servers_own_words(attempt: Attempt, in_pod: ApiServer) -> None:
    words = "ValidatingAdmissionPolicy 'questline-power' denied request:\n image needs the right to create pods"
    in_pod.reject = lambda _job: (403, "Forbidden", words)
    with pytest.raises(EnqueueRefused) as refusal:
        resize.options(image="busybox").enqueue("a")
    assert (refusal.value.status, refusal.value.reason) == (403, "Forbidden")
    assert " ".join(words.split()) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(in_pod.posts()) == 1
    in_pod.reject = lambda _job: None
    assert resize.enqueue("a").name.endswith("-0")
    assert totals(attempt) == (1, None)


def test_a_cluster_without_questline_is_named_as_such(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.append(
        Fault(status=404, reason="NotFound", message="the server could not find the requested resource")
    )
    with pytest.raises(EnqueueRefused, match="is Questline installed on this cluster"):
        resize.enqueue("a")


def test_an_enqueue_whose_fate_stays_unknown_ends_the_attempt(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.extend(Fault(applied=True) for _ in range(50))
    with pytest.raises(EnqueueFateUnknown, match=r"whether child resize-0a1b2c3d-0 .* was created is unknown"):
        resize.enqueue("a")
    assert not issubclass(EnqueueFateUnknown, Exception)
    in_pod.faults.clear()
    with pytest.raises(EnqueueFateUnknown):
        resize.enqueue("b")
    assert totals(attempt)[1] is not None


def test_a_server_error_leaves_the_fate_unknown_too(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.append(Fault(status=500, applied=True))
    in_pod.faults.extend(Fault(status=429) for _ in range(50))
    with pytest.raises(EnqueueFateUnknown, match="at last: 429"):
        resize.enqueue("a")


def test_an_enqueue_that_is_interrupted_leaves_the_fate_unknown(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(enqueue, "persist", interrupt)
    with pytest.raises(KeyboardInterrupt):
        resize.enqueue("a")
    assert totals(attempt)[1] == (
        "the enqueue of child resize-0a1b2c3d-0 of tests.unit.sdk.apps.shop:resize was interrupted"
    )


def test_an_enqueue_that_surely_made_nothing_leaves_the_attempt_whole(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.extend(Fault(status=429) for _ in range(50))
    with pytest.raises(ApiUnavailable, match=r"child resize-0a1b2c3d-0 .* was not created: tried .* 429"):
        resize.enqueue("a")
    in_pod.faults.clear()
    resize.enqueue("b")
    assert totals(attempt) == (1, None)


def test_a_server_that_cannot_be_reached_made_nothing(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(ApiUnavailable, match=r"cannot connect to 127.0.0.1:1: ConnectionRefusedError"):
        resize.enqueue("a")
    assert totals(attempt) == (0, None)


def test_a_certificate_of_another_authority_is_refused_at_once(
    attempt: Attempt, in_pod: ApiServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 60.0)
    shutil.copy(TLS / "other.crt", in_pod.folder / "ca.crt")
    with pytest.raises(ApiUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        resize.enqueue("a")


def test_a_new_token_is_used_as_soon_as_the_file_holds_it(attempt: Attempt, in_pod: ApiServer) -> None:
    resize.enqueue("a")
    fresh = in_pod.folder / "token.new"
    fresh.write_text("token-2")
    fresh.replace(in_pod.folder / "token")
    in_pod.tokens = {"token-2"}
    resize.enqueue("b")
    assert [seen.headers["authorization"] for seen in in_pod.posts()] == ["Bearer token-1", "Bearer token-2"]


def test_an_expired_token_is_refused_after_a_few_tries(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 10.0)
    in_pod.tokens = {"another"}
    with pytest.raises(EnqueueRefused, match="401 Unauthorized"):
        resize.enqueue("a")


@pytest.mark.parametrize(
    "words",
    [
        'questjobs.questline.dev is forbidden: User "u" cannot create resource "questjobs"',
        'questjobs.questline.dev "resize-0a1b2c3d-0" is forbidden: not yet ready to handle request',
    ],
)
def test_an_api_server_that_has_not_read_its_roles_and_policies_yet_is_asked_again(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 10.0)
    monkeypatch.setattr("questline.client.time.sleep", lambda _seconds: None)
    in_pod.faults += [Fault(status=403, reason="Forbidden", message=words)] * 3
    resize.enqueue("a")
    assert len(in_pod.posts()) == 4
    assert totals(attempt) == (1, None)


def test_an_api_server_that_was_away_is_asked_again_while_it_reads_its_roles(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 10.0)
    monkeypatch.setattr("questline.client.time.sleep", lambda _seconds: None)
    words = 'questjobs.questline.dev is forbidden: User "u" cannot create resource "questjobs"'
    in_pod.faults += [Fault(status=503)] * 7 + [Fault(status=403, reason="Forbidden", message=words)] * 3
    resize.enqueue("a")
    assert len(in_pod.posts()) == 11
    assert totals(attempt) == (1, None)


def test_a_refusal_after_a_lost_answer_leaves_the_childs_fate_unknown(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults += [Fault(applied=True), Fault(status=403, reason="Forbidden", message="not any more")]
    with pytest.raises(EnqueueFateUnknown, match=r"resize-0a1b2c3d-0 of .* is unknown: 403 not any more"):
        resize.enqueue("a")
    with pytest.raises(EnqueueFateUnknown):
        resize.enqueue("b")
    assert in_pod.names() == ["resize-0a1b2c3d-0"]


def test_a_right_that_nobody_has_granted_is_refused_after_a_few_tries(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 10.0)
    monkeypatch.setattr("questline.client.time.sleep", lambda _seconds: None)
    words = 'questjobs.questline.dev is forbidden: User "u" cannot create resource "questjobs"'
    in_pod.reject = lambda _job: (403, "Forbidden", words)
    with pytest.raises(EnqueueRefused, match="cannot create resource"):
        resize.enqueue("a")
    assert len(in_pod.posts()) == 6


def test_a_pod_without_a_token_is_told_what_its_worker_lacks(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_pod.folder / "token").unlink()
    with pytest.raises(EnqueueRefused, match=r"its pod has no token\. Set serviceAccountName in Worker default"):
        resize.enqueue("a")


def test_the_pods_uid_is_read_from_the_token_where_the_environment_lacks_it(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = json.dumps({"kubernetes.io": {"pod": {"name": "p", "uid": "feedbeef-1111"}}}).encode()
    (in_pod.folder / "token").write_text(f"head.{urlsafe_b64encode(claims).decode().rstrip('=')}.signature")
    monkeypatch.delenv("QUESTLINE_POD_UID")
    assert resize.enqueue("a").name == "resize-feedbeef-0"


@pytest.mark.parametrize("unique", [False, True], ids=["by number", "by key"])
def test_a_name_that_a_pod_of_a_like_uid_has_taken_costs_no_child(
    attempt: Attempt, in_pod: ApiServer, unique: bool
) -> None:
    def enqueue() -> str:
        return (send_email.enqueue("m", "a") if unique else resize.enqueue("a")).name

    taken: set[str] = set()

    def refuse_the_first(job: dict[str, Any]) -> tuple[int, str, str] | None:
        if taken:
            return None
        taken.add(job["metadata"]["name"])
        return 409, "AlreadyExists", "already exists"

    in_pod.reject = refuse_the_first
    name = enqueue()
    (other,) = taken
    assert re.fullmatch(rf"{other}x[0-9a-f]{{{5 if unique else 8}}}", name)
    assert name.startswith(f"{other}x{POD_UID.replace('-', '')[8:13]}")
    assert in_pod.names() == [name]
    assert totals(attempt) == (1, None)
    if unique:
        assert enqueue() == name
        assert totals(attempt) == (1, None)


# Unique children


def test_a_key_makes_one_child_of_an_attempt_however_often_it_is_enqueued(attempt: Attempt, in_pod: ApiServer) -> None:
    first, again = send_email.enqueue("m", "a"), send_email.enqueue("m", "a")
    other = send_email.enqueue("m", "b")
    assert first.name == again.name != other.name
    assert re.fullmatch(r"send-email-0a1b2c3d-[0-9a-f]{10}", first.name)
    assert len(in_pod.posts()) == 2
    assert [job["spec"]["parent"]["index"] for job in in_pod.jobs.values()] == [0, 1]
    assert totals(attempt) == (2, None)


def test_a_unique_childs_name_is_the_digest_of_task_and_key(attempt: Attempt, in_pod: ApiServer) -> None:
    digest = hashlib.sha256(b"tests.unit.sdk.apps.shop:send_email\0m:a").hexdigest()[:10]
    assert send_email.enqueue("m", "a").name == f"send-email-0a1b2c3d-{digest}"


def test_equal_args_are_one_child_of_a_task_unique_by_all_args(attempt: Attempt, in_pod: ApiServer) -> None:
    names = {once.enqueue(1.0, text="x").name, once.enqueue(number=1, text="x").name, once.enqueue(2).name}
    assert len(names) == 2


def test_a_unique_child_that_was_refused_may_be_tried_again(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.append(Fault(status=422, reason="Invalid", message="no"))
    with pytest.raises(EnqueueRefused):
        send_email.enqueue("m", "a")
    send_email.enqueue("m", "a")
    assert totals(attempt) == (1, None)


def test_two_threads_that_enqueue_one_key_make_one_child(attempt: Attempt, in_pod: ApiServer) -> None:
    handles = enqueue_many(send_email.call("m", str(n % 3)) for n in range(60))
    assert len({handle.name for handle in handles}) == 3
    assert len(in_pod.posts()) == 3
    assert totals(attempt)[1] is None


def test_two_keys_of_one_digest_are_two_children(
    attempt: Attempt, in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weak:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def hexdigest(self) -> str:
            return "0123456789" + f"{sum(self.data):054x}"[-54:][::-1]

    monkeypatch.setattr("questline.enqueue.hashlib.sha256", Weak)
    names = {send_email.enqueue("m", "a").name, send_email.enqueue("m", "b").name}
    assert len(names) == 2
    assert len(in_pod.jobs) == 2


# Many


def test_many_children_are_enqueued_over_a_few_connections_in_their_order(attempt: Attempt, in_pod: ApiServer) -> None:
    handles = fan_out(resize.call(str(n)) for n in range(300))
    assert [handle.name.rpartition("-")[2] for handle in handles] == [str(n) for n in range(300)]
    by_index = {job["spec"]["parent"]["index"]: job["spec"]["args"]["picture"] for job in in_pod.jobs.values()}
    assert by_index == {n: str(n) for n in range(300)}
    assert 1 < in_pod.connections <= 8
    assert totals(attempt) == (300, None)
    assert len(handles) == 300
    assert handles[-1].name == handles[299].name == handles[299:][0].name


def test_bad_args_of_one_call_create_none(attempt: Attempt, in_pod: ApiServer) -> None:
    with pytest.raises(ArgsInvalid):
        fan_out(resize.call(picture) for picture in ("a", "b", 3))  # type: ignore[arg-type]
    assert in_pod.requests == []


def test_a_refusal_among_many_stops_the_rest(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.reject = lambda job: (403, "Forbidden", "no") if job["spec"]["args"]["picture"] == "20" else None
    with pytest.raises(EnqueueRefused) as refusal:
        enqueue_many(resize.call(str(n)) for n in range(500))
    assert len(in_pod.posts()) < 100
    (note,) = refusal.value.__notes__
    assert re.fullmatch(r"\d+ of 500 Jobs were enqueued before", note)
    assert totals(attempt)[1] is None
    resize.enqueue("again")
    assert in_pod.posts()[-1].body["spec"]["parent"]["index"] == 20


def test_lost_answers_among_many_lose_no_child_and_double_none(attempt: Attempt, in_pod: ApiServer) -> None:
    for n in range(40):
        in_pod.faults.append(Fault(applied=n % 3 == 0, reset=n % 2 == 0) if n % 4 == 0 else None)
    fan_out(resize.call(str(n)) for n in range(100))
    assert len(in_pod.jobs) == 100
    assert totals(attempt) == (100, None)


def test_more_than_10_000_children_are_refused_before_the_first(attempt: Attempt, in_pod: ApiServer) -> None:
    with pytest.raises(EnqueueError, match="an attempt may have 10,000 children"):
        fan_out(nothing.call() for _ in range(10_001))
    assert in_pod.requests == []


def test_a_fan_out_of_nothing_is_nothing(attempt: Attempt, in_pod: ApiServer) -> None:
    assert list(fan_out([])) == []
    assert in_pod.requests == []


def test_a_child_whose_fate_is_unknown_among_many_ends_the_attempt(attempt: Attempt, in_pod: ApiServer) -> None:
    in_pod.faults.extend(Fault(applied=True) for _ in range(500))
    with pytest.raises(EnqueueFateUnknown):
        fan_out(resize.call(str(n)) for n in range(20))


# Chains


def test_each_step_of_a_chain_comes_after_the_one_before(attempt: Attempt, in_pod: ApiServer) -> None:
    handles = chain(resize.call("a"), fetch.call("b"), nothing.call())
    specs = [seen.body["spec"] for seen in in_pod.posts()]
    assert [spec.get("after") for spec in specs] == [None, [{"job": handles[0].name}], [{"job": handles[1].name}]]
    assert [spec["parent"]["index"] for spec in specs] == [0, 1, 2]
    assert all("staged" not in spec["parent"] for spec in specs)


# What an attempt is not for


def test_a_child_cannot_be_waited_for_in_its_parents_attempt(attempt: Attempt, in_pod: ApiServer) -> None:
    handle = resize.enqueue("a")
    with pytest.raises(NotInAttempt, match="runs when the attempt has succeeded, so it cannot be waited for here"):
        handle.result(timeout=1)


def test_a_child_cannot_be_named(attempt: Attempt, in_pod: ApiServer) -> None:
    with pytest.raises(OptionInvalid, match="name is 'mine': inside an attempt Questline names the Jobs"):
        resize.options(name="mine").enqueue("a")


def test_a_subprocess_of_an_attempt_cannot_enqueue(attempt: Attempt, in_pod: ApiServer) -> None:
    attempt._process = os.getpid() + 1
    with pytest.raises(NotInAttempt, match="this process is not the one that runs the attempt's task"):
        resize.enqueue("a")
    with pytest.raises(NotInAttempt, match="a Job's command"):
        current()
    assert in_pod.requests == []


def test_fan_out_needs_an_attempt_and_says_so(in_pod: ApiServer) -> None:
    with pytest.raises(NotInAttempt, match="no attempt runs here"):
        fan_out([nothing.call()])


async def test_an_async_enqueue_leaves_the_loop_free(attempt: Attempt, in_pod: ApiServer) -> None:
    release = threading.Event()
    in_pod.faults.append(Fault(applied=True, release=release))
    enqueuing = asyncio.create_task(fetch.enqueue_async("u"))
    await asyncio.to_thread(in_pod.arrived.wait, 30)
    assert not enqueuing.done()
    release.set()
    handle: Handle[dict[str, str]] = await enqueuing
    assert handle.name == "fetch-0a1b2c3d-0"
    assert totals(attempt) == (1, None)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("send_email", "send-email"),
        ("_private__", "private"),
        ("CamelCase", "camelcase"),
        ("a_very_long_name_of_a_function", "a-very-long-name-of-a-fu"),
        ("exactly_twenty_four_chr_x", "exactly-twenty-four-chr"),
        ("___", "job"),
    ],
)
def test_a_functions_name_becomes_the_beginning_of_a_dns_label(function: str, expected: str) -> None:
    assert slug(function) == expected
    assert NAME.fullmatch(f"{expected}-{POD_UID[:8]}-0123456789abcdef")
    assert len(f"{expected}-{POD_UID[:8]}-0123456789abcdef") <= 50


@pytest.mark.parametrize("by", ["concurrency_key", "unique"])
def test_a_key_that_is_no_text_in_utf8_is_refused_and_leaves_the_attempt_whole(attempt: Attempt, by: str) -> None:
    broken = "\udcff.jpg"  # os.listdir() has such names
    options: Any = {by: broken if by == "concurrency_key" else lambda picture: broken}
    with pytest.raises(QuestlineError):
        resize.options(**options).enqueue("a")
    attempt._children.close(0.5)
    assert attempt._children.unknown is None
