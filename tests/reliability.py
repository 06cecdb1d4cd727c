"""``python -m tests.reliability``: put the verdicts of `.cluster/records` into the table of docs/reliability.md."""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / ".cluster" / "records"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- the table of tests.reliability begins -->", "<!-- it ends -->"
HEAD = """\
| test | injected | Jobs | attempts | events | violations | measured |
|---|---|---|---|---|---|---|
"""


class ReliabilityError(Exception):
    """A record or the page is not as it should be; the text names it and says what to do."""


@dataclass(frozen=True)
class Run:
    """One record.

    Attributes:
        test: pytest's id of the test that wrote it.
    """

    test: str
    verdict: Mapping[str, Any]

    def row(self) -> str:
        """Its line of the table."""
        faults = ", ".join(f"{number} x {what}" for what, number in sorted(self.verdict["faults"].items())) or "none"
        counts = (f"{self.verdict[name]:,}" for name in ("jobs", "attempts", "events"))
        violations = len(self.verdict["violations"])
        cells = (f"`{self.test}`", faults, *counts, f"{violations}", "; ".join(self._measured()) or "-")
        return "| " + " | ".join(cells) + " |\n"

    def _measured(self) -> Iterable[str]:
        for what, number in self.verdict.get("measured", {}).items():
            yield f"{what}: {number:g}"
        for what, seconds in self.verdict.get("seconds", {}).items():
            yield f"s after {what}: median {statistics.median(seconds):.2f}, most {max(seconds):.2f}"
        if self.verdict["gaps"]:
            yield f"gaps in what was watched: {self.verdict['gaps']}"


def read_runs(records: Path, tests: Path) -> list[Run]:
    """Every record of a test in the folder, by the tests' ids; those of the simulation and the mutants are left out.

    Raises:
        ReliabilityError: there is none, or one whose test no longer exists.
    """
    files = sorted(records.glob("test_*.json"))
    if not files:
        raise ReliabilityError(f"{records} holds no record: run `make faults` first")
    sources = {path: path.read_text() for path in sorted(tests.rglob("test_*.py"))}
    runs = []
    for file in files:
        name = file.stem.partition("[")[0]
        found = [path for path, source in sources.items() if f"def {name}(" in source]
        if not found:
            raise ReliabilityError(f"{file}: there is no test {name}; remove the record if it was renamed")
        runs.append(Run(f"{found[0].relative_to(tests.parent)}::{file.stem}", json.loads(file.read_text())))
    return sorted(runs, key=lambda run: run.test)


def table(runs: Iterable[Run]) -> str:
    """The runs as Markdown, with their sums in the last line."""
    runs = list(runs)
    jobs, attempts, events = (f"{sum(run.verdict[name] for run in runs):,}" for name in ("jobs", "attempts", "events"))
    faults = sum(number for run in runs for number in run.verdict["faults"].values())
    violations = sum(len(run.verdict["violations"]) for run in runs)
    total = f"| **{len(runs)} runs** | {faults:,} faults | {jobs} | {attempts} | {events} | **{violations}** | |\n"
    return HEAD + "".join(run.row() for run in runs) + total


def put_into(page: str, made: str) -> str:
    """The page with the table between its markers.

    Raises:
        ReliabilityError: the markers are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReliabilityError(f"docs/reliability.md: the lines {BEGIN!r} and {END!r} must stand around the table")
    return f"{before}{BEGIN}\n{made}{END}{after}"


def main() -> int:
    """Rewrite the page; returns the exit status."""
    try:
        PAGE.write_text(put_into(PAGE.read_text(), table(read_runs(RECORDS, ROOT / "tests"))))
    except ReliabilityError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
