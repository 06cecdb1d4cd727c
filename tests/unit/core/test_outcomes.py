"""How an attempt ended: the report first, then the termination message, then what the pod shows."""

import json
from dataclasses import replace
from typing import Any

import pytest

from questline_operator.core.outcomes import Outcome, outcome_of, start_timeout
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from questline_operator.core.states import OutcomeKind, Reason
from tests.unit.core.builders import T0, a_job, a_pod, a_report, pod_uid

TASK = a_job(state="Running", attempt=2)
COMMAND = a_job(state="Running", attempt=2, spec={"command": ["true"]})


def envelope(outcome: str = "Succeeded", attempt: int = 2, **fields: Any) -> str:
    return json.dumps({"v": 1, "attempt": attempt, "outcome": outcome, **fields})


def outcome(job: Job, pod: Pod | None) -> Outcome:
    found = outcome_of(job, pod)
    assert found is not None
    return found


def reported(**fields: Any) -> Job:
    return a_job(state="Running", attempt=2, report=a_report(TASK, **fields))


# Which of the three speaks


def test_the_report_goes_before_the_termination_message_and_that_before_the_exit_code() -> None:
    says_failed = a_pod(TASK, exit_code=0, message=envelope("Failed", reason="TaskError"))

    assert outcome(reported(result=7), says_failed).kind is OutcomeKind.SUCCEEDED
    assert outcome(TASK, says_failed).kind is OutcomeKind.FAILED
    assert outcome(TASK, a_pod(TASK, exit_code=0)).reason == Reason.NO_OUTCOME


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(a_pod(TASK, running=1), id="whose pod runs on"),
        pytest.param(a_pod(TASK, exit_code=137, end_reason="OOMKilled"), id="whose pod was killed after it"),
        pytest.param(a_pod(TASK, running=1, disruption="EvictionByEvictionAPI", deleting=True), id="being evicted"),
        pytest.param(a_pod(TASK, running=1, gone=True), id="whose pod is gone"),
        pytest.param(None, id="whose pod nobody has seen"),
    ],
)
def test_a_report_is_the_outcome_of_an_attempt(pod: Pod | None) -> None:
    found = outcome(reported(result={"n": None}), pod)

    assert (found.kind, found.result, found.reported) == (OutcomeKind.SUCCEEDED, {"n": None}, True)


def test_a_report_of_another_pod_says_nothing() -> None:
    job = a_job(state="Running", attempt=2, report=a_report(TASK) | {"podUID": pod_uid(TASK, 1)})

    assert outcome_of(job, a_pod(TASK, running=1)) is None


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(None, id="whose pod nobody has seen"),
        pytest.param(a_pod(TASK), id="whose pod is pending"),
        pytest.param(a_pod(TASK, running=1), id="that runs"),
        pytest.param(a_pod(TASK, running=1, deleting=True), id="whose pod has its grace"),
        pytest.param(a_pod(TASK, waiting="ImagePullBackOff"), id="whose image may still come"),
        pytest.param(a_pod(TASK, running=1, phase="Failed"), id="on a lost node, which may run it still"),
    ],
)
def test_an_attempt_has_no_outcome_while_its_pod_may_run(pod: Pod | None) -> None:
    assert outcome_of(TASK, pod) is None


# What an envelope says


def test_everything_that_an_envelope_says_is_taken_over() -> None:
    error = {"type": "ValueError", "message": "no", "traceback": "line 1\nline 2"}
    text = envelope("Retry", reason="TaskError", message="again", error=error, delaySeconds=2.5, children={"total": 3})

    found = outcome(TASK, a_pod(TASK, exit_code=75, message=text))

    assert found.kind is OutcomeKind.RETRY
    assert (found.reason, found.message, found.error) == ("TaskError", "again", error)
    assert (found.delay_seconds, found.children["total"], found.exit_code) == (2.5, 3, 75)
    assert not found.reported


