"""How an attempt ended: read from its report, else its termination message, else its exit code (design 3)."""

import json
import math
import re
import signal as signals
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from questline_operator.core.canonical import MAX_NESTING, compact_size, nested_too_deeply
from questline_operator.core.lineage import MAX_CHILDREN
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Json
from questline_operator.core.states import OutcomeKind, Reason

MESSAGE_LIMIT = 512
RESULT_LIMIT = 3_072
ERROR_LIMITS = {"type": 128, "message": 1_024, "traceback": 1_536}
MAX_GROUPS = 16
_GROUP_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
MAX_DELAY_SECONDS = 366 * 86_400
"""A longer delay of an envelope counts as this one: it would name a moment beyond any calendar."""

_REASONS = {
    OutcomeKind.FAILED: Reason.TASK_ERROR,
    OutcomeKind.FATAL: Reason.FAIL,
    OutcomeKind.RETRY: Reason.TASK_ERROR,
    OutcomeKind.CANCELED: Reason.RAISED,
}
_EXIT_CODES = {
    OutcomeKind.SUCCEEDED: 0,
    OutcomeKind.CANCELED: 0,
    OutcomeKind.FAILED: 1,
    OutcomeKind.RETRY: 75,
    OutcomeKind.SNOOZED: 75,
    OutcomeKind.FATAL: 1,
}
"""How a task's container ends that has said this, for one whose end is not seen yet (design 3, Outcome)."""
_NOT_RUNNABLE = frozenset({Reason.TASK_NOT_FOUND, Reason.ARGS_INVALID})
_EXIT_NOT_RUNNABLE = 64

_TOLD = frozenset(OutcomeKind) - {OutcomeKind.DISRUPTED}
"""What an envelope may say: a pod that called itself disrupted would run for ever and count no failure."""

_DEADLINE_EXCEEDED = "DeadlineExceeded"
_TAKEN_AWAY = ("Evicted", "NodeShutdown", "Shutdown", "NodeLost", "Terminated", "Preempting")
"""Why the kubelet ended a pod, in its status.reason."""
_BY_KUBELET = "TerminationByKubelet"
"""The reason of the condition DisruptionTarget where it did so to free the node."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. ``result`` is meant only where ``kind`` is Succeeded; ``children`` is {} where nobody has
    counted them, as of a command."""

    kind: OutcomeKind
    reason: str = ""
    message: str = ""
    result: Any = None
    error: Json | None = None
    delay_seconds: float | None = None
    children: Json = field(default_factory=lambda: {"total": 0, "groups": {}})
    exit_code: int | None = None
    reported: bool = False


def outcome_of(job: Job, pod: Pod | None) -> Outcome | None:
    """The outcome of the Job's current attempt, or None while it is open.

    The first accepted report is final; then the termination message; then what the pod shows.
    """
    if job.report is not None and (pod is None or job.report.get("podUID") == pod.uid):
        return _of_envelope(job.report, pod, reported=True)
    if pod is None:
        return None
    if pod.waiting_reason == "InvalidImageName" and not pod.gone:
        return Outcome(OutcomeKind.FAILED, Reason.START_TIMEOUT, f"the image cannot be pulled: {pod.waiting_message}")
    return _of_pod(job, pod) if pod.ended else None


def start_timeout(pod: Pod, seconds: float) -> Outcome:
    """The outcome of an attempt whose container did not start in time, with what held it up."""
    why = pod.waiting_message or pod.waiting_reason or pod.scheduling_message or "the pod was not started"
    if pod.waiting_reason and pod.waiting_reason not in why:
        why = f"{pod.waiting_reason}: {why}"
    return Outcome(OutcomeKind.FAILED, Reason.START_TIMEOUT, _cut(f"not started within {seconds:g} s: {why}"))


