"""Proves that the simulation notices bugs: runs it against copies of the operator, each with a deliberate one.

    python -m tests.mutants [NUMBER or NAME ...] [--timeout SECONDS] [--jobs N] [--json FILE] [--list]

Exit status 0 only if the code as it is passes and every mutant is caught; 1 if one survives or a patch does not apply.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.mutants.patches import Mutant, PatchError, all_mutants
from tests.mutants.runner import PARTS, RANDOM_SECONDS, PartRun, Result, kill_all, run_mutant

NICENESS = 10
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main() -> int:
    """Run the control, then the mutants; returns the process's exit status."""
    options = parse_arguments()
    try:
        mutants = chosen(all_mutants(), options.mutants)
    except PatchError as error:
        console.print(str(error), markup=False)
        return 1
    if options.list:
        for mutant in mutants:
            console.print(f"{mutant.name}: {mutant.breaks}", markup=False)
        return 0
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    console.print(
        f"control: the code as it is, up to {options.timeout:g} CPU seconds of random runs and all directed ones"
    )
    control = run_control(options)
    if control.verdict != "survived":
        console.print(f"control: {failure_of(control)}", markup=False)
        return 1
    tests = sum(run.tests for run in control.runs)
    console.print(f"control: {tests} tests passed in {time.monotonic() - began:.0f} s; {len(mutants)} mutants follow")
    results: list[Result] = []
    write_record(options.json, control, results, len(mutants))
    with closing(run_all(mutants, options)) as running:
        for result in running:
            results.append(result)
            write_record(options.json, control, results, len(mutants))
            console.print(f"[{len(results)}/{len(mutants)}] {line_of(result)}", markup=False)
    results = in_order(results)
    console.print(table_of(results))
    console.print(summary_of(results, time.monotonic() - began), markup=False)
    return 0 if all(result.verdict == "caught" for result in results) else 1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mutants", nargs="*", metavar="MUTANT", help="number or name (or a part of it); all by default")
    parser.add_argument(
        "--timeout",
        type=float,
        default=RANDOM_SECONDS,
        metavar="SECONDS",
        help="CPU seconds of random runs for each mutant, before the directed tests (default: %(default)g)",
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutants at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, as they come")
    parser.add_argument("--list", action="store_true", help="name the mutants and run none")
    return parser.parse_args()


def chosen(mutants: Sequence[Mutant], words: Sequence[str]) -> list[Mutant]:
    """Those that the words name, all where there are none.

    Raises:
        PatchError: a word names no mutant.
    """
    found: list[Mutant] = []
    for word in words:
        named = [m for m in mutants if (m.number == int(word) if word.isdecimal() else word in m.name)]
        if not named:
            raise PatchError(f"there is no mutant {word}: --list names them")
        found += [mutant for mutant in named if mutant not in found]
    return found if words else list(mutants)


def run_control(options: argparse.Namespace) -> Result:
    """Both parts against the unchanged code, side by side."""
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run_mutant, None, random_seconds=options.timeout, parts=(part,)) for part in PARTS]
        try:
            return Result(None, tuple(run for each in runs for run in each.result().runs))
        except KeyboardInterrupt:
            _leave(pool)
            raise


def run_all(mutants: Sequence[Mutant], options: argparse.Namespace) -> Generator[Result, None, None]:
    """The results in the order in which they come."""
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run_mutant, one, random_seconds=options.timeout) for one in mutants]
        try:
            for done in as_completed(runs):
                yield done.result()
        except (KeyboardInterrupt, GeneratorExit):
            _leave(pool)
            raise


def _leave(pool: ThreadPoolExecutor) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    kill_all()


def failure_of(result: Result) -> str:
    """What of it failed or broke."""
    told = [result.broken, *(run.broken or (f"{run.failed}: {run.why}" if run.failed else "") for run in result.runs)]
    return "; ".join(one for one in told if one)


def line_of(result: Result) -> str:
    """One line of progress."""
    name = result.mutant.name if result.mutant else "control"
    run = result.caught
    if result.verdict == "broken":
        return f"{name}: BROKEN: {failure_of(result)}"
    if run is None:
        return f"{name}: SURVIVED {result.seconds:.0f} CPU seconds of the simulation"
    return f"{name}: caught by a {run.part} run after {result.seconds:.1f} CPU seconds: {name_of_test(run)}"


def name_of_test(run: PartRun) -> str:
    """The test's own name, without its file's path."""
    return run.failed.rpartition("/")[2]


def table_of(results: Sequence[Result]) -> Table:
    """Every mutant, what it breaks, and what caught it."""
    table = Table(title="Deliberate bugs, and what catches them", title_justify="left", show_lines=False)
    for column in ("mutant", "breaks", "by", "test or seed"):
        table.add_column(column, overflow="fold")
    table.add_column("CPU seconds", justify="right")
    for result in results:
        assert result.mutant is not None
        run = result.caught
        by = run.part if run else result.verdict.upper()
        test = name_of_test(run).partition("::")[2] if run else failure_of(result)[:200]
        table.add_row(result.mutant.name, result.mutant.breaks, by, test, f"{result.seconds:.1f}")
    return table


def summary_of(results: Sequence[Result], seconds: float) -> str:
    """The counts, and the names of those that are holes."""
    lines = []
    for what, names in (
        ("survived", [r.mutant.name for r in results if r.mutant and r.verdict == "survived"]),
        ("broken", [r.mutant.name for r in results if r.mutant and r.verdict == "broken"]),
        ("caught by no random run", [r.mutant.name for r in results if r.mutant and _only_directed(r)]),
    ):
        if names:
            lines.append(f"{what}: {', '.join(names)}")
    caught = sum(result.verdict == "caught" for result in results)
    by_random = sum(result.caught is not None and result.caught.part == "random" for result in results)
    lines.append(f"{caught} of {len(results)} caught, {by_random} of them by random runs, in {seconds:.0f} s")
    return "\n".join(lines)


def _only_directed(result: Result) -> bool:
    return result.verdict == "caught" and result.caught is not None and result.caught.part == "directed"


def in_order(results: Sequence[Result]) -> list[Result]:
    """The results by the mutants' numbers."""
    return sorted(results, key=lambda result: result.mutant.name if result.mutant else "")


def write_record(path: Path | None, control: Result, results: Sequence[Result], chosen: int) -> None:
    """Put everything that is known into that file: a run that takes an hour may be stopped."""
    if path is None:
        return
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(record_of(control, results, chosen), indent=2) + "\n")
    unfinished.replace(path)


def record_of(control: Result, results: Sequence[Result], chosen: int) -> dict[str, Any]:
    """Everything as JSON; of a run that was stopped, ``chosen`` is more than the mutants in it."""
    return {
        "chosen": chosen,
        "control": [asdict(run) for run in control.runs],
        "mutants": [
            {
                "name": result.mutant.name,
                "breaks": result.mutant.breaks,
                "verdict": result.verdict,
                "seconds": result.seconds,
                "broken": result.broken,
                "runs": [asdict(run) for run in result.runs],
            }
            for result in in_order(results)
            if result.mutant
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