@pytest.mark.parametrize(
    ("word", "kind", "reason"),
    [
        ("Succeeded", OutcomeKind.SUCCEEDED, ""),
        ("Failed", OutcomeKind.FAILED, Reason.TASK_ERROR),
        ("Fatal", OutcomeKind.FATAL, Reason.FAIL),
        ("Retry", OutcomeKind.RETRY, Reason.TASK_ERROR),
        ("Snoozed", OutcomeKind.SNOOZED, ""),
        ("Canceled", OutcomeKind.CANCELED, Reason.RAISED),
    ],
)
def test_an_outcome_without_a_reason_gets_its_usual_one(word: str, kind: OutcomeKind, reason: str) -> None:
    found = outcome(TASK, a_pod(TASK, exit_code=1, message=envelope(word)))

    assert (found.kind, found.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("word", "reason", "exit_code"),
    [
        ("Succeeded", None, 0),
        ("Failed", "TaskError", 1),
        ("Fatal", "Fail", 1),
        ("Fatal", "TaskNotFound", 64),
        ("Fatal", "ArgsInvalid", 64),
        ("Retry", None, 75),
        ("Snoozed", None, 75),
    ],
)
def test_a_report_tells_the_exit_code_that_the_container_is_about_to_have(
    word: str, reason: str | None, exit_code: int
) -> None:
    """The outcome is written while the container still ends, and is never written again."""
    fields = {} if reason is None else {"reason": reason}

    assert outcome(reported(outcome=word, **fields), a_pod(TASK, running=1)).exit_code == exit_code
    assert outcome(reported(outcome=word, **fields), a_pod(TASK, exit_code=137)).exit_code == 137


@pytest.mark.parametrize("reason", ["TaskNotFound", "ArgsInvalid", "ResultInvalid", "Fail"])
def test_a_fatal_outcome_keeps_its_reason(reason: str) -> None:
    assert outcome(TASK, a_pod(TASK, exit_code=64, message=envelope("Fatal", reason=reason))).reason == reason


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("hello", id="text"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param("{}", id="an empty object"),
        pytest.param(envelope(attempt=1), id="of another attempt"),
        pytest.param(envelope() + "x", id="with a tail"),
        pytest.param(envelope()[:-1], id="cut short"),
        pytest.param(envelope("Won"), id="of an unknown outcome"),
        pytest.param(envelope().replace('"v": 1', '"v": 2'), id="of another version"),
        pytest.param('{"v":1,"attempt":2,"outcome":["Succeeded"]}', id="whose outcome is a list"),
        pytest.param('{"v":1,"attempt":2,"outcome":{}}', id="whose outcome is an object"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","result":NaN}', id="with NaN"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","result":-Infinity}', id="with an infinity"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","result":1e999}', id="with 1e999"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","result":9223372036854775808}', id="with 2**63"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","result":%s}' % ("9" * 3_000), id="with 3,000 digits"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","result":"\\ud800"}', id="with a lone surrogate"),
        pytest.param('{"v":1,"attempt":2,"outcome":"Succeeded","\\udfff":1}', id="with a lone surrogate in a key"),
    ],
)
def test_what_is_no_envelope_leaves_the_attempt_without_an_outcome(text: str) -> None:
    found = outcome(TASK, a_pod(TASK, exit_code=0, message=text))

    assert (found.kind, found.reason) == (OutcomeKind.FAILED, Reason.NO_OUTCOME)
    assert found.message == "exited with code 0 without an outcome"


@pytest.mark.parametrize("levels", [255, 900, 990, 1_000, 1_020, 2_000])
@pytest.mark.parametrize("field", ["result", "message", "error", "children", "delaySeconds"])
def test_no_depth_of_nesting_ends_the_operator(levels: int, field: str) -> None:
    """Between what one parser takes and another refuses lies a depth that raises in the middle of a decision."""
    deep = "[" * levels + "]" * levels
    text = f'{{"v":1,"attempt":2,"outcome":"Succeeded","{field}":{deep}}}'

    assert outcome(TASK, a_pod(TASK, exit_code=0, message=text)).reason == Reason.NO_OUTCOME
    assert outcome(COMMAND, a_pod(COMMAND, exit_code=0, message=text)).result == text


@pytest.mark.parametrize("levels", [255, 900, 990, 1_000, 1_024])
def test_a_report_whose_result_is_nested_too_deeply_is_a_result_that_is_not_valid(levels: int) -> None:
    """No schema bounds the depth of a result, and the operator could not write it into the status again."""
    result: Any = 1
    for _ in range(levels):
        result = [result]

    found = outcome(reported(result=result), a_pod(TASK, running=1))

    assert (found.kind, found.reason, found.result) == (OutcomeKind.FATAL, Reason.RESULT_INVALID, None)