def _of_pod(job: Job, pod: Pod) -> Outcome:
    if job.is_task:
        envelope = _envelope(pod.termination_message, job.attempt)
        if envelope is not None:
            return _of_envelope(envelope, pod, reported=False)
    elif pod.exit_code == 0 and not _cut_off(pod):
        return _of_command(pod)
    reason = Reason.NO_OUTCOME if job.is_task else Reason.NON_ZERO_EXIT
    if pod.phase_reason == _DEADLINE_EXCEEDED:
        limit = f" of {pod.deadline_seconds} s" if pod.deadline_seconds else ""
        return _failed(Reason.TIMEOUT, f"stopped: it ran longer than its timeoutSeconds{limit}", pod)
    if pod.end_reason == "OOMKilled":
        return _failed(Reason.OOM_KILLED, "killed: it used more memory than resources.limits.memory", pod)
    if _own_storage(pod):
        return _failed(reason, pod.phase_message, pod)
    disruption = _disruption(pod)
    if disruption:
        return Outcome(OutcomeKind.DISRUPTED, "Disrupted", _cut(disruption), exit_code=pod.exit_code)
    if pod.end_reason in ("StartError", "ContainerCannotRun"):
        return _failed(Reason.NON_ZERO_EXIT, f"the container could not start: {pod.termination_message}", pod)
    if pod.init_failure and not pod.started:
        return _failed(reason, pod.init_failure, pod)
    if job.is_task:
        return _failed(reason, f"{_how_it_ended(pod)} without an outcome", pod)
    tail = pod.termination_message.strip()
    return _failed(reason, _how_it_ended(pod) + (f": {tail}" if tail else ""), pod)


def _failed(reason: Reason, message: str, pod: Pod) -> Outcome:
    return Outcome(OutcomeKind.FAILED, reason, _cut(message), exit_code=pod.exit_code)


def _of_command(pod: Pod) -> Outcome:
    """A command's termination message is its result: JSON if it parses, else text; an envelope is text."""
    text = pod.termination_message
    result: Any = None
    if text.strip():
        try:
            result = _parse(text)
        except ValueError:
            result = text
        if isinstance(result, dict) and "v" in result and "outcome" in result:
            result = text
    return Outcome(OutcomeKind.SUCCEEDED, result=result, children={}, exit_code=0)


def _envelope(text: str, attempt: int) -> Json | None:
    """The termination message as an envelope of that attempt, or None where it is none."""
    try:
        envelope = _parse(text)
    except ValueError:
        return None
    if not isinstance(envelope, dict) or envelope.get("v") != 1 or envelope.get("attempt") != attempt:
        return None
    return envelope if envelope.get("outcome") in list(_TOLD) else None


def _of_envelope(envelope: Json, pod: Pod | None, *, reported: bool) -> Outcome:
    """What the SDK said. Anyone in the pod may have written it, so every field is held to its type and bound:
    a status that the API server refuses could never be written."""
    kind = OutcomeKind(envelope["outcome"])
    result = envelope.get("result")
    told, delay, children = envelope.get("reason"), envelope.get("delaySeconds"), envelope.get("children")
    is_word = isinstance(told, str) and re.fullmatch("[A-Za-z]{1,64}", told)
    reason = str(told) if is_word else str(_REASONS.get(kind, ""))
    total = children.get("total") if isinstance(children, dict) else 0
    outcome = Outcome(
        kind=kind,
        reason=reason,
        message=_cut(str(envelope.get("message", ""))),
        result=result,
        error=_error(envelope.get("error")),
        delay_seconds=min(max(0.0, float(delay)), MAX_DELAY_SECONDS) if _is_number(delay) else None,
        children={"total": _child_count(total), "groups": _groups(children)},
        exit_code=_exit_code(kind, reason, pod),
        reported=reported,
    )
    fault = _fault_of_result(result) if kind is OutcomeKind.SUCCEEDED else ""
    if fault:
        message = f"the result is {fault}: store it and return its id"
        return replace(outcome, kind=OutcomeKind.FATAL, reason=Reason.RESULT_INVALID, message=message, result=None)
    return outcome


def _exit_code(kind: OutcomeKind, reason: str, pod: Pod | None) -> int:
    if pod is not None and pod.exit_code is not None:
        return pod.exit_code
    return _EXIT_NOT_RUNNABLE if reason in _NOT_RUNNABLE else _EXIT_CODES[kind]


