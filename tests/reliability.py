"""``python -m tests.reliability``: put the records of `.cluster/records` into docs/reliability.md."""

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
BEGIN, END = "<!-- {block} begins -->", "<!-- it ends -->"
RUNS, CAMPAIGN, MUTANTS = "the table of the fault runs", "the record of the campaign", "the table of the mutants"
"""The blocks of the page."""
HEAD_OF_RUNS = """\
| test | injected | Jobs | attempts | events | violations | measured |
|---|---|---|---|---|---|---|
"""
HEAD_OF_MUTANTS = """\
| bug | breaks | caught by | CPU seconds |
|---|---|---|---|
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
    return HEAD_OF_RUNS + "".join(run.row() for run in runs) + total


def campaign(record: Mapping[str, Any]) -> str:
    """What `tests.simulation.campaign` counted, and every kind of fault."""
    counts = {name: f"{record[name]:,}" for name in ("steps", "runs", "jobs", "attempts", "actions", "faults_injected")}
    violations = f"{record['violations']} violation{'s' if record['violations'] != 1 else ''}"
    kinds = ", ".join(f"{number:,} x {kind}" for kind, number in sorted(record["faults"].items()))
    return (
        f"`make simulate STEPS={record['asked']} SEED={record['seed']}`: {counts['steps']} steps in {counts['runs']} "
        f"lives, with {counts['jobs']} Jobs, {counts['attempts']} attempts, {counts['actions']} deeds that found "
        f"something to act on, and {counts['faults_injected']} faults; **{violations}**, in "
        f"{record['seconds']:,.0f} s of {record['processes']} processes.\n\nThe faults: {kinds}.\n"
    )


def mutants(record: Mapping[str, Any]) -> str:
    """Every bug of `tests.mutants`, and how long it took to find."""
    rows, found = [], 0
    for mutant in record["mutants"]:
        catcher = next((run for run in mutant["runs"] if run["failed"]), None)
        by = mutant["verdict"]
        if catcher is not None:
            random = catcher["part"] == "random"
            found += random
            by = "random lives" if random else f"`{catcher['failed'].rpartition('::')[2]}`"
        rows.append(f"| `{mutant['name']}` | {mutant['breaks']} | {by} | {mutant['seconds']:.1f} |\n")
    caught = sum(mutant["verdict"] == "caught" for mutant in record["mutants"])
    total = (
        f"**{caught} of {len(rows)} are caught**, {found} of them by random lives before a directed test was run.\n\n"
    )
    return total + HEAD_OF_MUTANTS + "".join(rows)


def put_into(page: str, block: str, made: str) -> str:
    """The page with that text between the block's markers.

    Raises:
        ReliabilityError: the markers are not there.
    """
    begin = BEGIN.format(block=block)
    before, begins, rest = page.partition(begin)
    _, ends, after = rest.partition(END)
    if not begins or not ends:
        raise ReliabilityError(f"docs/reliability.md: the lines {begin!r} and {END!r} must stand around {block}")
    return f"{before}{begin}\n{made}{END}{after}"


def main() -> int:
    """Rewrite the blocks of the page whose records there are; returns the exit status."""
    try:
        page = put_into(PAGE.read_text(), RUNS, table(read_runs(RECORDS, ROOT / "tests")))
        for name, block, told in (("simulation", CAMPAIGN, campaign), ("mutants", MUTANTS, mutants)):
            file = RECORDS / f"{name}.json"
            if file.exists():
                page = put_into(page, block, told(json.loads(file.read_text())))
    except ReliabilityError as error:
        print(error, file=sys.stderr)
        return 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
