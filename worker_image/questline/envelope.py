"""How an attempt ends, and the envelope that says so (design 3): at most 4,096 bytes, cut field by field.

Each outcome is made here, from what the task returned or raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from questline.codec import CodecError, codec_for
from questline.errors import ApiUnavailable, Cancel, EnqueueFateUnknown, Fail, ResultInvalid, Retry, Snooze
from questline.task import compact, nested_too_deeply

if TYPE_CHECKING:
    from questline.task import Task

ENVELOPE_LIMIT = 4_096
MESSAGE_LIMIT = 512
RESULT_LIMIT = 3_072
TYPE_LIMIT = 128
ERROR_MESSAGE_LIMIT = 1_024
TRACEBACK_LIMIT = 1_536
"""All in bytes of UTF-8; the result's of compact JSON."""

EXIT_SUCCEEDED = 0
EXIT_FAILED = 1
EXIT_RETRY = 75
EXIT_NOT_RUNNABLE = 64


class Ending(NamedTuple):
    """How an attempt ended, without its children. ``result`` is meant only where the outcome is Succeeded."""

    outcome: str
    exit_code: int
    reason: str = ""
    message: str = ""
    result: Any = None
    error: dict[str, str] | None = None
    delay_seconds: float | None = None


def ending_of_result(task: Task[..., Any, Any], value: Any) -> Ending:
    """The task returned."""
    try:
        result = _encode_result(task, value)
    except ResultInvalid as error:
        return fatal("ResultInvalid", error, EXIT_FAILED)
    return Ending("Succeeded", EXIT_SUCCEEDED, result=result)


def ending_of_error(task: Task[..., Any, Any], error: BaseException) -> Ending:
    """The task raised."""
    error = _only_leaf(error)
    match error:
        case Retry():
            return Ending("Retry", EXIT_RETRY, message=_text_of(error), delay_seconds=error.delay_seconds)
        case Snooze():
            return Ending("Snoozed", EXIT_RETRY, message=_text_of(error), delay_seconds=error.delay_seconds)
        case Fail():
            return fatal("Fail", error, EXIT_FAILED, message=_text_of(error))
        case Cancel():
            return Ending("Canceled", EXIT_SUCCEEDED, "Raised", _text_of(error) or "the task canceled its Job")
        case SystemExit():
            code = "" if error.code is None else repr(error.code)
            said = f"the task called sys.exit({code}): a task ends by returning or raising"
            details = _details(error) | {"message": cut(said, ERROR_MESSAGE_LIMIT)}
            return Ending("Failed", EXIT_FAILED, "TaskError", cut_line(f"SystemExit: {said}"), error=details)
        case EnqueueFateUnknown() | ApiUnavailable():
            return failed(error)  # the cluster's trouble, whatever the task's own errors mean
    leaves = list(_leaves_of(error))
    if any(isinstance(one, task.no_retry_on) for one in (error, *leaves)):
        return fatal("Fail", error, EXIT_FAILED)
    retried = isinstance(error, task.retry_on) or all(isinstance(leaf, task.retry_on) for leaf in leaves)
    if task.retry_on and not retried:
        return fatal("Fail", error, EXIT_FAILED)
    return failed(error)


def failed(error: BaseException) -> Ending:
    """A failure that the Job's attempts and backoff go on from."""
    return Ending("Failed", EXIT_FAILED, "TaskError", _one_line(error), error=_details(error))


def fatal(reason: str, error: BaseException, exit_code: int, *, message: str = "") -> Ending:
    """A failure that no further attempt follows."""
    return Ending("Fatal", exit_code, reason, cut_line(message or _one_line(error)), error=_details(error))


