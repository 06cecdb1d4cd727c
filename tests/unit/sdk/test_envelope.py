from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from questline import ArgsInvalid, job
from questline.envelope import (
    ENVELOPE_LIMIT,
    ERROR_MESSAGE_LIMIT,
    MESSAGE_LIMIT,
    TRACEBACK_LIMIT,
    TYPE_LIMIT,
    Ending,
    cut,
    cut_line,
    cut_to_tail,
    ending_of_error,
    ending_of_result,
    envelope_of,
)
from questline.options import Options
from questline.task import Task, compact
from questline_operator.core.outcomes import _envelope as read_by_the_operator
from tests.unit.sdk.apps.shop import fetch, resize

texts = st.text(max_size=3000) | st.text("\x00\x1f\"\\ä€😀\ud800", max_size=3000)  # fmt: skip


def size(text: str) -> int:
    return len(text.encode())


@given(message=texts, kind=texts, error=texts, traceback=texts, children=st.integers(0, 10_000))
def test_an_envelope_is_within_its_limits_whatever_the_error_says(
    message: str, kind: str, error: str, traceback: str, children: int
) -> None:
    details = {"type": kind, "message": error, "traceback": traceback}
    ending = Ending("Failed", 1, "TaskError", message, error=details)
    envelope = envelope_of(ending, 2_147_483_647, children)
    data = compact(envelope)
    assert len(data) <= ENVELOPE_LIMIT
    assert json.loads(data) == envelope
    assert read_by_the_operator(data.decode(), 2_147_483_647) == envelope
    assert size(envelope.get("message", "")) <= MESSAGE_LIMIT
    assert size(envelope["error"]["type"]) <= TYPE_LIMIT
    assert size(envelope["error"].get("message", "")) <= ERROR_MESSAGE_LIMIT
    assert size(envelope["error"].get("traceback", "")) <= TRACEBACK_LIMIT
    assert "\n" not in envelope.get("message", "")


@pytest.mark.parametrize("character", ["\x00", '"', "\n", "ä", "😀"])
def test_texts_that_json_makes_longer_are_cut_shorter_the_traceback_first(character: str) -> None:
    long = character * 10_000
    ending = Ending("Failed", 1, "TaskError", long, error={"type": long, "message": long, "traceback": long})
    envelope = envelope_of(ending, 1, 0)
    assert ENVELOPE_LIMIT - 16 <= len(compact(envelope)) <= ENVELOPE_LIMIT or character in "ä😀"
    assert len(compact(envelope)) <= ENVELOPE_LIMIT
    if "traceback" in envelope["error"] and character not in "ä😀":
        assert size(envelope["error"]["message"]) > ERROR_MESSAGE_LIMIT - 4


@given(texts, st.integers(0, 2000))
def test_a_cut_text_is_the_beginning_within_the_bytes(text: str, limit: int) -> None:
    done = cut(text, limit)
    assert size(done) <= max(limit, 0)
    whole = text.encode(errors="replace").decode()
    assert done == whole if size(whole) <= limit and limit >= 3 else whole.startswith(done.removesuffix("…"))


@given(texts, st.integers(0, 2000))
def test_a_cut_traceback_is_the_end_within_the_bytes(text: str, limit: int) -> None:
    done = cut_to_tail(text, limit)
    assert size(done) <= max(limit, 0)
    whole = text.encode(errors="replace").decode()
    assert done == whole if size(whole) <= limit and limit >= 3 else whole.endswith(done.removeprefix("…"))


def test_a_message_is_one_line() -> None:
    assert cut_line("a\n  b\t\u2028c ") == "a b c"
    assert size(cut_line("ä" * 1000)) in range(MESSAGE_LIMIT - 3, MESSAGE_LIMIT + 1)


@pytest.mark.parametrize("value", ["x" * 3070, "ä" * 1535, '"' * 1535, "\n" * 1535, ["x" * 62] * 47])
def test_the_largest_results_fit_beside_the_largest_numbers(value: Any) -> None:
    ending = ending_of_result(resize, value)
    assert ending.outcome == "Succeeded"
    assert len(compact(envelope_of(ending, 2_147_483_647, 10_000))) <= ENVELOPE_LIMIT


def test_a_result_of_none_is_there_and_other_fields_without_a_value_are_not() -> None:
    assert envelope_of(Ending("Succeeded", 0), 1, 0) == {
        "v": 1,
        "attempt": 1,
        "outcome": "Succeeded",
        "result": None,
        "children": {"total": 0, "groups": {}},
    }


def test_the_end_of_a_deep_traceback_is_kept() -> None:
    def dig(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom")
        dig(depth - 1)

    with pytest.raises(ValueError, match="bottom") as raised:
        dig(300)
    error = ending_of_error(resize, raised.value).error
    assert error is not None
    assert error["traceback"].endswith('raise ValueError("at the bottom")')


def test_a_group_of_errors_names_them() -> None:
    error = ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("one"), KeyError("two")])
    assert "ValueError: one; KeyError: 'two'" in ending_of_error(resize, error).message
    assert ending_of_error(resize, ExceptionGroup("g", [ValueError("one")])).message == "ValueError: one"


def test_errors_that_cause_each_other_do_not_go_round() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert ending_of_error(resize, one).message == "ValueError: one"


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([OSError()], "Failed"),
        ([OSError(), OSError()], "Failed"),
        ([OSError(), ExceptionGroup("inner", [TimeoutError(), OSError()])], "Failed"),
        ([OSError(), KeyError()], "Fatal"),
        ([OSError(), PermissionError()], "Fatal"),
    ],
)
def test_retry_on_looks_at_each_error_of_a_group(errors: list[Exception], outcome: str) -> None:
    task: Task[..., Any, Any] = Task(resize._function, Options(), retry_on=(OSError,), no_retry_on=(PermissionError,))
    assert ending_of_error(task, ExceptionGroup("unhandled errors in a TaskGroup", errors)).outcome == outcome


@pytest.mark.parametrize(("levels", "fits"), [(99, True), (100, False), (150, False)])
def test_what_the_operator_would_refuse_for_its_nesting_is_refused_here(levels: int, fits: bool) -> None:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    ending = ending_of_result(fetch, value)
    assert (ending.outcome, ending.reason) == (("Succeeded", "") if fits else ("Fatal", "ResultInvalid"))
    told = compact(envelope_of(ending, 1, 0)).decode()
    assert read_by_the_operator(told, 1) is not None, "the operator takes this termination message for none: NoOutcome"
    if levels <= 100:
        return
    with pytest.raises(ArgsInvalid, match="nested too deeply"):
        nested.call(value)


def nested_(value: Any) -> None: ...


nested = job(nested_)
