"""The deliberate bugs of tests/mutants still fit the sources; `make mutants` runs the simulation against each one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.mutants.__main__ as mutants_command
from tests.mutants.in_child import CPU_SECONDS, FOLDER, NOTES, TEST_CPU_SECONDS
from tests.mutants.patches import PACKAGE, ROOT, Mutant, PatchError, all_mutants, copy_package
from tests.mutants.runner import PartRun, Result

FEWEST = 24
MUTANTS = all_mutants()


def test_there_are_enough_mutants_and_each_has_a_number_of_its_own() -> None:
    assert len(MUTANTS) >= FEWEST
    assert [mutant.number for mutant in MUTANTS] == list(range(1, len(MUTANTS) + 1))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_patch_applies_to_the_sources_and_leaves_code_that_compiles(mutant: Mutant, tmp_path: Path) -> None:
    copy_package(tmp_path)
    mutant.apply(tmp_path)
    changed = {path: path.read_text() for path in sorted((tmp_path / PACKAGE).rglob("*.py"))}
    changed = {path: text for path, text in changed.items() if text != (ROOT / path.relative_to(tmp_path)).read_text()}
    assert changed
    for path, text in changed.items():
        compile(text, str(path), "exec")


def test_a_patch_that_no_longer_applies_is_told_by_its_name(tmp_path: Path) -> None:
    copy_package(tmp_path)
    MUTANTS[0].apply(tmp_path)
    with pytest.raises(PatchError, match=f"{MUTANTS[0].name}.patch does not apply"):
        MUTANTS[0].apply(tmp_path)


def test_a_patch_that_does_not_say_what_it_breaks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "99-nameless.patch"
    path.write_text("--- a/x\n+++ b/x\n")
    with pytest.raises(PatchError, match="first line must say which promise it breaks"):
        Mutant.read(path)


def test_a_run_that_would_test_the_sources_instead_of_a_mutant_fails_loudly(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing() -> None:\n    pass\n")
    command = [sys.executable, "-m", "pytest", str(tmp_path), "-p", "tests.mutants.in_child", "-p", "no:cacheprovider"]
    environment = {**os.environ, FOLDER: str(tmp_path), NOTES: str(tmp_path / "notes")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, 1)
    assert "not from the mutant" in done.stderr
    assert not (tmp_path / "notes").exists()


def test_a_mutant_that_hangs_is_caught_by_the_time_that_its_test_takes_of_the_processor(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text("def test_hangs() -> None:\n    while True:\n        pass\n")
    command = [sys.executable, "-m", "pytest", str(tmp_path), "-p", "tests.mutants.in_child", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copy_package(tmp_path)), FOLDER: str(tmp_path)}
    environment |= {NOTES: str(tmp_path / "notes"), CPU_SECONDS: "60", TEST_CPU_SECONDS: "0.1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    note = json.loads((tmp_path / "notes").read_text())
    assert note["test"].endswith("test_hangs.py::test_hangs")
    assert note["why"].startswith("hung")


def test_a_run_that_is_stopped_keeps_the_record_of_what_it_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mutants.json"
    caught = PartRun("directed", 1.5, tests=3, failed="test_queues.py::test_x", why="no")
    seen: list[dict[str, Any]] = []

    def stopped_after_two(*_: Any) -> Iterator[Result]:
        for mutant, run in ((MUTANTS[1], caught), (MUTANTS[0], PartRun("directed", 9.0, tests=20))):
            seen.append(json.loads(path.read_text()))
            yield Result(mutant, (run,))
        seen.append(json.loads(path.read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["mutants", "1", "2", "3", "--json", str(path)])
    monkeypatch.setattr(os, "nice", lambda increment: 0)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(
        mutants_command, "run_control", lambda options: Result(None, (PartRun("random", 1.0, tests=5),))
    )
    monkeypatch.setattr(mutants_command, "run_all", stopped_after_two)

    with pytest.raises(KeyboardInterrupt):
        mutants_command.main()

    assert [[mutant["verdict"] for mutant in record["mutants"]] for record in seen] == [
        [],
        ["caught"],
        ["survived", "caught"],
    ], "in the order of their names"
    assert [record["chosen"] for record in seen] == [3, 3, 3]
    assert seen[0]["control"][0]["tests"] == 5
    assert list(tmp_path.iterdir()) == [path]
