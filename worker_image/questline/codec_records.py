"""The codec of dataclasses and TypedDicts."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from typing import Any

from questline.codec_types import Codec, CodecError, Json, UnsupportedTypeError, at, mismatch, name_of


class RecordCodec:
    """A dataclass or a TypedDict: an object with the fields' names."""

    kinds = frozenset({"object"})

    def __init__(self, type_: Any, *, is_dict: bool) -> None:
        self.label = type_.__name__
        self.plain = is_dict
        self._type, self._is_dict = type_, is_dict
        self._fields: dict[str, Codec] = {}
        self._required: set[str] = set()

    def resolve(self, make: Callable[[Any], Codec]) -> None:
        """Makes the fields' codecs, after the record itself is known: a dataclass may hold its own kind."""
        hints = _hints(self._type)
        if self._is_dict:
            names, self._required = list(hints), _required_keys(self._type, hints)
        else:
            fields = _fields(self._type)
            names = [field.name for field in fields]
            self._required = {field.name for field in fields if _has_no_default(field)}
            if len(names) < sum(not _is_class_variable(field) for field in self._type.__dataclass_fields__.values()):
                raise UnsupportedTypeError(f"dataclass {self.label} has an InitVar, which it does not keep")
            if any(not field.init for field in fields):
                raise UnsupportedTypeError(
                    f"dataclass {self.label} has fields with init=False, which cannot be decoded"
                )
        for name in names:
            try:
                self._fields[name] = make(hints[name])
            except UnsupportedTypeError as error:
                raise UnsupportedTypeError(f"field {name} of {self.label}: {error}") from None
            self.plain = self.plain and self._fields[name].plain

    def encode(self, value: Any) -> Json:
        if not isinstance(value, dict if self._is_dict else self._type):
            raise mismatch(self, value)
        if self._is_dict:
            self._check(value)
            given = value
        else:
            given = {name: getattr(value, name) for name in self._fields}
        return {name: at(f".{name}", self._fields[name].encode, item) for name, item in given.items()}

    def decode(self, value: Json) -> Any:
        if not isinstance(value, dict):
            raise mismatch(self, value)
        self._check(value)
        decoded = {name: at(f".{name}", self._fields[name].decode, item) for name, item in value.items()}
        if self._is_dict:
            return decoded
        try:
            return self._type(**decoded)
        except Exception as error:  # what the class itself checks when it is made, by an assert or an error of its own
            said = str(error) if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"
            raise CodecError(f"{self.label}: {said}") from None

    def _check(self, value: dict[str, Any]) -> None:
        unknown = [name for name in value if name not in self._fields]
        missing = [name for name in self._fields if name in self._required and name not in value]
        if unknown:
            raise CodecError(f"{self.label} has no field {unknown[0]!r}; it has {', '.join(self._fields) or 'none'}")
        if missing:
            raise CodecError(f"{self.label} lacks its field {missing[0]!r}")


def _hints(type_: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(type_, include_extras=True)
    except NameError as error:
        raise UnsupportedTypeError(
            f"{name_of(type_)}: the name {error.name!r} of an annotation is not known here; "
            "define or import it before the task, not under TYPE_CHECKING"
        ) from None


def _required_keys(type_: Any, hints: dict[str, Any]) -> set[str]:
    """A TypedDict's own word, but where its annotations are texts it has not seen Required and NotRequired in them."""
    marked = {name: typing.get_origin(hint) for name, hint in hints.items()}
    required = {name for name, origin in marked.items() if origin is typing.Required}
    return required | {name for name in type_.__required_keys__ if marked[name] is not typing.NotRequired}


def _fields(type_: Any) -> tuple[Any, ...]:
    """A dataclass's fields: its module is imported already, and costs 10 ms where it is not."""
    found: tuple[Any, ...] = sys.modules["dataclasses"].fields(type_)
    return found


def _is_class_variable(field: Any) -> bool:
    return str(field._field_type) == "_FIELD_CLASSVAR"


def _has_no_default(field: Any) -> bool:
    missing = sys.modules["dataclasses"].MISSING
    return field.default is missing and field.default_factory is missing
