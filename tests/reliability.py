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
    """A line of the table.

    Attributes:
        test: pytest's id of the test that made the run.
        injected: the faults, as "2 x etcd killed, 1 x rollout", or "none".
        measured: what else it tells, or "-".
    """

    test: str
    injected: str
    jobs: int
    attempts: int
    events: int
    violations: int
    measured: str

    @classmethod
    def of_record(cls, test: str, verdict: Mapping[str, Any]) -> "Run":
        """What the verdict of a run says."""
        faults = ", ".join(f"{number} x {what}" for what, number in sorted(verdict["faults"].items())) or "none"
        jobs, attempts, events = (verdict[name] for name in ("jobs", "attempts", "events"))
        measured = "; ".join(_measured(verdict)) or "-"
        return cls(test, faults, jobs, attempts, events, len(verdict["violations"]), measured)

    @classmethod
    def of_row(cls, line: str) -> "Run":
        """What stands in the page already, as `row` wrote it."""
        test, injected, *counts, measured = (cell.strip() for cell in line.strip("| \n").split(" | "))
        jobs, attempts, events, violations = (int(count.replace(",", "")) for count in counts)
        return cls(test.strip("`"), injected, jobs, attempts, events, violations, measured)

    def row(self) -> str:
        """Its line of the table."""
        counts = " | ".join(f"{count:,}" for count in (self.jobs, self.attempts, self.events, self.violations))
        return f"| `{self.test}` | {self.injected} | {counts} | {self.measured} |\n"

    @property
    def faults(self) -> int:
        """How many were injected."""
        return sum(int(one.partition(" x ")[0]) for one in self.injected.split(", ") if " x " in one)


def _measured(verdict: Mapping[str, Any]) -> Iterable[str]:
    for what, number in verdict.get("measured", {}).items():
        yield f"{what}: {number:g}"
    for what, seconds in verdict.get("seconds", {}).items():
        yield f"s after {what}: median {statistics.median(seconds):.2f}, most {max(seconds):.2f}"
    if verdict["gaps"]:
        yield f"gaps in what was watched: {verdict['gaps']}"


def read_runs(records: Path, tests: Path, page: str = "") -> list[Run]:
    """The runs whose records are in the folder, and those of the page that have none there: the long ones are not all
    run on one machine on one day. What the page says of a test that is no more is left out.

    Raises:
        ReliabilityError: there is no record, or one whose test no longer exists.
    """
    files = sorted(records.glob("test_*.json"))
    if not files:
        raise ReliabilityError(f"{records} holds no record: run `make faults` first")
    sources = {f"{path.relative_to(tests.parent)}": path.read_text() for path in sorted(tests.rglob("test_*.py"))}
    runs: dict[str, Run] = {}
    for line in _between(page, RUNS)[1].splitlines() if page else ():
        if line.startswith("| `"):
            run = Run.of_row(line)
            path, _, test = run.test.partition("::")
            if f"def {test.partition('[')[0]}(" in sources.get(path, ""):
                runs[run.test] = run
    for file in files:
        name = file.stem.partition("[")[0]
        found = next((path for path, source in sources.items() if f"def {name}(" in source), None)
        if found is None:
            raise ReliabilityError(f"{file}: there is no test {name}; remove the record if it was renamed")
        test = f"{found}::{file.stem}"
        runs[test] = Run.of_record(test, json.loads(file.read_text()))
    return [runs[test] for test in sorted(runs)]


def table(runs: Iterable[Run]) -> str:
    """The runs as Markdown, with their sums in the last line."""
    runs = list(runs)
    jobs, attempts, events = (f"{sum(getattr(run, name) for run in runs):,}" for name in ("jobs", "attempts", "events"))
    faults, violations = (sum(getattr(run, name) for run in runs) for name in ("faults", "violations"))
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
    before, _, after = _between(page, block)
    return f"{before}{BEGIN.format(block=block)}\n{made}{END}{after}"


def _between(page: str, block: str) -> tuple[str, str, str]:
    """What stands before the block's markers, between them, and after them."""
    begin = BEGIN.format(block=block)
    before, begins, rest = page.partition(begin)
    inside, ends, after = rest.partition(END)
    if not begins or not ends:
        raise ReliabilityError(f"docs/reliability.md: the lines {begin!r} and {END!r} must stand around {block}")
    return before, inside, after


def main() -> int:
    """Rewrite the blocks of the page whose records there are; returns the exit status."""
    try:
        page = PAGE.read_text()
        page = put_into(page, RUNS, table(read_runs(RECORDS, ROOT / "tests", page)))
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
