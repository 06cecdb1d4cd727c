"""JSON of the API server, whatever a user has put into it.

The API server takes JSON nested thousands of levels deep where a schema allows any value, as in a Job's args; orjson
stops at 1,024. One such object must not make a whole list unreadable.
"""

import re
from typing import Any

import orjson

KEPT_LEVELS = 300
"""Values nested deeper are read as null. The core refuses args and results far above that depth."""

_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def parse_json(data: bytes) -> Any:
    """The value of the JSON text; what lies deeper than orjson reads is null.

    Raises:
        orjson.JSONDecodeError: it is no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return orjson.loads(_without_depths(data))


def _without_depths(data: bytes) -> bytes:
    kept: list[bytes] = []
    level = start = cut = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = match.group()
        if token in (b"[", b"{"):
            level += 1
            if level == KEPT_LEVELS + 1:
                cut = match.start()
        elif token in (b"]", b"}"):
            if level == KEPT_LEVELS + 1:
                kept += (data[start:cut], b"null")
                start = match.end()
            level -= 1
    kept.append(data[start:])
    return b"".join(kept)
