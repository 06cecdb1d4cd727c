"""The deliberate bugs of tests/mutants still fit the sources; `make mutants` runs the simulation against each one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.in_child import CPU_SECONDS, FOLDER, NOTES, TEST_CPU_SECONDS
from tests.mutants.patches import PACKAGE, ROOT, Mutant, PatchError, all_mutants, copy_package

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