def _child_count(value: object) -> int:
    return min(value, MAX_CHILDREN) if type(value) is int and value > 0 else 0


def _groups(children: object) -> dict[str, int]:
    """The groups of children and how many each has, as far as they are well formed."""
    groups = children.get("groups") if isinstance(children, dict) else None
    named = groups.items() if isinstance(groups, dict) else ()
    told = [(name, _child_count(count)) for name, count in named if _GROUP_NAME.fullmatch(str(name))]
    return dict(told[:MAX_GROUPS])


def _fault_of_result(result: Any) -> str:
    """What keeps a result out of the status, or ""."""
    if nested_too_deeply(result):
        return f"nested more than {MAX_NESTING} levels deep"
    return f"over {RESULT_LIMIT} bytes of JSON" if compact_size(result) > RESULT_LIMIT else ""


def _error(value: object) -> Json | None:
    if not isinstance(value, dict):
        return None
    return {
        name: _cut(str(value[name]), limit, one_line=False) for name, limit in ERROR_LIMITS.items() if name in value
    }


def _disruption(pod: Pod) -> str:
    """Who took the pod away, or "" when its end was its own (reasons: KEP-3329 and the kubelet's admission)."""
    if pod.disruption:
        return f"the pod was disrupted: {pod.disruption}"
    if pod.phase == "Failed" and pod.phase_reason and not pod.started and pod.exit_code is None:
        return f"the node did not take the pod: {pod.phase_reason} {pod.phase_message}".strip()
    if pod.end_reason in ("Unknown", "ContainerStatusUnknown"):
        return f"the node lost the container: {pod.end_reason}"
    if pod.phase_reason in _TAKEN_AWAY:
        return f"the pod was taken away: {pod.phase_reason} {pod.phase_message}".strip()
    if pod.deleting or (pod.gone and pod.exit_code is None):
        return "the pod was deleted"
    return ""


def _cut_off(pod: Pod) -> bool:
    """Whether a command was stopped before its own end: many exit with 0 on SIGTERM, and have finished nothing."""
    return (
        pod.phase_reason in (_DEADLINE_EXCEEDED, *_TAKEN_AWAY) or pod.disruption == _BY_KUBELET or pod.ended_by_deletion
    )


def _own_storage(pod: Pod) -> bool:
    """A failure: the kubelet evicts for a pod's own use of storage without the condition DisruptionTarget."""
    words = (
        "ephemeral local storage usage exceeds",
        "exceeded its local ephemeral storage limit",
        "exceeds the limit",
    )
    return pod.phase_reason == "Evicted" and not pod.disruption and any(word in pod.phase_message for word in words)


def _how_it_ended(pod: Pod) -> str:
    """``exited with code 3``, or the signal by its name: exit code 128+n is the shell's and runc's way to say n."""
    if pod.exit_code is None:
        return "ended before its container had started,"
    number = pod.signal or (pod.exit_code or 0) - 128
    if 0 < number < signals.NSIG:
        try:
            return f"killed by {signals.Signals(number).name} (exit code {pod.exit_code})"
        except ValueError:
            pass
    return f"exited with code {pod.exit_code}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _parse(text: str) -> Any:
    """JSON that the API server would keep as it is.

    Raises:
        ValueError: it is no JSON, or holds a number or a character that does not survive (NaN, 1e999, integers beyond
            64 bits, lone surrogates), or is nested too deeply.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    def integer(word: str) -> int:
        number = int(word) if len(word) < 24 else 2**64
        return number if -(2**63) <= number < 2**63 else refuse(word)

    def real(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word)

    try:
        value = json.loads(text, parse_constant=refuse, parse_int=integer, parse_float=real)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if nested_too_deeply(value):
        raise ValueError("nested too deeply")
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _cut(text: str, limit: int = MESSAGE_LIMIT, *, one_line: bool = True) -> str:
    """The text within ``limit`` bytes of UTF-8, on one line unless told otherwise."""
    line = " ".join(text.split()) if one_line else text
    data = line.encode(errors="replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"
