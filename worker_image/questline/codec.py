"""Python values as JSON and back, by their annotations.

A codec is made once, where a task is decorated, so that a type that cannot be encoded is refused there and not when
the first Job of it is enqueued. Supported: None, bool, int, float, str, Any; datetime, date, time, timedelta (seconds),
UUID, Decimal, Enum (by value where all values are texts or all are integers, else by name), Literal; list, tuple, set,
frozenset, dict and their abstract forms; dataclasses, TypedDict; Optional and unions whose members JSON can tell apart;
NewType and Annotated for what they stand for.

The API server keeps integers of 64 bits and finite floats only, and turns 1.0 into 1; so other numbers are refused
here, and a float is decoded as a float whatever it was turned into.
"""

from __future__ import annotations

import sys
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

from questline.codec_records import RecordCodec
from questline.codec_types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    NONE,
    STR,
    ArrayCodec,
    Codec,
    CodecError,
    DictCodec,
    EnumCodec,
    LiteralCodec,
    TextCodec,
    TupleCodec,
    UnionCodec,
    UnsupportedTypeError,
    name_of,
)

__all__ = ["Codec", "CodecError", "UnsupportedTypeError", "codec_for"]


def codec_for(annotation: Any) -> Codec:
    """The codec of an annotation whose names are resolved (`typing.get_type_hints`).

    Raises:
        UnsupportedTypeError: values of that type cannot be encoded, or not be told apart again.
    """
    records: dict[Any, RecordCodec] = {}

    def make(annotation: Any) -> Codec:
        return _make(annotation, make, records)

    return make(annotation)


def _make(annotation: Any, make: Callable[[Any], Codec], records: dict[Any, RecordCodec]) -> Codec:
    while True:  # NewType, Annotated and `type X = ...` stand for another type
        if hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            break
    if not isinstance(annotation, abc.Hashable):
        raise UnsupportedTypeError(f"{annotation!r} is no type")
    if annotation in (Any, object):
        return ANY
    if annotation is None or annotation is type(None) or annotation in (typing.NoReturn, typing.Never):
        return NONE
    plain = {bool: BOOL, int: INT, float: FLOAT, str: STR}
    if isinstance(annotation, type) and annotation in plain:
        return plain[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return UnionCodec([make(argument) for argument in arguments])
    if origin is typing.Literal:
        return LiteralCodec(arguments)
    if origin in (typing.Required, typing.NotRequired):
        return make(arguments[0])
    if typing.is_typeddict(annotation) or typing.is_typeddict(origin):
        return _record(annotation, make, records, is_dict=True)
    if isinstance(annotation, type) and origin is None and hasattr(annotation, "__dataclass_fields__"):
        return _record(annotation, make, records, is_dict=False)
    container = _container(origin or annotation, arguments, make)
    if container is not None:
        return container
    standard = _standard(annotation)
    if standard is not None:
        return standard
    raise UnsupportedTypeError(f"{name_of(annotation)} has no form in JSON; {_instead(annotation)}")


def _container(origin: Any, arguments: tuple[Any, ...], make: Callable[[Any], Codec]) -> Codec | None:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return TupleCodec([make(argument) for argument in arguments])
    arrays: dict[Any, tuple[Callable[[list[Any]], Any], Any]] = {
        list: (list, list),
        abc.Sequence: (list, abc.Sequence),
        abc.MutableSequence: (list, abc.MutableSequence),
        abc.Collection: (list, abc.Collection),
        abc.Iterable: (list, abc.Collection),
        set: (set, abc.Set),
        abc.Set: (set, abc.Set),
        abc.MutableSet: (set, abc.Set),
        frozenset: (frozenset, abc.Set),
        tuple: (tuple, tuple),
    }
    if origin in arrays:
        item = make(arguments[0]) if arguments else ANY
        array_of, accepts = arrays[origin]
        return ArrayCodec(f"{origin.__name__}[{item.label}]", item, array_of, accepts)
    if origin in (dict, abc.Mapping, abc.MutableMapping):
        key, value = (make(argument) for argument in arguments) if arguments else (STR, ANY)
        return DictCodec(key, value)
    return None


def _standard(annotation: Any) -> Codec | None:
    """Types of modules that are imported already, or the annotation could not name them."""
    if not isinstance(annotation, type):
        return None
    datetime, enum = sys.modules.get("datetime"), sys.modules.get("enum")
    uuid, decimal = sys.modules.get("uuid"), sys.modules.get("decimal")
    if datetime and annotation in (datetime.datetime, datetime.date, datetime.time):
        return TextCodec(annotation, lambda value: value.isoformat(), annotation.fromisoformat)  # type: ignore[attr-defined]
    if datetime and annotation is datetime.timedelta:
        numbers = frozenset({"int", "float"})
        return TextCodec(annotation, lambda value: value.total_seconds(), lambda s: annotation(seconds=s), numbers)
    if uuid and annotation is uuid.UUID:
        return TextCodec(annotation, str, annotation)
    if decimal and annotation is decimal.Decimal:
        return TextCodec(annotation, str, annotation)
    if enum and issubclass(annotation, enum.Enum):
        if issubclass(annotation, enum.Flag):
            return None
        return EnumCodec(annotation)
    return None


def _record(annotation: Any, make: Callable[[Any], Codec], records: dict[Any, RecordCodec], *, is_dict: bool) -> Codec:
    if typing.get_args(annotation):
        raise UnsupportedTypeError(f"{name_of(annotation)} is generic; use a class with plain fields")
    if annotation not in records:
        records[annotation] = RecordCodec(annotation, is_dict=is_dict)
        records[annotation].resolve(make)
    return records[annotation]


def _instead(annotation: Any) -> str:
    if annotation in (bytes, bytearray, memoryview):
        return "put the data into storage and pass its id"
    if isinstance(annotation, typing.TypeVar):
        return "annotate with a type that is known here"
    return "use texts, numbers, lists, dicts, datetime, UUID, Decimal, Enum, dataclasses, or pass an id"
