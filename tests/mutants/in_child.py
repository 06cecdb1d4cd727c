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
"""Environment: the file that gets one JSON object a line, for each test that has ended."""
WHY_LIMIT = 600


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


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that has ended, or failed in its preparation."""
    if report.when == "call" or report.failed:
        note = {"test": report.nodeid, "failed": report.failed, "why": _why(report) if report.failed else ""}
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
    told = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return " ".join(told)[:WHY_LIMIT]
