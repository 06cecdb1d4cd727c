"""Runs the simulation against a copy of the operator's package, with a mutant's patch applied or without one.

The random runs come first: that they catch a mutant is the real proof, since a directed test knows what it looks for.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.mutants.in_child import FOLDER, NOTES
from tests.mutants.patches import ROOT, Mutant, PatchError, copy_package

SIMULATION = Path("tests/simulation")
RANDOM_FILES = ("test_faults.py",)
"""The tests that draw what happens."""
OF_THE_MODEL = ("test_apiserver.py",)
"""Tests of the simulation itself, in which nothing of the operator runs."""
RANDOM_SECONDS = 90.0
DIRECTED_SECONDS = 300.0
ONE_TEST_SECONDS = 60
"""A directed test that takes longer hangs, and has failed."""
MANY_PLANS = "2000"
"""More random lives than there is time for."""

Part = Literal["random", "directed"]
PARTS: tuple[Part, ...] = ("random", "directed")
PYTEST_FAILED = 1


@dataclass(frozen=True)
class PartRun:
    """One part of the simulation against one package.

    Attributes:
        seconds: from the start of the process to its end: for a part that failed, the time to detection.
        tests: how many ended.
        failed: the test that failed, or "".
        why: what it said.
        timed_out: whether the time was over before all tests were.
        broken: why the run proves nothing, or "".
    """

    part: Part
    seconds: float
    tests: int = 0
    failed: str = ""
    why: str = ""
    timed_out: bool = False
    broken: str = ""


@dataclass(frozen=True)
class Result:
    """What became of one mutant; of the control run, where ``mutant`` is None."""

    mutant: Mutant | None
    runs: Sequence[PartRun] = field(default_factory=tuple)
    broken: str = ""

    @property
    def caught(self) -> PartRun | None:
        """The run that caught it, the first of them."""
        return next((run for run in self.runs if run.failed), None)

    @property
    def verdict(self) -> Literal["caught", "survived", "broken"]:
        """Broken: its patch does not apply, or its code does not even import, so nothing was proved."""
        if self.broken or any(run.broken for run in self.runs):
            return "broken"
        return "caught" if self.caught else "survived"

    @property
    def seconds(self) -> float:
        """The time to detection, the parts before the one that caught it included; else the time spent."""
        return sum(run.seconds for run in self.runs)


def test_files(part: Part) -> list[str]:
    """The test files of that part, as they are now: new ones of the simulation are directed unless named here."""
    names = sorted(path.name for path in (ROOT / SIMULATION).glob("test_*.py"))
    chosen = [n for n in names if n not in OF_THE_MODEL and (n in RANDOM_FILES) == (part == "random")]
    return [str(SIMULATION / name) for name in chosen]


def run_mutant(mutant: Mutant | None, *, random_seconds: float, parts: Sequence[Part] = PARTS) -> Result:
    """Run the parts until one fails; without a mutant all of them, against the code as it is."""
    with tempfile.TemporaryDirectory(prefix="questline-mutant-") as name:
        folder = Path(name)
        import_path = copy_package(folder)
        if mutant is not None:
            try:
                mutant.apply(folder)
            except PatchError as error:
                return Result(mutant, broken=str(error))
        runs: list[PartRun] = []
        for part in parts:
            seconds = random_seconds if part == "random" else DIRECTED_SECONDS
            runs.append(_run_part(part, folder, import_path, seconds))
            if runs[-1].failed or runs[-1].broken:
                break
        return Result(mutant, tuple(runs))


def _run_part(part: Part, folder: Path, import_path: Path, seconds: float) -> PartRun:
    notes = folder / f"{part}.jsonl"
    command = [sys.executable, "-m", "pytest", *test_files(part), "-x", "-q", "-m", "not long"]
    command += ["-p", "no:cacheprovider", "-p", "tests.mutants.in_child"]
    if part == "directed":
        # By a thread, which ends the process: a loop of virtual time takes no exception out of a signal's handler.
        command += ["--timeout", str(ONE_TEST_SECONDS), "--timeout-method", "thread"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(import_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        FOLDER: str(folder),
        NOTES: str(notes),
        "CHAOS_SEEDS": MANY_PLANS,
        "CHAOS_SHRINK_SECONDS": "0",
        # What Hypothesis remembers of a mutant must reach neither the next mutant nor anybody's own runs.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        done = None
    took = time.monotonic() - began
    noted = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    ended = [note for note in noted if note["ended"]]
    first = next((note for note in ended if note["failed"]), None)
    if first is not None:
        return PartRun(part, took, len(ended), failed=first["test"], why=first["why"])
    if done is None:
        # Directed tests all have an end: that they did not reach it in time says nothing about the mutant.
        late = "" if part == "random" else f"the directed tests took more than {seconds:g} s"
        return PartRun(part, took, len(ended), timed_out=True, broken=late)
    if done.returncode == PYTEST_FAILED and noted and not noted[-1]["ended"] and "Timeout" in done.stderr + done.stdout:
        return PartRun(part, took, len(ended), failed=noted[-1]["test"], why=f"hung for {ONE_TEST_SECONDS} s")
    if done.returncode:
        tail = " ".join((done.stdout + done.stderr).split())[-1_000:]
        return PartRun(part, took, len(ended), broken=f"pytest ended with status {done.returncode}: {tail}")
    return PartRun(part, took, len(ended))
