"""`@job`, and the task that it makes of a function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from questline.errors import ArgsInvalid, DefinitionError, OptionInvalid
from questline.options import Options, OptionValues, PlainOptionValues, UniqueNames, is_utf8
from questline.signature import Signature

if TYPE_CHECKING:
    from questline.handle import Handle

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

ARGS_LIMIT = 128 * 1024
"""Bytes of a Job's args as compact JSON."""
KEY_LIMIT = 1024
"""Characters of a unique key."""

TASK_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
MAX_TASK_NAME = 253

Errors = type[BaseException] | tuple[type[BaseException], ...]

registry: dict[str, Task[..., Any, Any]] = {}
"""All tasks of the modules imported so far, by `module:function`. Nothing else is ever run."""


class RetryOptions(PlainOptionValues, total=False):
    """What `@job(...)` takes but `unique`, for type checkers."""

    retry_on: Errors
    no_retry_on: Errors


class JobOptions(RetryOptions, total=False):
    """What `@job(...)` takes without a unique function, for type checkers."""

    unique: UniqueNames


class Call(Generic[R_co]):
    """A task with its args, not enqueued yet: what `fan_out`, `chain` and `enqueue_many` take.

    Attributes:
        args: as JSON.
        key: the unique key where the task's options make one of its args, else None.
    """

    __slots__ = ("args", "key", "options", "task")

    def __init__(self, task: Task[..., Any, Any], args: dict[str, Any], key: str | None, options: Options) -> None:
        self.task, self.args, self.key, self.options = task, args, key, options

    def __repr__(self) -> str:
        return f"<call of {self.task.name} with {', '.join(self.args) or 'no args'}>"

    def spec(self) -> dict[str, Any]:
        """The Job's spec, without its parent and what it comes after."""
        spec = {"task": self.task.name, **self.options.spec()}
        if self.args:
            spec["args"] = self.args
        if self.options.unique is not False:
            unique: dict[str, Any] = {} if self.key is None else {"key": self.key}
            if self.options.window is not None:
                unique |= {"scope": "Window", "windowSeconds": self.options.window}
            spec["unique"] = unique
        return spec