def test_a_result_over_the_limit_is_fatal_and_says_what_to_do() -> None:
    found = outcome(reported(result="x" * 3_071), a_pod(TASK, running=1))

    assert (found.kind, found.reason, found.result) == (OutcomeKind.FATAL, Reason.RESULT_INVALID, None)
    assert "store it and return its id" in found.message
    assert outcome(reported(result="x" * 3_070), a_pod(TASK, running=1)).kind is OutcomeKind.SUCCEEDED


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        pytest.param({"reason": "two words"}, ("reason", "TaskError"), id="a reason of two words"),
        pytest.param({"reason": "x" * 65}, ("reason", "TaskError"), id="a reason without end"),
        pytest.param({"reason": 7}, ("reason", "TaskError"), id="a reason that is a number"),
        pytest.param({"message": {"a": 1}}, ("message", "{'a': 1}"), id="a message that is an object"),
        pytest.param({"message": "a\n b\t c"}, ("message", "a b c"), id="a message of several lines"),
        pytest.param({"error": "boom"}, ("error", None), id="an error that is a text"),
        pytest.param({"error": {"type": 3, "evil": 1}}, ("error", {"type": "3"}), id="an error with another field"),
        pytest.param({"delaySeconds": "9"}, ("delay_seconds", None), id="a delay that is a text"),
        pytest.param({"delaySeconds": True}, ("delay_seconds", None), id="a delay that is true"),
        pytest.param({"delaySeconds": -5}, ("delay_seconds", 0.0), id="a delay into the past"),
        pytest.param({"delaySeconds": 1e300}, ("delay_seconds", 366 * 86_400), id="a delay beyond any calendar"),
        pytest.param({"children": [1]}, ("children", {"total": 0, "groups": {}}), id="children that are a list"),
        pytest.param(
            {"children": {"total": -1}}, ("children", {"total": 0, "groups": {}}), id="fewer than no children"
        ),
        pytest.param(
            {"children": {"total": 10**9}}, ("children", {"total": 10_000, "groups": {}}), id="too many children"
        ),
        pytest.param({"children": {"total": 1.5}}, ("children", {"total": 0, "groups": {}}), id="half a child"),
        pytest.param(
            {"children": {"total": True}}, ("children", {"total": 0, "groups": {}}), id="a total that is true"
        ),
        pytest.param(
            {"children": {"total": 1, "groups": ["g"]}},
            ("children", {"total": 1, "groups": {}}),
            id="a list of groups",
        ),
        pytest.param(
            {"children": {"total": 3, "groups": {"g": 2, "h": "x", "i": -1}}},
            ("children", {"total": 3, "groups": {"g": 2, "h": 0, "i": 0}}),
            id="groups of no number",
        ),
        pytest.param(
            {"children": {"total": 1, "groups": {"G": 1, "x" * 41: 1, "": 1, "ok-1": 1}}},
            ("children", {"total": 1, "groups": {"ok-1": 1}}),
            id="groups of no name",
        ),
        pytest.param(
            {"children": {"total": 1, "groups": {f"g{n}": n for n in range(17)}}},
            ("children", {"total": 1, "groups": {f"g{n}": n for n in range(16)}}),
            id="too many groups",
        ),
    ],
)
def test_a_field_of_the_wrong_form_is_held_to_its_own(fields: dict[str, Any], read: tuple[str, Any]) -> None:
    found = outcome(TASK, a_pod(TASK, exit_code=1, message=envelope("Failed", **fields)))

    name, value = read
    got = getattr(found, name)
    assert got == value
    assert json.dumps(got) == json.dumps(value), "true is 1 to Python, and not to a schema"


def test_texts_are_cut_to_their_bytes_and_never_within_a_character() -> None:
    error = {"type": "é" * 200, "message": "é" * 2_000, "traceback": "\n€" * 2_000}
    found = outcome(TASK, a_pod(TASK, exit_code=1, message=envelope("Failed", message="€" * 600, error=error)))

    assert found.error is not None
    limits = {"type": 128, "message": 1_024, "traceback": 1_536}
    for name, limit in limits.items():
        assert limit - 6 <= len(found.error[name].encode()) <= limit
    assert 506 <= len(found.message.encode()) <= 512
    assert found.message.endswith("€…")


