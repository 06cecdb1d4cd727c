from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

import pytest

from questline import ArgsInvalid, DefinitionError, job
from questline.task import ARGS_LIMIT, compact, key_part, registry
from tests.unit.sdk.apps.shop import fetch, once, resize, send_email

T = TypeVar("T")


def twice(function: Callable[..., T]) -> Callable[..., list[T]]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> list[T]:
        return [function(*args, **kwargs), function(*args, **kwargs)]

    return wrapper


def define(source: str) -> Any:
    """The function `f` of a module of its own."""
    namespace: dict[str, Any] = {"__name__": "made.up"}
    exec(compile(source, "made_up.py", "exec", dont_inherit=True), namespace)
    return namespace["f"]


def test_a_direct_call_is_the_function_itself() -> None:
    assert resize("a", width=8) == "a-8"
    assert asyncio.run(fetch("x")) == {"url": "x"}
    assert (resize.__name__, resize.__doc__) == ("resize", None)
    assert str(inspect.signature(resize)) == "(picture: 'str', width: 'int' = 320) -> 'str'"


def test_a_task_is_known_by_module_and_function() -> None:
    assert resize.name == "tests.unit.sdk.apps.shop:resize"
    assert registry[resize.name] is resize
    assert repr(resize) == "<task tests.unit.sdk.apps.shop:resize>"


def test_args_are_named_and_only_those_given() -> None:
    assert resize.call("a").args == {"picture": "a"}
    assert resize.call("a", 5).args == {"picture": "a", "width": 5}
    assert resize.call(width=5, picture="a").args == {"picture": "a", "width": 5}


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "lacks its argument 'picture'"),
        (("a", 1, 2), {}, "takes 2 positional arguments, 3 are given"),
        (("a",), {"picture": "b"}, "'picture' is given twice"),
        (("a",), {"height": 3}, "has no parameter 'height'; it has picture, width"),
        ((3,), {}, "args.picture: expected str, got int 3"),
        (("a",), {"width": float("nan")}, "args.width: expected int, got float nan"),
    ],
)
def test_args_that_do_not_fit_are_refused_at_the_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ArgsInvalid) as refusal:
        resize.call(*args, **kwargs)
    assert str(refusal.value).startswith("tests.unit.sdk.apps.shop:resize")
    assert problem in str(refusal.value)


def test_args_over_128_kib_of_json_are_refused_and_the_largest_is_named() -> None:
    overhead = len(compact({"picture": "", "width": 1}))
    assert resize.call("x" * (ARGS_LIMIT - overhead), 1)
    with pytest.raises(ArgsInvalid, match=r"131,073 bytes .* 131,072 .*largest is args.picture.*pass its id"):
        resize.call("x" * (ARGS_LIMIT - overhead + 1), 1)
    with pytest.raises(ArgsInvalid, match="131,07"):
        resize.call("ä" * ((ARGS_LIMIT - overhead) // 2 + 1), 1)


def test_args_that_hold_themselves_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    task = job(define("def f(x): ..."))
    with pytest.raises(ArgsInvalid, match=r"args\.x is nested too deeply, or holds itself"):
        task.call(loop)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(*args): ...", "*args or **kwargs"),
        ("def f(**kwargs): ...", "*args or **kwargs"),
        ("def f(a, /): ...", "positional-only"),
        ("def f(): yield 1", "generator"),
        ("async def f(): yield 1", "generator"),
        ("f = lambda: 1", "no function of a module"),
        ("def g():\n  def h(): ...\n  return h\nf = g()", "no function of a module"),
        ("class C:\n  def m(self): ...\nf = C.m", "no function of a module"),
        ("class f: ...", "@job is for functions"),
        ("f = 3", "@job is for functions, not for 3"),
        ("f = print", "made.up"),
        ("def f(a: bytes): ...", "parameter 'a': bytes has no form in JSON; put the data into storage"),
        ("def f() -> complex: ...", "the result: complex has no form in JSON"),
        ("def f(a: 'Nowhere'): ...", "the name 'Nowhere' of an annotation is not known here"),
        ("def f(a: 3): ...", "parameter 'a'"),
        ("def ü(): ...\nf = ü", "ASCII"),
    ],
)
def test_what_cannot_be_a_task_is_refused_where_it_is_decorated(source: str, problem: str) -> None:
    function = define(source)
    with pytest.raises(DefinitionError) as refusal:
        job(function)
    if source != "f = print":
        assert problem in str(refusal.value)