def envelope_of(ending: Ending, attempt: int, children: int, groups: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The envelope, within all its limits. Fields without a value are left out, but a result of None is one.

    Args:
        children: the highest accepted index + 1.
        groups: how many of them each group has; names of 40 characters and 16 groups fit beside any result.
    """
    envelope: dict[str, Any] = {"v": 1, "attempt": attempt, "outcome": ending.outcome}
    if ending.reason:
        envelope["reason"] = ending.reason
    if ending.message:
        envelope["message"] = cut_line(ending.message)
    if ending.outcome == "Succeeded":
        envelope["result"] = ending.result
    if ending.error:
        limits = {"type": TYPE_LIMIT, "message": ERROR_MESSAGE_LIMIT}
        envelope["error"] = {name: cut(text, limits[name]) for name, text in ending.error.items() if name in limits}
        if ending.error.get("traceback"):
            envelope["error"]["traceback"] = cut_to_tail(ending.error["traceback"], TRACEBACK_LIMIT)
    if ending.delay_seconds is not None:
        envelope["delaySeconds"] = ending.delay_seconds
    envelope["children"] = {"total": children, "groups": dict(groups or {})}
    _fit(envelope)
    return envelope


def cut(text: str, limit: int) -> str:
    """The beginning of a text within so many bytes of UTF-8, ended by an ellipsis where some is missing."""
    if limit < 3:
        return ""
    data = text[: limit + 1].encode(errors="replace")
    if len(text) <= limit and len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode(errors="ignore") + "…"


def cut_to_tail(text: str, limit: int) -> str:
    """The end of a text within so many bytes of UTF-8."""
    if limit < 3:
        return ""
    data = text[-limit - 1 :].encode(errors="replace")
    if len(text) <= limit and len(data) <= limit:
        return data.decode()
    return "…" + data[3 - limit :].decode(errors="ignore") if limit > 3 else "…"


def cut_line(text: str) -> str:
    """A message on one line, within its limit."""
    return cut(" ".join(text[: 16 * MESSAGE_LIMIT].split()), MESSAGE_LIMIT)


def _fit(envelope: dict[str, Any]) -> None:
    """Within 4,096 bytes of JSON, whose escapes may double a text or more: what helps least goes first."""
    error = envelope.get("error", {})
    shortenings: list[tuple[dict[str, Any], str, Callable[[str, int], str]]] = [
        (error, "traceback", cut_to_tail),
        (error, "message", cut),
        (envelope, "message", cut),
    ]
    for holder, name, shorten in shortenings:
        if name not in holder or len(compact(envelope)) <= ENVELOPE_LIMIT:
            continue
        text, fits, too_long = holder[name], 0, len(holder[name].encode())
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            holder[name] = shorten(text, middle)
            if len(compact(envelope)) <= ENVELOPE_LIMIT:
                fits = middle
            else:
                too_long = middle
        holder[name] = shorten(text, fits)
        if not holder[name]:
            del holder[name]


def _encode_result(task: Task[..., Any, Any], value: Any) -> Any:
    advice = "return texts, numbers, lists and dicts, or store it and return its id"
    try:
        try:
            result = task.signature.result.encode(value)
        except CodecError:
            # The work is done: a result that is JSON is kept, though it is not of the annotated type.
            result = codec_for(Any).encode(value)
        too_deep = nested_too_deeply([result])  # the envelope is a level of its own
        size = len(compact(result))
    except CodecError as error:
        raise ResultInvalid(
            f"the result of {task.name} is no JSON: result{error.path}: {error.problem}; {advice}"
        ) from None
    except (RecursionError, ValueError):
        too_deep, size = True, 0
    if too_deep:
        raise ResultInvalid(f"the result of {task.name} is nested too deeply, or holds itself; {advice}")
    if size > RESULT_LIMIT:
        raise ResultInvalid(
            f"the result of {task.name} is {size:,} bytes of JSON, {RESULT_LIMIT:,} are kept: "
            "store it and return its id"
        )
    return result


def _only_leaf(error: BaseException) -> BaseException:
    """What a group of one is about: a TaskGroup wraps even a Retry."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The errors that a group holds, however deep; of any other, itself."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves_of(one)
    else:
        yield error


def _details(error: BaseException) -> dict[str, str]:
    details = {"type": _type_of(error), "message": _text_of(error)}
    frames = _frames_of(error)
    return details | {"traceback": frames} if frames else details


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    """What an error says. An error of a user's own may fail even at that."""
    try:
        text = str(error)
        if isinstance(error, BaseExceptionGroup):
            text += ": " + "; ".join(_one_line(one) for one in error.exceptions[:3])
    except Exception:
        return "<its text cannot be read>"
    return text


def _one_line(error: BaseException) -> str:
    text = _text_of(error)
    # Our own errors say all that is needed; their class would only repeat the reason beside it.
    if type(error).__module__ == "questline.errors" or not text.strip():
        return cut_line(text or _type_of(error))
    return cut_line(f"{_type_of(error)}: {text}")


def _frames_of(error: BaseException) -> str:
    """Where it was raised, in the user's code, the innermost frame last; what caused it stands before."""
    import traceback

    parts: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and len(parts) < 4:
        seen.add(id(cause))
        own = traceback.StackSummary(
            frame for frame in traceback.extract_tb(cause.__traceback__, limit=-8) if not _is_ours(frame.filename)
        )
        head = "" if cause is error else f"{cut(_one_line(cause), 200)}\n"
        parts.insert(0, head + "".join(own.format()))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(parts).strip("\n")


def _is_ours(filename: str) -> bool:
    return filename.startswith(__file__.removesuffix("envelope.py"))
