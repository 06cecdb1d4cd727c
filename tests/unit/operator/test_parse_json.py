"""One object nested too deeply does not make a list unreadable."""

import json

import orjson
import pytest

from questline_operator.shell.parse_json import KEPT_LEVELS, parse_json


def test_what_is_nested_within_reason_is_read_as_it_is() -> None:
    value = {"items": [{"args": {"a": [1, None, 'quote " and [brackets} in a string \\']}}]}
    assert parse_json(json.dumps(value).encode()) == value


def test_of_a_list_with_one_monster_the_other_objects_are_read() -> None:
    monster = b'{"x":' * 3_000 + b"1" + b"}" * 3_000
    read = parse_json(b'{"items":[{"name":"a]"},{"args":' + monster + b'},{"name":"c"}]}')
    assert [item.get("name") for item in read["items"]] == ["a]", None, "c"]
    depth, value = 0, read["items"][1]["args"]
    while value is not None:
        depth, value = depth + 1, value["x"]
    assert depth == KEPT_LEVELS - 3


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        parse_json(b"{")
