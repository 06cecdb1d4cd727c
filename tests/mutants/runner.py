"""Runs the simulation against a copy of the operator's package, with a mutant's patch applied or without one.

The random runs come first: that they catch a mutant is the real proof, since a directed test knows what it looks for.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.mutants.in_child import CPU_SECONDS, FOLDER, NOTES, TEST_CPU_SECONDS, TIME_IS_OVER
from tests.mutants.patches import ROOT, Mutant, PatchError, copy_package

SIMULATION = Path("tests/simulation")
RANDOM_FILES = ("test_faults.py",)
"""The tests that draw what happens."""
OF_THE_MODEL = ("test_apiserver.py", "test_clock.py", "test_replay.py")
"""Tests of the simulation itself, in which nothing of the operator runs."""
LAST_FILES = ("test_leaks.py",)
"""Those that take longest and find least."""
RANDOM_SECONDS = 60.0
"""CPU seconds of random runs."""
DIRECTED_SECONDS = 600.0
ONE_TEST_SECONDS = 60.0
"""A directed test that takes more CPU seconds hangs, and has failed."""
WALL_FACTOR = 20.0
"""So much longer, by the clock on the wall, a process may take on a busy machine."""
MANY_PLANS = "2000"
"""More random lives than there is time for."""

Part = Literal["random", "directed"]
PARTS: tuple[Part, ...] = ("random", "directed")
_processes: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class PartRun:
    """One part of the simulation against one package.

    Attributes:
        seconds: CPU seconds that the process took: for a part that failed, to detection.
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


def files_of(part: Part) -> list[str]:
    """The test files of that part, as they are now: new ones of the simulation are directed unless named here."""
    names = sorted(path.name for path in (ROOT / SIMULATION).glob("test_*.py"))
    chosen = [n for n in names if n not in OF_THE_MODEL and (n in RANDOM_FILES) == (part == "random")]
    return [str(SIMULATION / name) for name in sorted(chosen, key=lambda name: name in LAST_FILES)]


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


def kill_all() -> None:
    """End every run that is under way: whoever started them leaves."""
    for process in list(_processes):
        process.kill()


def _run_part(part: Part, folder: Path, import_path: Path, seconds: float) -> PartRun:
    notes = folder / f"{part}.jsonl"
    command = [sys.executable, "-m", "pytest", *files_of(part), "-x", "-q", "-m", "not long"]
    command += ["-p", "no:cacheprovider", "-p", "tests.mutants.in_child", "-o", "timeout=0"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(import_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        FOLDER: str(folder),
        NOTES: str(notes),
        CPU_SECONDS: str(seconds),
        TEST_CPU_SECONDS: str(seconds if part == "random" else ONE_TEST_SECONDS),
        "CHAOS_SEEDS": MANY_PLANS,
        "CHAOS_SHRINK_SECONDS": "0",
        # What Hypothesis remembers of a mutant must reach neither the next mutant nor anybody's own runs.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    output, status = _run(command, environment, seconds * WALL_FACTOR)
    ended = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    first = next((note for note in ended if note["failed"]), None)
    if first is not None:
        return PartRun(part, first["cpu"], len(ended), failed=first["test"], why=first["why"])
    took = ended[-1]["cpu"] if ended and status == 0 else seconds
    if part == "random" and status == TIME_IS_OVER:
        return PartRun(part, took, len(ended), timed_out=True)
    if status:
        tail = " ".join(output.split())[-1_000:]
        return PartRun(part, took, len(ended), broken=f"pytest ended with status {status}: {tail}")
    return PartRun(part, took, len(ended))


def _run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[str, int]:
    """The output and the exit status of a process that is killed after so long."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        _processes.add(process)
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        try:
            return process.communicate()[0], process.returncode
        finally:
            killer.cancel()
            _processes.discard(process)