def test_an_envelope_cannot_say_that_it_was_disrupted() -> None:
    """It would run for ever and count no failure."""
    found = outcome(TASK, a_pod(TASK, exit_code=1, message=envelope("Disrupted")))

    assert (found.kind, found.reason) == (OutcomeKind.FAILED, Reason.NO_OUTCOME)


# What the pod shows: failures


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        pytest.param(a_pod(TASK, exit_code=0), "NoOutcome", "exited with code 0 without", id="exit 0 and no outcome"),
        pytest.param(a_pod(TASK, exit_code=3), "NoOutcome", "exited with code 3 without", id="exit 3 and no outcome"),
        pytest.param(a_pod(TASK, exit_code=139), "NoOutcome", "SIGSEGV (exit code 139)", id="a segfault"),
        pytest.param(a_pod(TASK, exit_code=137), "NoOutcome", "SIGKILL", id="killed"),
        pytest.param(a_pod(TASK, exit_code=255), "NoOutcome", "exited with code 255", id="255 names no signal"),
        pytest.param(a_pod(TASK, exit_code=160), "NoOutcome", "exited with code 160", id="nor does 160"),
        pytest.param(a_pod(TASK, exit_code=1, signal=15), "NoOutcome", "SIGTERM", id="a signal that the runtime names"),
        pytest.param(
            a_pod(TASK, exit_code=137, end_reason="OOMKilled"), "OOMKilled", "limits.memory", id="out of memory"
        ),
        pytest.param(
            a_pod(TASK, exit_code=137, end_reason="OOMKilled", deleting=True),
            "OOMKilled",
            "limits.memory",
            id="out of memory while it was being deleted",
        ),
        pytest.param(
            a_pod(TASK, exit_code=137, reason="DeadlineExceeded", finished=61),
            "Timeout",
            "it ran longer than its timeoutSeconds",
            id="longer than timeoutSeconds",
        ),
        pytest.param(
            a_pod(TASK, phase="Failed", reason="DeadlineExceeded"),
            "Timeout",
            "it ran longer than its timeoutSeconds",
            id="longer than timeoutSeconds before it began",
        ),
        pytest.param(
            a_pod(TASK, exit_code=128, end_reason="StartError", started=None, message='exec: "python": not found'),
            "NonZeroExit",
            'could not start: exec: "python": not found',
            id="nothing to execute, and no time of a start",
        ),
        pytest.param(
            a_pod(TASK, exit_code=128, end_reason="ContainerCannotRun", started=-1_800_000_000, message="no such file"),
            "NonZeroExit",
            "could not start: no such file",
            id="nothing to execute, started in 1970 as kubelets say",
        ),
        pytest.param(
            a_pod(TASK, waiting="InvalidImageName", waiting_message='couldn\'t parse "X:"'),
            "StartTimeout",
            "couldn't parse",
            id="an image whose name is none",
        ),
    ],
)
def test_a_task_without_an_envelope_fails_for_what_its_pod_shows(pod: Pod, reason: str, words: str) -> None:
    found = outcome(TASK, pod)

    assert (found.kind, found.reason) == (OutcomeKind.FAILED, reason)
    assert words in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(
    "message",
    [
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
        'Container worker exceeded its local ephemeral storage limit "1Mi". ',
        'Usage of EmptyDir volume "tmp" exceeds the limit "1Mi". ',
    ],
)
def test_an_eviction_for_the_pods_own_storage_is_a_failure(message: str) -> None:
    pod = a_pod(TASK, exit_code=137, reason="Evicted", status_message=message)

    found = outcome(TASK, pod)

    assert (found.kind, found.reason, found.message) == (OutcomeKind.FAILED, Reason.NO_OUTCOME, message.strip())