def test_a_function_of_main_is_refused_because_no_pod_can_import_it() -> None:
    function = define("def f(): ...")
    function.__module__ = "__main__"
    with pytest.raises(DefinitionError, match="f is in __main__, which a worker pod cannot import: put it into"):
        job(function)


def test_decorating_twice_is_refused() -> None:
    with pytest.raises(DefinitionError, match="decorated with @job twice"):
        job(resize)


def test_a_wrapped_function_has_the_parameters_of_what_it_wraps() -> None:
    function = define("def f(n: int) -> int: return n")
    task = job(twice(function))
    assert task.call(3).args == {"n": 3}
    assert task(3) == [3, 3]
    with pytest.raises(ArgsInvalid, match=r"args.n: expected int"):
        task.call("x")


def test_keyword_only_parameters_and_those_without_annotation_work() -> None:
    task = job(define("def f(a, *, b=1): ..."))
    assert task.call([1, "x"], b=None).args == {"a": [1, "x"], "b": None}
    with pytest.raises(ArgsInvalid, match="takes 1 positional arguments, 2 are given"):
        task.call(1, 2)


@pytest.mark.parametrize(
    ("message_id", "recipient", "key"),
    [
        ("m1", "a@example.com", "m1:a@example.com"),
        ("a:b", "c", "a\\:b:c"),
        ("a", "b:c", "a:b\\:c"),
        ("a\\", "b", "a\\\\:b"),
        ("", "", ":"),
    ],
)
def test_the_unique_key_is_the_named_parameters_and_no_two_sets_of_them_share_one(
    message_id: str, recipient: str, key: str
) -> None:
    call = send_email.call(message_id, recipient)
    assert call.spec()["unique"] == {"key": key, "scope": "Window", "windowSeconds": 86_400}


def test_a_unique_key_of_other_types_is_their_json_and_a_default_counts() -> None:
    task = job(unique=("day", "size"))(define("from datetime import date\ndef f(day: date, size: float = 2.0): ..."))
    assert task.call(date(2026, 7, 1)).key == "2026-07-01:2"
    assert task.call(date(2026, 7, 1), 2).key == "2026-07-01:2"
    assert task.call(date(2026, 7, 1), 2.5).key == "2026-07-01:2.5"


def test_a_unique_function_makes_the_key_of_the_args_as_given() -> None:
    def by_recipient(message_id: str, recipient: str) -> str:
        return recipient.lower()

    task = send_email.options(unique=by_recipient, window=None)
    assert task.call("m1", recipient="A@B").spec()["unique"] == {"key": "a@b"}
    with pytest.raises(ArgsInvalid, match="its unique function returned int, a str is needed"):
        send_email.options(unique=lambda **_: 3, window=None).call(message_id="m", recipient="r")  # type: ignore[arg-type]


def test_unique_by_all_args_leaves_the_key_to_the_operator() -> None:
    assert once.call(1.0).spec()["unique"] == {}


def test_a_unique_key_over_1024_characters_is_refused() -> None:
    with pytest.raises(ArgsInvalid, match=r"unique key has 1,025 characters, 1,024 are allowed"):
        send_email.call("m" * 1024, "")


@pytest.mark.parametrize(("one", "other"), [(1.0, 1), ([1.0, 2.5], [1, 2.5]), ({"a": [2.0]}, {"a": [2]})])
def test_a_unique_key_has_the_integers_that_the_api_server_makes_of_floats(one: Any, other: Any) -> None:
    assert key_part(one) == key_part(other)
