"""A pytest plugin for the process that tests a mutant: proves that the mutant is what it tests, and notes each test.

It also ends the process when its time is over, or a test's. That time is the processor's: how busy the machine is must
not decide what counts as a hang. A thread does it, since a loop of virtual time takes no exception out of a signal.

The checkout is installed in the environment by an import hook. A run that tested the sources instead of the mutant
would call every mutant a survivor, and the control run would prove nothing.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

FOLDER = "QUESTLINE_MUTANT_FOLDER"
"""Environment: the folder that `questline_operator` must come from."""
NOTES = "QUESTLINE_MUTANT_NOTES"
"""Environment: the file that gets one JSON object a line, for each test that has ended."""
CPU_SECONDS = "QUESTLINE_MUTANT_CPU_SECONDS"
"""Environment: how long the process may run, in CPU seconds ..."""
TEST_CPU_SECONDS = "QUESTLINE_MUTANT_TEST_CPU_SECONDS"
"""... and one test of it."""
TIME_IS_OVER = 75
"""The exit status of a process whose time was over."""
LOOK_SECONDS = 0.2
WHY_LIMIT = 600
WHY_LINES = 10


def pytest_configure() -> None:
    """Refuse to run a single test of any other package than the mutant's.

    Raises:
        pytest.UsageError: another package would be tested.
    """
    import questline_operator  # noqa: F401

    _check_origin()
    threading.Thread(target=_WATCH.run, daemon=True).start()


def pytest_sessionfinish() -> None:
    """The same of what was imported since; an error here fails the run as such, not as a mutant that was caught."""
    _check_origin()


def pytest_runtest_logstart(nodeid: str) -> None:
    """Have the time of a test that begins looked at."""
    _WATCH.test, _WATCH.test_began = nodeid, time.process_time()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that has ended, or failed in its preparation."""
    if report.when == "call" or report.failed:
        _note(report.nodeid, failed=report.failed, why=_why(report) if report.failed else "")


class _Watch:
    """Ends the process when its time is over, or that of the test that runs."""

    def __init__(self) -> None:
        self.test = ""
        self.test_began = 0.0

    def run(self) -> None:
        """Look at the time until it is over."""
        whole, one = float(os.environ[CPU_SECONDS]), float(os.environ[TEST_CPU_SECONDS])
        while True:
            time.sleep(LOOK_SECONDS)
            now = time.process_time()
            if now >= whole:
                os._exit(TIME_IS_OVER)
            if self.test and now >= self.test_began + one:
                _note(self.test, failed=True, why=f"hung: it took more than {one:g} s of CPU time")
                os._exit(pytest.ExitCode.TESTS_FAILED)


_WATCH = _Watch()


def _note(test: str, *, failed: bool, why: str) -> None:
    note = {"test": test, "failed": failed, "why": why, "cpu": time.process_time()}
    with Path(os.environ[NOTES]).open("a") as file:
        file.write(json.dumps(note) + "\n")


def _check_origin() -> None:
    folder = Path(os.environ[FOLDER]).resolve()
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if name.partition(".")[0] != "questline_operator" or origin is None:
            continue
        if not Path(origin).resolve().is_relative_to(folder):
            raise pytest.UsageError(f"{name} was imported from {origin}, not from the mutant in {folder}")


def _why(report: pytest.TestReport) -> str:
    """The error's own lines of pytest's account, on one line."""
    lines = report.longreprtext.splitlines()
    # A group of errors is told as Python tells it, without pytest's marks: its last words are as good.
    told = [line[1:].strip() for line in lines if line.startswith("E ")] or lines[-WHY_LINES:]
    return " ".join(told)[:WHY_LIMIT]
