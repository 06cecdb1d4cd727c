"""The codecs of single types: scalars, texts, containers, unions. `questline.codec` chooses among them."""

from __future__ import annotations

import json
import typing
from collections import abc
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

Json: TypeAlias = Any

_SCALARS = {"null", "bool", "int", "float", "string"}
_EVERY = frozenset({*_SCALARS, "array", "object"})


class CodecError(Exception):
    """A value does not fit its annotation.

    Attributes:
        path: where the value is, filled in from the inside out as the error passes by.
        specific: whether it says more than that the value is of another type.
    """

    def __init__(self, problem: str, *, specific: bool = True) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""
        self.specific = specific

    def within(self, part: str) -> CodecError:
        """The same error, seen from the container of the value."""
        self.path = part + self.path
        return self


class UnsupportedTypeError(Exception):
    """An annotation that no codec can be made for; the message says why and what to do."""


class Codec(Protocol):
    """Encodes and decodes the values of one type.

    Attributes:
        label: what an error calls the type.
        kinds: the JSON kinds that it encodes to.
        plain: whether decoding gives what was encoded unchanged, so that JSON alone tells the type.
    """

    label: str
    kinds: frozenset[str]
    plain: bool

    def encode(self, value: Any) -> Json:
        """The value as JSON. Raises CodecError: it is not of the type."""

    def decode(self, value: Json) -> Any:
        """The JSON as a value. Raises CodecError: it is not of the type."""


class AnyCodec:
    """Any JSON as it is."""

    label = "JSON"
    kinds = _EVERY
    plain = True

    def encode(self, value: Any) -> Json:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return STR.encode(value)
        if isinstance(value, int):
            return INT.encode(value)
        if isinstance(value, float):
            return FLOAT.encode(value)
        if isinstance(value, list | tuple):
            return _encode_items(value, self)
        if isinstance(value, dict):
            return _encode_entries(value, STR, self)
        raise CodecError(f"{_show(value)} is no JSON; annotate it with its type, or pass texts, numbers, lists, dicts")

    def decode(self, value: Json) -> Any:
        return value


class ScalarCodec:
    """A type that JSON has."""

    plain = True

    def __init__(self, label: str, kind: str, type_: type) -> None:
        self.label = label
        self.kinds = frozenset({kind})
        self._type = type_

    def encode(self, value: Any) -> Json:
        return self.decode(value)

    def decode(self, value: Json) -> Any:
        if type(value) is not self._type:
            raise mismatch(self, value)
        return value