def test_an_init_container_that_fails_is_a_failure_and_no_refusal_of_the_node() -> None:
    """As a disruption it would run for ever and count no failure."""
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": "no database"}}
    statuses = [{"name": "ok", "state": {"terminated": {"exitCode": 0}}}, {"name": "migrate", "state": ended}]
    pod = a_pod(TASK, phase="Failed", waiting="PodInitializing", extra_status={"initContainerStatuses": statuses})

    found = outcome(TASK, pod)

    assert (found.kind, found.reason) == (OutcomeKind.FAILED, Reason.NO_OUTCOME)
    assert found.message == "init container migrate failed with exit code 2: no database"
    assert outcome(COMMAND, pod).reason == Reason.NON_ZERO_EXIT


def test_a_start_that_takes_too_long_says_what_held_it_up() -> None:
    unschedulable = a_pod(TASK, unschedulable="0/3 nodes are available: 3 Insufficient cpu.")
    pulling = a_pod(TASK, waiting="ImagePullBackOff", waiting_message='Back-off pulling image "x"')

    assert start_timeout(unschedulable, 300).reason == Reason.START_TIMEOUT
    assert start_timeout(unschedulable, 300).message == (
        "not started within 300 s: 0/3 nodes are available: 3 Insufficient cpu."
    )
    assert "ImagePullBackOff: Back-off pulling" in start_timeout(pulling, 10).message
    assert "the pod was not started" in start_timeout(a_pod(TASK), 10).message


# What the pod shows: disruptions


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        pytest.param(
            a_pod(TASK, exit_code=143, disruption="EvictionByEvictionAPI", deleting=True),
            "EvictionByEvictionAPI",
            id="evicted by the API",
        ),
        pytest.param(
            a_pod(TASK, exit_code=137, disruption="PreemptionByScheduler"), "PreemptionByScheduler", id="preempted"
        ),
        pytest.param(
            a_pod(TASK, exit_code=137, reason="Evicted", disruption="TerminationByKubelet", status_message="memory"),
            "TerminationByKubelet",
            id="evicted by a node short of memory",
        ),
        pytest.param(
            a_pod(TASK, exit_code=137, reason="Evicted", status_message="The node was low on resource: memory."),
            "low on resource",
            id="evicted by a node that sets no condition",
        ),
        pytest.param(a_pod(TASK, exit_code=137, reason="Terminated"), "Terminated", id="a node's shutdown"),
        pytest.param(
            a_pod(TASK, phase="Failed", reason="OutOfcpu", status_message="Node didn't have enough resource"),
            "OutOfcpu Node didn't",
            id="refused by the kubelet's admission",
        ),
        pytest.param(
            a_pod(TASK, phase="Failed", reason="UnexpectedAdmissionError"),
            "UnexpectedAdmissionError",
            id="refused by a device plugin",
        ),
        pytest.param(a_pod(TASK, exit_code=143, deleting=True), "was deleted", id="deleted from outside, SIGTERM"),
        pytest.param(a_pod(TASK, exit_code=0, deleting=True), "was deleted", id="deleted, and it left without a word"),
        pytest.param(a_pod(TASK, running=1, gone=True), "was deleted", id="gone while it ran"),
        pytest.param(a_pod(TASK, gone=True), "was deleted", id="gone before it was scheduled"),
        pytest.param(
            a_pod(TASK, exit_code=255, end_reason="Unknown"), "lost", id="a container that its restarted node lost"
        ),
        pytest.param(
            a_pod(TASK, exit_code=137, end_reason="ContainerStatusUnknown"),
            "lost",
            id="a container that the kubelet could not find",
        ),
    ],
)
def test_a_pod_taken_away_is_a_disruption(pod: Pod, words: str) -> None:
    for job in (TASK, COMMAND):
        found = outcome(job, pod) if not (job is COMMAND and pod.exit_code == 0) else outcome(TASK, pod)
        assert found.kind is OutcomeKind.DISRUPTED
        assert words in found.message


def test_a_pod_gone_after_it_had_ended_keeps_its_end() -> None:
    assert outcome(TASK, a_pod(TASK, exit_code=3, gone=True)).reason == Reason.NO_OUTCOME
    assert outcome(TASK, a_pod(TASK, exit_code=0, message=envelope(), gone=True)).kind is OutcomeKind.SUCCEEDED


