"""docs/state_machine.md draws what the code does: every word of it, and no other."""

import importlib
import re
from pathlib import Path

import pytest

from questline_operator.core import transitions
from questline_operator.core.states import WRITTEN_AT_ONCE, OutcomeKind, Reason, State

TEXT = (Path(__file__).parents[3] / "docs" / "state_machine.md").read_text()
CORE = "questline_operator.core"
FUNCTIONS = sorted(set(re.findall(r"`((?!status\.|spec\.)[a-z]+)\.(\w[\w.]*)`", TEXT)))


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def first_cells(title: str) -> set[str]:
    """The words in the first column of that section's table."""
    cells = re.findall(r"^\| (.*?) \|", section(title), re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"\b[A-Z]\w+", cell)}


@pytest.mark.parametrize("word", [*State, *Reason, *OutcomeKind], ids=str)
def test_every_state_reason_and_outcome_is_named(word: str) -> None:
    assert re.search(rf"\b{word}\b", TEXT), f"docs/state_machine.md does not name {word}"


def test_the_drawing_has_every_state() -> None:
    drawing = TEXT.split("```")[1]

    assert {str(state) for state in State} <= set(re.findall(r"\w+", drawing))


def test_every_reason_stands_with_its_state_and_no_other_word_does() -> None:
    told = [
        first_cells(f"Reasons of {states}")
        for states in ("Waiting", "Starting and Running", "Skipped", "Canceled", "Failed")
    ]

    assert set().union(*told) - {"ImagePullBackOff"} == {str(reason) for reason in Reason}
    assert sum(len(words) for words in told) == len(set().union(*told)), "a reason stands in two tables"


def test_the_reasons_that_need_a_person_are_bold() -> None:
    assert set(re.findall(r"\*\*([A-Z]\w+)\*\*", section("Reasons of Waiting"))) == {str(r) for r in WRITTEN_AT_ONCE}


@pytest.mark.parametrize("name", FUNCTIONS, ids=".".join)
def test_every_function_that_it_names_exists(name: tuple[str, str]) -> None:
    module, path = name
    found: object = importlib.import_module(f"{CORE}.{module}")
    for part in path.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\| \*(\w+)\* \|", TEXT))))
def test_every_transition_that_it_names_exists(name: str) -> None:
    assert callable(getattr(transitions, name))


def test_every_transition_is_named() -> None:
    public = {
        name
        for name, value in vars(transitions).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == transitions.__name__
    }

    assert public - {"explain"} == set(re.findall(r"\| \*(\w+)\* \|", TEXT)), "explain changes no state"