class StrCodec(ScalarCodec):
    """A text that UTF-8 can hold."""

    def encode(self, value: Any) -> Json:
        if not isinstance(value, str):
            raise mismatch(self, value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CodecError(f"{_show(value)} holds a lone surrogate, which is no text in UTF-8") from None
        return str.__str__(value)


class IntCodec(ScalarCodec):
    """An integer of 64 bits."""

    def encode(self, value: Any) -> Json:
        if not isinstance(value, int) or isinstance(value, bool):
            raise mismatch(self, value)
        number = int(value)
        if not -(2**63) <= number < 2**63:
            raise CodecError(f"{_show_number(number)} is beyond the 64 bits that the API keeps; pass it as a str")
        return number


class FloatCodec(ScalarCodec):
    """A finite number; decoded as a float though the API server made an integer of it."""

    def encode(self, value: Any) -> Json:
        if isinstance(value, int):
            return INT.encode(value)
        if not isinstance(value, float):
            raise mismatch(self, value)
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise CodecError(f"{number} is no JSON number; leave it out or pass None")
        return number

    def decode(self, value: Json) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise mismatch(self, value)
        return float(value)


STR = StrCodec("str", "string", str)
INT = IntCodec("int", "int", int)
FLOAT = FloatCodec("float", "float", float)
BOOL = ScalarCodec("bool", "bool", bool)
NONE = ScalarCodec("None", "null", type(None))
ANY = AnyCodec()


class TextCodec:
    """A type of the standard library that is a text (or a number) in JSON."""

    plain = False

    def __init__(
        self,
        type_: type,
        encode: Callable[[Any], Json],
        decode: Callable[[Any], Any],
        kinds: frozenset[str] = frozenset({"string"}),
    ) -> None:
        self.label = type_.__name__
        self.kinds = kinds
        self._type, self._encode, self._decode = type_, encode, decode

    def encode(self, value: Any) -> Json:
        # A datetime is a date to isinstance; as a date it would lose its time.
        if not isinstance(value, self._type) or (self.label == "date" and hasattr(value, "hour")):
            raise mismatch(self, value)
        return self._encode(value)

    def decode(self, value: Json) -> Any:
        expected: Any = str if "string" in self.kinds else (int, float)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise mismatch(self, value)
        try:
            return self._decode(value)
        except (ValueError, ArithmeticError):
            raise mismatch(self, value) from None


class EnumCodec:
    """An Enum, by its values where all are texts or all are integers, else by its names."""

    plain = False

    def __init__(self, type_: Any) -> None:
        members = list(type_)
        values = [member.value for member in members]
        by_text = all(isinstance(value, str) for value in values)
        by_number = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        self.label = type_.__name__
        self.kinds = frozenset({"int" if by_number and values else "string"})
        self._type = type_
        self._by_name = not (by_text or by_number)

    def encode(self, value: Any) -> Json:
        if not isinstance(value, self._type):
            raise mismatch(self, value)
        member: Any = value
        return member.name if self._by_name else ANY.encode(member.value)

    def decode(self, value: Json) -> Any:
        if type(value) is not (int if "int" in self.kinds else str):
            raise mismatch(self, value)
        try:
            return self._type[value] if self._by_name else self._type(value)
        except (KeyError, ValueError):
            raise CodecError(f"{_show(value)} is no {self.label}; {_choices(self._type, self._by_name)}") from None


class LiteralCodec:
    """One of a few texts, integers, bools or None."""

    plain = True

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.label = "Literal[" + ", ".join(map(repr, values)) + "]"
        self._values = {(type(value), value): value for value in values}
        for value in values:
            if not isinstance(value, str | int | bool | type(None)) or type(value).__module__ != "builtins":
                raise UnsupportedTypeError(f"the literal {value!r} is neither text, integer, bool nor None")
        self.kinds = frozenset(_kind(value) for value in values)

    def encode(self, value: Any) -> Json:
        return self.decode(value)

    def decode(self, value: Json) -> Any:
        if not isinstance(value, abc.Hashable) or (type(value), value) not in self._values:
            raise mismatch(self, value)
        return value


class ArrayCodec:
    """list, set, frozenset, tuple[X, ...] and their abstract forms."""

    kinds = frozenset({"array"})

    def __init__(self, label: str, item: Codec, make: Callable[[list[Any]], Any], accepts: Any) -> None:
        self.label = label
        self.plain = item.plain and make is list
        self._item, self._make, self._accepts = item, make, accepts

    def encode(self, value: Any) -> Json:
        if not isinstance(value, self._accepts) or isinstance(value, str | bytes | bytearray | Mapping):
            raise mismatch(self, value)
        items = _encode_items(value, self._item)
        if self._make in (set, frozenset):
            if self._item is ANY and any(isinstance(item, list) for item in items):
                raise CodecError("a set of tuples would come back as one of lists; annotate the type of its items")
            # Args of equal sets must be equal: they are compared for uniqueness.
            items.sort(key=lambda item: json.dumps(item, sort_keys=True))
        return items

    def decode(self, value: Json) -> Any:
        if not isinstance(value, list):
            raise mismatch(self, value)
        items = [at(f"[{index}]", self._item.decode, item) for index, item in enumerate(value)]
        try:
            return self._make(items)
        except TypeError as error:  # a set's items must be hashable
            raise CodecError(f"{self.label}: {error}") from None


class TupleCodec:
    """tuple[X, Y]: a list of exactly so many."""

    kinds = frozenset({"array"})
    plain = False

    def __init__(self, items: list[Codec]) -> None:
        self.label = "tuple[" + ", ".join(item.label for item in items) + "]"
        self._items = items

    def encode(self, value: Any) -> Json:
        if not isinstance(value, tuple) or len(value) != len(self._items):
            raise mismatch(self, value)
        return [
            at(f"[{n}]", codec.encode, item) for n, (codec, item) in enumerate(zip(self._items, value, strict=True))
        ]

    def decode(self, value: Json) -> Any:
        if not isinstance(value, list) or len(value) != len(self._items):
            raise mismatch(self, value)
        pairs = zip(self._items, value, strict=True)
        return tuple(at(f"[{n}]", codec.decode, item) for n, (codec, item) in enumerate(pairs))


class DictCodec:
    """An object; keys that are no texts are written as such."""

    kinds = frozenset({"object"})

    def __init__(self, key: Codec, value: Codec) -> None:
        self.label = f"dict[{key.label}, {value.label}]"
        if not key.kinds <= {"string", "int"}:
            raise UnsupportedTypeError(f"keys of a JSON object are texts: {key.label} cannot be a key")
        if len(key.kinds) > 1:
            raise UnsupportedTypeError(f"keys of a JSON object are texts, so the integers of {key.label} would be lost")
        self.plain = key.kinds == {"string"} and key.plain and value.plain
        self._key, self._value = key, value

    def encode(self, value: Any) -> Json:
        if not isinstance(value, Mapping):
            raise mismatch(self, value)
        return _encode_entries(value, self._key, self._value)

    def decode(self, value: Json) -> Any:
        if not isinstance(value, dict):
            raise mismatch(self, value)
        return {
            at(f".{name}", self._decode_key, name): at(f".{name}", self._value.decode, item)
            for name, item in value.items()
        }

    def _decode_key(self, name: str) -> Any:
        if self._key.kinds != {"int"}:
            return self._key.decode(name)
        try:
            return self._key.decode(int(name))
        except ValueError:
            raise CodecError(f"the key {_show(name)} is no integer") from None


class UnionCodec:
    """One of several types that JSON can tell apart."""

    def __init__(self, members: list[Codec]) -> None:
        self.label = " | ".join(member.label for member in members)
        self.kinds = frozenset().union(*(member.kinds for member in members))
        self.plain = all(member.plain for member in members)
        self._members = members
        for index, one in enumerate(members):
            for other in members[index + 1 :]:
                shared = _numbers_as_one(one.kinds) & _numbers_as_one(other.kinds)
                if shared and not (one.plain and other.plain):
                    raise UnsupportedTypeError(
                        f"{one.label} and {other.label} are both a JSON {min(shared)}, so {self.label} cannot be told "
                        "apart again; use one of them, or a dataclass with a field for each"
                    )

    def encode(self, value: Any) -> Json:
        return self._first(value, "encode")

    def decode(self, value: Json) -> Any:
        return self._first(value, "decode")

    def _first(self, value: Any, what: str) -> Any:
        best: CodecError | None = None
        # int | float: an integer stays one, whichever of them is named first.
        for member in sorted(self._members, key=lambda member: member is FLOAT):
            try:
                return getattr(member, what)(value)
            except CodecError as error:
                if (error.path or error.specific) and (best is None or len(error.path) > len(best.path)):
                    best = error
        raise best or mismatch(self, value)


def _encode_items(values: Any, item: Codec) -> list[Json]:
    return [at(f"[{index}]", item.encode, value) for index, value in enumerate(values)]


def _encode_entries(values: Mapping[Any, Any], key: Codec, value: Codec) -> dict[str, Json]:
    encoded: dict[str, Json] = {}
    for name, item in values.items():
        try:
            text = str(key.encode(name))
        except CodecError as error:
            raise CodecError(f"the key {_show(name)}: {error.problem}") from None
        encoded[text] = at(f".{text}", value.encode, item)
    return encoded


def at(part: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except CodecError as error:
        raise error.within(part) from None


def _numbers_as_one(kinds: frozenset[str]) -> frozenset[str]:
    return frozenset("number" if kind in ("int", "float") else kind for kind in kinds)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "int"


def _choices(type_: Any, by_name: bool) -> str:
    return "one of " + ", ".join(repr(member.name if by_name else member.value) for member in list(type_)[:20])


def mismatch(codec: Codec, value: object) -> CodecError:
    return CodecError(f"expected {codec.label}, got {_show(value)}", specific=False)


def _show(value: object) -> str:
    """A value for a message: its type and the beginning of its repr."""
    try:
        text = _show_number(value) if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    except Exception:  # a repr of the user's own may do anything
        text = "..."
    text = text if len(text) <= 80 else text[:77] + "..."
    return text if isinstance(value, bool | type(None)) else f"{type(value).__name__} {text}"


def _show_number(number: int) -> str:
    """An integer; Python refuses to print those of thousands of digits."""
    return str(number) if number.bit_length() < 200 else f"of {number.bit_length()} bits"


def name_of(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation)
