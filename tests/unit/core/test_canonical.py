"""By which args unique Jobs are the same, and how large args are."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from questline_operator.core.canonical import canonical_digest, compact_size
from tests.unit.core.builders import nested

INTEGERS = st.integers(min_value=-(2**53), max_value=2**53)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
ARGS = st.dictionaries(TEXTS, VALUES, max_size=5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="the order of keys does not matter"),
        pytest.param({"o": {"a": 1, "b": 2}}, {"o": {"b": 2, "a": 1}}, id="nor that of inner keys"),
        pytest.param({"a": 1}, {"a": 1.0}, id="1 and 1.0 are the same"),
        pytest.param({"a": [1, {"b": 2.0}]}, {"a": [1.0, {"b": 2}]}, id="deep within too"),
        pytest.param({"a": 0}, {"a": -0.0}, id="-0.0 is 0"),
        pytest.param({"a": 100}, {"a": 1e2}, id="1e2 is 100"),
    ],
)
def test_the_same_args_however_written(one: Any, other: Any) -> None:
    assert canonical_digest(one) == canonical_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"a": True}, {"a": 1}, id="true is not 1"),
        pytest.param({"a": False}, {"a": 0}, id="false is not 0"),
        pytest.param({"a": None}, {"a": 0}, id="null is not 0"),
        pytest.param({"a": None}, {}, id="null is not nothing"),
        pytest.param({"a": "1"}, {"a": 1}, id="a text is not its number"),
        pytest.param({"a": 1.5}, {"a": 1}, id="1.5 is not 1"),
        pytest.param({"a": [1, 2]}, {"a": [2, 1]}, id="the order of a list matters"),
        pytest.param({"a": []}, {"a": {}}, id="an empty list is no empty object"),
        pytest.param({"a": 2**53}, {"a": 2**53 + 1}, id="large integers keep every digit"),
        pytest.param({"a": "é"}, {"a": "e\u0301"}, id="texts are compared as they are, without normalising"),
    ],
)
def test_args_that_mean_something_else_have_another_digest(one: Any, other: Any) -> None:
    assert canonical_digest(one) != canonical_digest(other)


@settings(max_examples=50, deadline=None)
@given(ARGS)
def test_a_round_trip_through_json_with_shuffled_keys_changes_nothing(args: dict[str, Any]) -> None:
    def reversed_keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reversed_keys(item) for key, item in reversed(value.items())}
        return [reversed_keys(item) for item in value] if isinstance(value, list) else value

    assert canonical_digest(json.loads(json.dumps(reversed_keys(args)))) == canonical_digest(args)


@settings(max_examples=50, deadline=None)
@given(ARGS)
def test_writing_integers_as_floats_changes_nothing(args: dict[str, Any]) -> None:
    def as_floats(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: as_floats(item) for key, item in value.items()}
        if isinstance(value, list):
            return [as_floats(item) for item in value]
        return float(value) if type(value) is int else value

    assert canonical_digest(as_floats(args)) == canonical_digest(args)


@settings(max_examples=50, deadline=None)
@given(ARGS, ARGS)
def test_args_with_the_same_digest_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert canonical_digest(one) != canonical_digest(other) or one == other


@settings(max_examples=50, deadline=None)
@given(ARGS)
def test_the_size_is_that_of_compact_utf_8_json(args: dict[str, Any]) -> None:
    assert compact_size(args) == len(json.dumps(args, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.mark.parametrize("levels", [64, 500, 1_000, 1_024, 5_000])
def test_no_depth_of_args_is_too_much_for_a_digest(levels: int) -> None:
    """Whoever may create a Job chooses its args: they must not end the operator with a RecursionError."""
    assert canonical_digest({"a": nested(levels)}) == canonical_digest({"a": nested(levels)})
    assert canonical_digest({"a": nested(levels)}) != canonical_digest({"a": 1})