# Commands


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("", None, id="nothing is null"),
        pytest.param(" \n", None, id="so are blanks"),
        pytest.param('{"a": [1, null]}\n', {"a": [1, None]}, id="JSON is read"),
        pytest.param("3", 3, id="so is a number"),
        pytest.param("null", None, id="so is null"),
        pytest.param("done, 3 files\n", "done, 3 files\n", id="any other text stays"),
        pytest.param("NaN", "NaN", id="NaN is text"),
        pytest.param("1e999", "1e999", id="so is 1e999"),
        pytest.param("18446744073709551616", "18446744073709551616", id="so is an integer beyond 64 bits"),
        pytest.param('"\\ud800"', '"\\ud800"', id="so is a lone surrogate"),
        pytest.param(envelope(), envelope(), id="an envelope of its own is text"),
        pytest.param(envelope("Canceled", attempt=9), envelope("Canceled", attempt=9), id="so is any other"),
    ],
)
def test_a_commands_termination_message_is_its_result(text: str, result: Any) -> None:
    found = outcome(COMMAND, a_pod(COMMAND, exit_code=0, message=text))

    assert (found.kind, found.result, found.exit_code) == (OutcomeKind.SUCCEEDED, result, 0)


@pytest.mark.parametrize(
    ("pod", "kind"),
    [
        pytest.param(a_pod(COMMAND, exit_code=0, reason="DeadlineExceeded"), OutcomeKind.FAILED, id="its time-out"),
        pytest.param(a_pod(COMMAND, exit_code=0, reason="Evicted"), OutcomeKind.DISRUPTED, id="an eviction"),
        pytest.param(a_pod(COMMAND, exit_code=0, reason="Terminated"), OutcomeKind.DISRUPTED, id="its node's end"),
        pytest.param(
            a_pod(COMMAND, exit_code=0, disruption="TerminationByKubelet"), OutcomeKind.DISRUPTED, id="the kubelet"
        ),
        pytest.param(a_pod(COMMAND, exit_code=0, deleting=True), OutcomeKind.DISRUPTED, id="its pod's deletion"),
    ],
)
def test_a_command_that_was_stopped_and_exits_with_0_has_finished_nothing(pod: Pod, kind: OutcomeKind) -> None:
    """Many a program takes SIGTERM for a request to leave, and leaves with 0."""
    found = outcome(COMMAND, pod)

    assert (found.kind, found.exit_code) == (kind, 0)


def test_a_command_that_ended_before_its_pod_was_to_go_has_succeeded() -> None:
    pod = replace(a_pod(COMMAND, exit_code=0, deleting=True), deletion_requested_at=T0 + 21)

    assert outcome(COMMAND, pod).kind is OutcomeKind.SUCCEEDED


def test_a_command_reports_no_children_which_is_not_none() -> None:
    assert outcome(COMMAND, a_pod(COMMAND, exit_code=0)).children == {}


def test_a_commands_exit_code_decides_whatever_it_prints() -> None:
    found = outcome(COMMAND, a_pod(COMMAND, exit_code=3, message=envelope() + "\n"))

    assert (found.kind, found.reason, found.exit_code) == (OutcomeKind.FAILED, Reason.NON_ZERO_EXIT, 3)
    assert found.message.startswith('exited with code 3: {"v": 1')


def test_a_command_that_exits_0_succeeds_with_as_long_a_result_as_the_kubelet_kept() -> None:
    """Its exit code decides; a termination message may have 4,096 bytes."""
    found = outcome(COMMAND, a_pod(COMMAND, exit_code=0, message="x" * 4_096))

    assert (found.kind, found.result) == (OutcomeKind.SUCCEEDED, "x" * 4_096)


def test_a_pod_that_failed_before_its_container_says_so() -> None:
    found = outcome(TASK, a_pod(TASK, phase="Failed"))

    assert (found.kind, found.message) == (
        OutcomeKind.FAILED,
        "ended before its container had started, without an outcome",
    )


def test_a_timeout_names_its_limit() -> None:
    pod = replace(a_pod(TASK, exit_code=137, reason="DeadlineExceeded"), deadline_seconds=90)
    outcome = outcome_of(TASK, pod)
    assert outcome is not None
    assert outcome.message == "stopped: it ran longer than its timeoutSeconds of 90 s"
