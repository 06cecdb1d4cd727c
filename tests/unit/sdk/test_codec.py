from __future__ import annotations

import enum
import json
import typing
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NewType, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from questline.codec import CodecError, UnsupportedTypeError, codec_for

T = TypeVar("T")
UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Shape(enum.Enum):
    SQUARE = (1, 1)
    WIDE = (2, 1)


class Options(TypedDict):
    name: str
    size: NotRequired[int]


@dataclass
class Address:
    street: str
    moved: date | None = None


@dataclass
class Person:
    name: str
    addresses: list[Address] = field(default_factory=list)


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


ID = UUID("12345678-1234-5678-1234-567812345678")
NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("annotation", "value", "encoded"),
    [
        (None, None, None),
        (bool, True, True),
        (int, 3, 3),
        (int, -(2**63), -(2**63)),
        (float, 1.5, 1.5),
        (float, 2, 2),
        (str, "ä\n", "ä\n"),
        (Any, {"a": [1, None, "x", {"b": 1.5}]}, {"a": [1, None, "x", {"b": 1.5}]}),
        (datetime, NOON, "2026-07-01T12:00:00+00:00"),
        (datetime, datetime(2026, 7, 1, 12, 0, 0, 5), "2026-07-01T12:00:00.000005"),  # noqa: DTZ001
        (date, date(2026, 7, 1), "2026-07-01"),
        (time, time(12, 30), "12:30:00"),
        (timedelta, timedelta(minutes=1.5), 90.0),
        (UUID, ID, str(ID)),
        (Decimal, Decimal("1.10"), "1.10"),
        (Color, Color.RED, "red"),
        (Level, Level.HIGH, 2),
        (Shape, Shape.WIDE, "WIDE"),
        (Literal["a", 1, None], 1, 1),
        (Optional[int], None, None),  # noqa: UP045
        (int | None, 4, 4),
        (UUID | int | None, ID, str(ID)),
        (int | float, 1.5, 1.5),
        (str | Literal["auto"], "auto", "auto"),
        (list[date], [date(2026, 7, 1)], ["2026-07-01"]),
        (list, [1, "a"], [1, "a"]),
        (typing.Sequence[int], [1, 2], [1, 2]),
        (set[int], {3, 1, 2}, [1, 2, 3]),
        (frozenset[str], frozenset("b"), ["b"]),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (tuple[int, ...], (1, 2, 3), [1, 2, 3]),
        (dict[str, Decimal], {"a": Decimal(1)}, {"a": "1"}),
        (dict[int, str], {7: "x"}, {"7": "x"}),
        (dict[UUID, int], {ID: 1}, {str(ID): 1}),
        (dict[Color, int], {Color.BLUE: 1}, {"blue": 1}),
        (Options, {"name": "a"}, {"name": "a"}),
        (Address, Address("b", date(2026, 7, 1)), {"street": "b", "moved": "2026-07-01"}),
        (Person, Person("a", [Address("b")]), {"name": "a", "addresses": [{"street": "b", "moved": None}]}),
        (Tree, Tree(1, [Tree(2)]), {"value": 1, "children": [{"value": 2, "children": []}]}),
        (UserId, UserId(3), 3),
        (Annotated[date, "a note"], date(2026, 7, 1), "2026-07-01"),
        (list[Person | None], [None, Person("a")], [None, {"name": "a", "addresses": []}]),
    ],
)  # fmt: skip
def test_a_value_survives_the_way_there_and_back(annotation: Any, value: object, encoded: object) -> None:
    codec = codec_for(annotation)
    assert codec.encode(value) == encoded
    decoded = codec.decode(json.loads(json.dumps(codec.encode(value))))
    assert decoded == value
    assert type(decoded) is (float if annotation is float else type(value))


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (bytes, "bytes has no form in JSON; put the data into storage and pass its id"),
        (complex, "complex has no form in JSON"),
        (object(), "has no form in JSON"),
        (T, "annotate with a type that is known here"),
        (typing.Callable[[], int], "has no form"),
        (list[bytes], "bytes"),
        (dict[tuple[int, int], str], "cannot be a key"),
        (dict[float, str], "cannot be a key"),
        (str | datetime, "str and datetime are both a JSON string"),
        (UUID | Decimal, "are both a JSON string"),
        (Address | Person, "are both a JSON object"),
        (list[int] | set[int], "are both a JSON array"),
        (float | timedelta, "are both a JSON number"),
        (Literal[b"x"], "b'x'"),
        (enum.Flag("Bits", "A B"), "has no form"),
    ],
)
def test_a_type_that_cannot_come_back_is_refused_with_what_to_do(annotation: Any, problem: str) -> None:
    with pytest.raises(UnsupportedTypeError) as refusal:
        codec_for(annotation)
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "problem"),
    [
        (int, "3", "", "expected int, got str '3'"),
        (int, True, "", "expected int, got True"),
        (int, 2**63, "", "beyond the 64 bits that the API keeps"),
        (int | None, -(2**63) - 1, "", "beyond the 64 bits"),
        pytest.param(int, 10**5000, "", "of 16610 bits", id="an integer too long to print"),
        (float, float("nan"), "", "nan is no JSON number"),
        (Any, {"a": [float("inf")]}, ".a[0]", "inf is no JSON number"),
        (Any, {"a": {1: 2}}, ".a", "the key int 1"),
        (Any, [NOON], "[0]", "is no JSON; annotate it"),
        (str, "\ud800", "", "lone surrogate"),
        (date, NOON, "", "expected date"),
        (list[str], ("a",), "", "expected list[str], got tuple"),
        (typing.Sequence[str], "abc", "", "expected Sequence[str], got str"),
        (typing.Collection[str], {"a": 1}, "", "got dict"),
        (list[str], ["a", None], "[1]", "expected str, got None"),
        (dict[str, list[int]], {"a": [1, "2"]}, ".a[1]", "expected int"),
        (dict[str, int], {1: 1}, "", "the key int 1: expected str"),
        (tuple[int, str], (1,), "", "expected tuple[int, str]"),
        (Person, Person("a", [Address(3)]), ".addresses[0].street", "expected str, got int 3"),  # type: ignore[arg-type]
        (list[Person | None], [Person(1)], "[0].name", "expected str"),  # type: ignore[arg-type]
        (Options, {"name": "a", "sise": 1}, "", "no field 'sise'; it has name, size"),
        (Options, {}, "", "lacks its field 'name'"),
        (Color, "red", "", "expected Color"),
        (Literal["a"], "b", "", "expected Literal['a'], got str 'b'"),
        (Literal[1], True, "", "expected Literal[1]"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_at_its_path(
    annotation: Any, value: object, path: str, problem: str
) -> None:
    with pytest.raises(CodecError) as refusal:
        codec_for(annotation).encode(value)
    assert refusal.value.path == path
    assert problem in refusal.value.problem


@pytest.mark.parametrize(
    ("annotation", "value", "path", "problem"),
    [
        (datetime, "yesterday", "", "expected datetime, got str 'yesterday'"),
        (UUID, "x", "", "expected UUID"),
        (Decimal, "x", "", "expected Decimal"),
        (Color, "green", "", "no Color; one of 'red', 'blue'"),
        (Level, 3, "", "one of 1, 2"),
        (Shape, "ROUND", "", "one of 'SQUARE', 'WIDE'"),
        (dict[int, str], {"x": "y"}, ".x", "no integer"),
        (Person, {"name": "a", "addresses": [{}]}, ".addresses[0]", "lacks its field 'street'"),
        (Person, [], "", "expected Person, got list []"),
        (tuple[int, int], [1, "2"], "[1]", "expected int"),
        (float, True, "", "expected float"),
        (bool, 1, "", "expected bool"),
    ],
)
def test_json_of_another_type_is_refused_at_its_path(annotation: Any, value: object, path: str, problem: str) -> None:
    with pytest.raises(CodecError) as refusal:
        codec_for(annotation).decode(value)
    assert refusal.value.path == path
    assert problem in refusal.value.problem


def test_a_float_is_a_float_though_the_api_server_made_an_integer_of_it() -> None:
    decoded = codec_for(dict[str, float]).decode({"a": 1})
    assert isinstance(decoded["a"], float)


def test_a_fields_default_is_taken_where_the_json_has_none() -> None:
    assert codec_for(Person).decode({"name": "a"}) == Person("a", [])


def test_a_class_that_checks_itself_speaks_through_the_error() -> None:
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")

    with pytest.raises(CodecError, match="Even: 3 is odd"):
        codec_for(Even).decode({"number": 3})


def test_equal_sets_are_equal_json() -> None:
    # Integers that share a hash slot keep the order in which they came.
    one, other = {8, 0}, {0, 8}
    assert list(one) != list(other)
    encode = codec_for(set[int]).encode
    assert encode(one) == encode(other)


def test_a_name_known_to_type_checkers_only_is_refused_with_what_to_do() -> None:
    @dataclass
    class Lost:
        what: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UnsupportedTypeError, match="the name 'Nowhere' of an annotation is not known here"):
        codec_for(Lost)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_any_json_is_itself(value: object) -> None:
    codec = codec_for(Any)
    assert codec.decode(json.loads(json.dumps(codec.encode(value)))) == value


@given(st.one_of(st.datetimes(), st.datetimes(timezones=st.just(UTC))))
def test_any_datetime_comes_back(value: datetime) -> None:
    codec = codec_for(datetime)
    assert codec.decode(codec.encode(value)) == value


@given(st.decimals(allow_nan=False))
def test_any_decimal_comes_back_to_the_digit(value: Decimal) -> None:
    codec = codec_for(Decimal)
    assert str(codec.decode(codec.encode(value))) == str(value)


def test_a_set_of_tuples_without_a_type_is_refused_where_it_is_enqueued() -> None:
    assert codec_for(set[tuple[int, int]]).decode(codec_for(set[tuple[int, int]]).encode({(1, 2)})) == {(1, 2)}
    with pytest.raises(CodecError, match="annotate the type of its items"):
        codec_for(set).encode({(1, 2)})


@dataclass
class Scaled:
    limit: ClassVar[int] = 10
    size: int
    by: InitVar[int] = 1

    def __post_init__(self, by: int) -> None:
        self.size *= by


@dataclass
class Unscaled:
    limit: ClassVar[int] = 10
    size: int = 1


@pytest.mark.parametrize("annotation", [dict[int | str, int], dict[Literal["a", 1], int], Scaled])
def test_what_json_would_change_is_refused_where_it_is_decorated(annotation: Any) -> None:
    with pytest.raises(UnsupportedTypeError):
        codec_for(annotation)
    assert codec_for(Unscaled).encode(Unscaled(2)) == {"size": 2}