class Task(Generic[P, C, R]):
    """A function that Jobs run. Called directly it is the function itself; `enqueue` makes a Job of it.

    P are its parameters, C is what a direct call returns (a coroutine for an ``async def``), R is its result.

    Attributes:
        name: `module:function`, as in spec.task.
        signature: its parameters and result with their codecs.
        retry_on: the errors after which it is tried again; any where this is empty.
        no_retry_on: the errors after which it is not.
    """

    def __init__(
        self,
        function: Callable[P, C],
        options: Options,
        retry_on: tuple[type[BaseException], ...] = (),
        no_retry_on: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name = _checked_name(function)
        self.signature = Signature(function, self.name)
        self.retry_on, self.no_retry_on = retry_on, no_retry_on
        self._function = function
        self._set_options(options)
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Runs the function here and now."""
        return self._function(*args, **kwargs)

    def options(self, **values: Unpack[OptionValues]) -> Task[P, C, R]:
        """The same task with other options, for what is enqueued by it; None takes one back to its default.

        Raises:
            OptionInvalid: an option is unknown or has a value that is not allowed.
        """
        changed: Task[P, C, R] = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        changed._set_options(self._options.replaced(dict(values)))
        return changed

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The task with these args, to be enqueued by `fan_out`, `chain` or `enqueue_many`.

        Raises:
            ArgsInvalid: they do not bind, are of other types than annotated, or are over 128 KiB of JSON.
        """
        bound = self.signature.bind(args, kwargs)
        encoded = self.signature.encode(bound)
        if nested_too_deeply(encoded):
            raise ArgsInvalid(f"{self.name}: args are nested too deeply: put the data into storage and pass its id")
        size = len(compact(encoded))
        if size > ARGS_LIMIT:
            raise ArgsInvalid(
                f"{self.name}: args are {size:,} bytes of JSON, {ARGS_LIMIT:,} are allowed (the largest is "
                f"args.{max(encoded, key=lambda name: len(compact(encoded[name])))}): "
                "put the data into storage and pass its id"
            )
        return Call(self, encoded, self._key(bound, encoded, args, kwargs), self._options)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Makes a Job of it. Inside an attempt a child, which runs when that attempt has succeeded.

        Raises:
            ArgsInvalid: see `call`.
            EnqueueError: the API server refused it, or could not be reached for 30 s.
            EnqueueFateUnknown: inside an attempt, no answer came for 30 s; the attempt has failed.
        """
        from questline.enqueue import enqueue

        return enqueue(self.call(*args, **kwargs))

    async def enqueue_async(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`enqueue` in a thread, for async code. Raises the same."""
        import asyncio

        from questline.enqueue import enqueue

        return await asyncio.to_thread(enqueue, self.call(*args, **kwargs))

    def _set_options(self, options: Options) -> None:
        names = options.unique if isinstance(options.unique, tuple) else ()
        unknown = [name for name in names if name not in self.signature.parameters]
        if unknown:
            raise OptionInvalid(
                f"unique names {unknown[0]!r}, which is no parameter of {self.name}; it has "
                f"{', '.join(self.signature.parameters) or 'none'}"
            )
        self._options = options

    def _key(
        self, bound: dict[str, Any], encoded: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        unique = self._options.unique
        if isinstance(unique, bool):
            return None
        if isinstance(unique, tuple):
            values = {name: self.signature.parameters[name].default for name in unique} | {
                name: bound[name] for name in unique if name in bound
            }
            given = self.signature.encode(values)
            key = ":".join(key_part(given[name]) for name in unique)
        else:
            key = unique(*args, **kwargs)
            if not isinstance(key, str):
                raise ArgsInvalid(f"{self.name}: its unique function returned {type(key).__name__}, a str is needed")
            if not is_utf8(key):
                raise ArgsInvalid(f"{self.name}: its unique function returned {key!r}, which is no text in UTF-8")
        if len(key) > KEY_LIMIT:
            raise ArgsInvalid(
                f"{self.name}: its unique key has {len(key):,} characters, {KEY_LIMIT:,} are allowed: "
                "name shorter parameters, or give a function that returns a digest"
            )
        return key


class Decorator(Protocol):
    """What `@job(...)` with options is."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class TypedDecorator(Protocol[P]):
    """What `@job(unique=function)` is: the task has that function's parameters."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


@overload
def job(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, Coroutine[Any, Any, R], R]: ...
@overload
def job(function: Callable[P, R], /) -> Task[P, R, R]: ...
@overload
def job(*, unique: Callable[P, str], **options: Unpack[RetryOptions]) -> TypedDecorator[P]: ...
@overload
def job(**options: Unpack[JobOptions]) -> Decorator: ...
def job(function: Any = None, /, **options: Any) -> Any:
    """Registers a function of a module as a task, bare or with options.

    Args:
        queue: the Queue, default ``default``.
        worker: the Worker; a child's is its parent's, any other Job's is the queue's default.
        image: runs in this image instead of the Worker's; where there is no such Worker, none is needed.
        max_attempts: 1 to 100; default the queue's, else 5.
        backoff: a `Backoff`, or the first delay of an exponential one.
        timeout: the longest that one attempt may take.
        delay: not before so long after the enqueue.
        run_at: not before this datetime, which has a time zone.
        priority: -1000 to 1000, higher first.
        ttl: how long the finished Job is kept.
        unique: only one Job with the same key runs: True (all args), names of parameters, or a function of the same
            parameters that returns the key.
        window: with `unique`, one in this time; without it, one until that one has ended.
        stage: False lets a child start at once, not when its parent's attempt has succeeded.
        name: the Job's name, outside an attempt.
        retry_on: only these errors are retried.
        no_retry_on: these errors are not retried.
        group: the group of children that a child is of, for `join`; inside an attempt only.
        concurrency_key: where the queue has perKeyConcurrency, at most so many attempts of a key run at once.

    Durations are seconds, a text like "1h30m", or a timedelta.

    Raises:
        DefinitionError: the function cannot be a task: its name, parameters or annotations.
        OptionInvalid: an option is unknown or has a value that is not allowed.
    """
    if function is not None:
        return _register(function, {})
    return lambda function: _register(function, options)


def _register(function: Any, values: dict[str, Any]) -> Task[..., Any, Any]:
    if isinstance(function, Task):
        raise DefinitionError(f"{function.name} is decorated with @job twice: leave one out")
    filters = {name: _errors(name, values.get(name, ())) for name in ("retry_on", "no_retry_on")}
    options = Options().replaced({name: value for name, value in values.items() if name not in filters})
    task: Task[..., Any, Any] = Task(function, options, **filters)
    registry[task.name] = task
    return task


def compact(value: Any) -> bytes:
    """Compact UTF-8 JSON, in which all sizes are counted."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def nested_too_deeply(value: Any) -> bool:
    """Whether it has more than 100 levels: the operator's bound (`core.canonical.MAX_NESTING`)."""
    holders = [value]
    for _ in range(100):
        level = [item for one in holders for item in (one.values() if isinstance(one, dict) else one)]
        holders = [item for item in level if isinstance(item, dict | list)]
        if not holders:
            return False
    return True


def _checked_name(function: Any) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(function) or isinstance(function, type) or not isinstance(module, str) or not isinstance(name, str):
        raise DefinitionError(f"@job is for functions, not for {function!r}")
    if module == "__main__":
        raise DefinitionError(
            f"{name} is in __main__, which a worker pod cannot import: put it into a module and import that here"
        )
    if name == "<lambda>" or "." in name:
        raise DefinitionError(f"{module}:{name} is no function of a module: define it at the module's top level")
    task = f"{module}:{name}"
    if not TASK_NAME.fullmatch(task) or len(task) > MAX_TASK_NAME:
        raise DefinitionError(
            f"{task}: names of ASCII letters, digits and '_' are needed, at most {MAX_TASK_NAME} in all"
        )
    return task


def _errors(name: str, value: Any) -> tuple[type[BaseException], ...]:
    classes = value if isinstance(value, tuple) else (value,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise OptionInvalid(f"{name} is {value!r}: a class of exceptions is needed, or a tuple of them")
    return cast(tuple[type[BaseException], ...], classes)


def key_part(value: Any) -> str:
    """One part of a unique key. An integral float, however deep, is the integer that the API server makes of it."""
    value = _integral(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _integral(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return {name: _integral(item) for name, item in value.items()} if isinstance(value, dict) else value
