"""The canonical form of args, by which unique Jobs without a key are compared (design 5)."""

import hashlib
import json
from typing import Any

MAX_NESTING = 100
"""Levels of lists and objects in args and results. What is deeper is refused: the API server keeps it, but parsers and
encoders give up at depths of their own (254 for orjson's encoder, some 990 for Python's)."""


def canonical_digest(args: Any) -> str:
    """sha256 in hex of ``args`` as canonical JSON: keys sorted, integral floats as integers, no spaces.

    So key order does not matter, 1 and 1.0 are the same, true and 1 are not. What lies deeper than `MAX_NESTING` does
    not count: no Job with such args runs.
    """
    text = json.dumps(_canonical(args), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def compact_size(value: Any) -> int:
    """Bytes of the value as compact UTF-8 JSON: the unit of every size limit."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def nested_too_deeply(value: Any) -> bool:
    """Whether the value has more than `MAX_NESTING` levels; asked before anything that recurses into it."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return any(isinstance(item, dict | list) for item in level)


def _canonical(value: Any, room: int = MAX_NESTING) -> Any:
    if room == 0:
        return None
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _canonical(item, room - 1) for key, item in value.items()}
        case list():
            return [_canonical(item, room - 1) for item in value]
        case _:
            return value
