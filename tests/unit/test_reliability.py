"""What docs/reliability.md tells is made from the records of the runs, and from nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reliability import (
    BEGIN,
    CAMPAIGN,
    END,
    MUTANTS,
    PAGE,
    RUNS,
    ReliabilityError,
    campaign,
    mutants,
    put_into,
    read_runs,
    table,
)


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


def test_a_run_without_a_record_here_keeps_its_line_while_there_is_its_test(records: Path, tests_folder: Path) -> None:
    _keep(records, "test_fire_breaks_nothing[ci]", faults={"fire": 2})
    _keep(records, "test_fire_breaks_nothing[full]", faults={"fire": 9, "flood": 1}, seconds={"fire": [1.0]})
    begin = BEGIN.format(block=RUNS)
    written = table(read_runs(records, tests_folder))
    gone = written.replace("test_fire_breaks", "test_flood_breaks")
    (records / "test_fire_breaks_nothing[full].json").unlink()
    assert table(read_runs(records, tests_folder, f"{begin}\n{written}{END}")) == written
    _keep(records, "test_fire_breaks_nothing[ci]", faults={"fire": 3})
    again = written.replace("2 x fire", "3 x fire").replace("12 faults", "13 faults")
    assert table(read_runs(records, tests_folder, f"{begin}\n{written}{gone}{END}")) == again


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


def test_the_campaign_is_told_with_the_command_that_repeats_it() -> None:
    counts = dict.fromkeys(("steps", "runs", "jobs", "attempts", "actions", "faults_injected"), 1_000)
    record = {"asked": 900, "seed": 7, "seconds": 60.0, "processes": 2, "violations": 3, "faults": {"fire": 2_000}}
    told = campaign(record | counts)
    assert told.startswith("`make simulate STEPS=900 SEED=7`: 1,000 steps in 1,000 lives")
    assert "**3 violations**, in 60 s" in told
    assert told.endswith("The faults: 2,000 x fire.\n")


def test_each_bug_is_a_line_with_what_caught_it_and_one_that_survived_shows() -> None:
    def bug(name: str, verdict: str, *runs: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "breaks": "A promise.", "verdict": verdict, "seconds": 1.25, "runs": runs}

    passed, failed = {"part": "random", "failed": ""}, {"part": "random", "failed": "tests/a.py::test_lives[1]"}
    directed = {"part": "directed", "failed": "tests/b.py::test_b"}
    found = [bug("01-a", "caught", failed), bug("02-b", "caught", passed, directed), bug("03-c", "survived", passed)]
    lines = mutants({"mutants": found}).splitlines()
    assert lines[0] == "**2 of 3 are caught**, 1 of them by random lives before a directed test was run."
    assert lines[4:] == [
        "| `01-a` | A promise. | random lives | 1.2 |",
        "| `02-b` | A promise. | `test_b` | 1.2 |",
        "| `03-c` | A promise. | survived | 1.2 |",
    ]


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    begin = BEGIN.format(block=RUNS)
    page = f"before\n{begin}\nold\n{END}\nafter\n"
    assert put_into(page, RUNS, "new\n") == f"before\n{begin}\nnew\n{END}\nafter\n"
    with pytest.raises(ReliabilityError, match="must stand around the table"):
        put_into("no markers", RUNS, "new\n")


def test_the_page_has_its_markers() -> None:
    page = PAGE.read_text()
    assert all(page.count(BEGIN.format(block=block)) == 1 for block in (RUNS, CAMPAIGN, MUTANTS))
    assert page.count(END) == 3
