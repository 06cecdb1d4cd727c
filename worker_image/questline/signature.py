"""A task's parameters: what a call binds to, and the args of a Job as JSON.

Read from the function itself: `inspect`, which does the same for any callable, takes 15 ms to import, and a task is a
plain function of a module.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from questline.codec import Codec, CodecError, UnsupportedTypeError, codec_for
from questline.errors import ArgsInvalid, DefinitionError

_VARARGS, _VARKEYWORDS, _GENERATOR, _ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x200


class Parameter(NamedTuple):
    """One parameter of a task."""

    codec: Codec
    required: bool
    keyword_only: bool
    default: Any


class Signature:
    """A task's parameters and result, each with its codec.

    Raises:
        DefinitionError: the function takes what args cannot carry.
    """

    def __init__(self, function: Callable[..., Any], task: str) -> None:
        self.task = task
        inner = function
        while hasattr(inner, "__wrapped__"):  # functools.wraps: the parameters are the wrapped function's
            inner = inner.__wrapped__
        code = getattr(inner, "__code__", None)
        if code is None:
            raise DefinitionError(f"{task} is no function: decorate a plain `def` or `async def`")
        if code.co_flags & (_GENERATOR | _ASYNC_GENERATOR):
            raise DefinitionError(f"{task} is a generator; a task returns its result")
        if code.co_flags & (_VARARGS | _VARKEYWORDS) or code.co_posonlyargcount:
            what = "positional-only parameters" if code.co_posonlyargcount else "*args or **kwargs"
            raise DefinitionError(f"{task} has {what}; a Job's args have names: give each parameter one")
        hints = _hints_of(inner, task)
        self.parameters: dict[str, Parameter] = {}
        positional = code.co_varnames[: code.co_argcount]
        keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        positional_defaults = getattr(inner, "__defaults__", None) or ()
        defaults = dict(zip(reversed(positional), reversed(positional_defaults), strict=False))
        defaults.update(getattr(inner, "__kwdefaults__", None) or {})
        for name in (*positional, *keyword_only):
            self.parameters[name] = Parameter(
                codec=_codec(hints.get(name, Any), f"parameter {name!r}", task),
                required=name not in defaults,
                keyword_only=name in keyword_only,
                default=defaults.get(name),
            )
        self._positional = positional
        self.result = _codec(hints.get("return", Any), "the result", task)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by their parameters' names, defaults left out.

        Raises:
            ArgsInvalid: they do not bind.
        """
        if len(args) > len(self._positional):
            raise self._invalid(f"takes {len(self._positional)} positional arguments, {len(args)} are given")
        bound = dict(zip(self._positional, args, strict=False))
        twice = next((name for name in kwargs if name in bound), None)
        if twice is not None:
            raise self._invalid(f"{twice!r} is given twice")
        bound.update(kwargs)
        self._check_names(bound)
        return bound

    def encode(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        """Bound arguments as a Job's args.

        Raises:
            ArgsInvalid: one is of another type than annotated, or no JSON that the API server keeps; its path is named.
        """
        return {name: self._convert(name, self.parameters[name].codec.encode, value) for name, value in bound.items()}

    def decode(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """A Job's args as keyword arguments.

        Raises:
            ArgsInvalid: they do not bind, or one is of another type than annotated.
        """
        self._check_names(args)
        return {name: self._convert(name, self.parameters[name].codec.decode, value) for name, value in args.items()}

    def _check_names(self, given: Mapping[str, Any]) -> None:
        unknown = [name for name in given if name not in self.parameters]
        if unknown:
            raise self._invalid(f"has no parameter {unknown[0]!r}; it has {', '.join(self.parameters) or 'none'}")
        missing = [name for name, one in self.parameters.items() if one.required and name not in given]
        if missing:
            raise self._invalid(f"lacks its argument{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}")

    def _convert(self, name: str, convert: Callable[[Any], Any], value: Any) -> Any:
        try:
            return convert(value)
        except CodecError as error:
            raise self._invalid(f"args.{name}{error.path}: {error.problem}") from None
        except RecursionError:
            raise self._invalid(f"args.{name} is nested too deeply, or holds itself") from None

    def _invalid(self, problem: str) -> ArgsInvalid:
        return ArgsInvalid(f"{self.task} {problem}" if not problem.startswith("args.") else f"{self.task}: {problem}")


def _hints_of(function: Callable[..., Any], task: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{task}: the name {error.name!r} of an annotation is not known here; "
            "define or import it before the task, not under TYPE_CHECKING"
        ) from None
    except TypeError as error:
        raise DefinitionError(f"{task}: an annotation is no type: {error}") from None


def _codec(annotation: Any, what: str, task: str) -> Codec:
    try:
        return codec_for(annotation)
    except UnsupportedTypeError as error:
        raise DefinitionError(f"{task}: {what}: {error}") from None
