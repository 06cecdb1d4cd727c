"""The table of docs/reliability.md is made from the records of the runs, and from nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reliability import BEGIN, END, PAGE, ReliabilityError, put_into, read_runs, table


@pytest.fixture
def tests_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tests" / "cluster"
    folder.mkdir(parents=True)
    (folder / "test_fire.py").write_text("async def test_fire_breaks_nothing(run: Run) -> None: ...\n")
    return tmp_path / "tests"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    return folder


def _keep(records: Path, name: str, **fields: Any) -> None:
    verdict = {"jobs": 1_000, "attempts": 1_100, "events": 9_000, "gaps": 0, "faults": {}, "violations": [], **fields}
    (records / f"{name}.json").write_text(json.dumps(verdict))


def test_each_record_is_a_line_with_the_id_that_runs_it_again_and_the_last_line_is_their_sum(
    records: Path, tests_folder: Path
) -> None:
    _keep(records, "test_fire_breaks_nothing[ci]", faults={"fire": 2}, measured={"s until it was out": 3.5})
    _keep(records, "test_fire_breaks_nothing[full]", faults={"fire": 9}, seconds={"fire": [1.0, 2.0, 9.0]}, gaps=1)
    lines = table(read_runs(records, tests_folder)).splitlines()
    test = "tests/cluster/test_fire.py::test_fire_breaks_nothing"
    assert lines[2:] == [
        f"| `{test}[ci]` | 2 x fire | 1,000 | 1,100 | 9,000 | 0 | s until it was out: 3.5 |",
        f"| `{test}[full]` | 9 x fire | 1,000 | 1,100 | 9,000 | 0 "
        "| s after fire: median 2.00, most 9.00; gaps in what was watched: 1 |",
        "| **2 runs** | 11 faults | 2,000 | 2,200 | 18,000 | **0** | |",
    ]


def test_a_violation_is_shown_and_not_hidden(records: Path, tests_folder: Path) -> None:
    (records / "simulation.json").write_text("{}")
    _keep(records, "test_fire_breaks_nothing", violations=["2, at 7: two live pods"])
    assert table(read_runs(records, tests_folder)).endswith("| 9,000 | **1** | |\n")


def test_a_record_whose_test_is_gone_is_named(records: Path, tests_folder: Path) -> None:
    _keep(records, "test_flood_breaks_nothing")
    with pytest.raises(ReliabilityError, match="there is no test test_flood_breaks_nothing"):
        read_runs(records, tests_folder)


def test_without_a_record_nothing_is_written(records: Path, tests_folder: Path) -> None:
    with pytest.raises(ReliabilityError, match="run `make faults` first"):
        read_runs(records, tests_folder)


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert put_into(page, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ReliabilityError, match="must stand around the table"):
        put_into("no markers", "new\n")


def test_the_page_has_its_markers() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
