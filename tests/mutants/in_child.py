"""A pytest plugin for the process that tests a mutant: proves that the mutant is what it tests, and notes each test.

The checkout is installed in the environment by an import hook. A run that tested the sources instead of the mutant
would call every mutant a survivor, and the control run would prove nothing.
"""

import json
import os
import sys
from pathlib import Path

import pytest

FOLDER = "QUESTLINE_MUTANT_FOLDER"
"""Environment: the folder that `questline_operator` must come from."""
NOTES = "QUESTLINE_MUTANT_NOTES"
"""Environment: the file that gets one JSON object a line, for each test when it begins and when it has ended."""
WHY_LIMIT = 600
WHY_LINES = 10


def pytest_configure() -> None:
    """Refuse to run a single test of any other package than the mutant's.

    Raises:
        pytest.UsageError: another package would be tested.
    """
    import questline_operator  # noqa: F401

    _check_origin()


def pytest_sessionfinish() -> None:
    """The same of what was imported since; an error here fails the run as such, not as a mutant that was caught."""
    _check_origin()


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note a test that begins: one that hangs is never heard of again."""
    _note(test=nodeid, ended=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that has ended, or failed in its preparation."""
    if report.when == "call" or report.failed:
        _note(test=report.nodeid, ended=True, failed=report.failed, why=_why(report) if report.failed else "")


def _note(**note: str | bool) -> None:
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
