"""As many steps of random lives as asked for, two processes at a time, with a record at the end.

    python -m tests.simulation.campaign --steps 1000000 --jobs 2 --seed 1      a million, from that seed on
    python -m tests.simulation.campaign --steps 50000                          from a fresh seed, which it prints
    python -m tests.simulation.campaign --replay-seed 1000017 --plans 50       one batch again, as it failed
    python -m tests.simulation.campaign --plan plan.txt                        one plan again, with all that happened

A step is one change applied to the in-memory API server. Exit status 1 where a life broke an invariant.
"""

import argparse
import json
import logging
import multiprocessing
import queue
import random
import sys
import time
from multiprocessing.queues import Queue
from pathlib import Path

from tests.simulation.chaos import live
from tests.simulation.explore import SHRINK_SECONDS, BrokenError, Record, account, explore
from tests.simulation.plan import parse

BATCH = 50
"""Plans of one seed."""
BATCHES = 1_000_000
"""So far lie the seeds of two campaigns apart."""

Message = tuple[int, Record, str]
"""A batch's seed, its numbers, and the account of its failure or ""."""


def main() -> int:
    """Run what is asked for; returns the process's exit status."""
    options = parse_arguments()
    logging.disable(logging.WARNING)
    if options.plan is not None:
        return replay(options.plan)
    if options.replay_seed is not None:
        record, failure = batch(options.replay_seed, options.shrink, count=options.plans)
        return report(record, [failure] if failure else [], 0.0, options, options.replay_seed)
    first = random.SystemRandom().randrange(1, 1_000_000) if options.seed is None else options.seed
    print(f"seed {first}, {options.steps} steps, {options.jobs} processes", flush=True)
    began = time.monotonic()
    record, failures = campaign(first * BATCHES, options)
    return report(record, failures, time.monotonic() - began, options, first)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.campaign", description=about)
    parser.add_argument("--steps", type=int, default=10_000, help="at least so many (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="where to begin; a fresh one by default")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure, up to ten of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    parser.add_argument("--replay-seed", type=int, metavar="SEED", help="one batch, as a failure named it")
    parser.add_argument(
        "--plans", type=int, default=BATCH, metavar="N", help="so many plans had that batch (default: %(default)s)"
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="one plan, as a failure printed it")
    parser.add_argument("--shrink", type=float, default=SHRINK_SECONDS, metavar="SECONDS", help=argparse.SUPPRESS)
    return parser.parse_args()


def replay(file: Path) -> int:
    """Live one plan and tell all of it."""
    plan = parse(file.read_text())
    life, broken = live(plan)
    print(account(plan, life, broken or ["nothing broke"], None))
    return 1 if broken else 0


def batch(seed: int, shrink_seconds: float = SHRINK_SECONDS, *, count: int = BATCH) -> tuple[Record, str]:
    """The plans of one seed: their numbers, and the account of the failure or ""."""
    record = Record()
    try:
        explore(seed, count, record, shrink_seconds=shrink_seconds)
    except BrokenError as error:
        return record, str(error)
    return record, ""


def campaign(first: int, options: argparse.Namespace) -> tuple[Record, list[str]]:
    """Batches of one seed after the other, until the steps are done or one fails."""
    context = multiprocessing.get_context("spawn")
    results: Queue[Message] = context.Queue()
    workers = [
        context.Process(target=_work, args=(first + place, options.jobs, options.shrink, results), daemon=True)
        for place in range(options.jobs)
    ]
    for worker in workers:
        worker.start()
    total, began = Record(), time.monotonic()
    failures: list[str] = []
    most = 10 if options.keep_going else 1
    try:
        while total.steps < options.steps and len(failures) < most:
            try:
                seed, record, failure = results.get(timeout=5.0)
            except queue.Empty:
                if not all(worker.is_alive() for worker in workers):
                    failures.append("a process of the campaign has died")
                    break
                continue
            total.merge(record)
            if failure:
                failures.append(failure)
                print(f"\nseed {seed} failed: {failure.partition(chr(10))[0]}", flush=True)
            _show(total, options.steps, time.monotonic() - began)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return total, failures


def _work(first: int, stride: int, shrink_seconds: float, results: "Queue[Message]") -> None:
    logging.disable(logging.WARNING)
    seed = first
    while True:
        results.put((seed, *batch(seed, shrink_seconds)))
        seed += stride


def _show(total: Record, steps: int, seconds: float) -> None:
    rate = total.steps / max(seconds, 0.001)
    left = max(0, steps - total.steps) / max(rate, 0.001)
    line = (
        f"{total.steps} of {steps} steps, {total.runs} runs, {total.jobs} Jobs, {sum(total.faults.values())} faults, "
        f"{total.violations} violations; {rate:.0f} steps/s, {left:.0f} s left"
    )
    print(f"\r{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def report(record: Record, failures: list[str], seconds: float, options: argparse.Namespace, seed: int) -> int:
    """Print the record and each failure; returns the exit status."""
    how = {"seconds": round(seconds, 1), "processes": options.jobs, "seed": seed, "asked": options.steps}
    told = {**record.as_json(), **how}
    for failure in failures:
        print(f"\n{failure}")
    print(f"\n{json.dumps(told)}")
    print(
        f"{record.steps} steps in {record.runs} runs: {record.jobs} Jobs, {record.attempts} attempts, "
        f"{record.actions} actions, {told['faults_injected']} faults, {record.violations} violations, {seconds:.0f} s, "
        f"{record.cpu_seconds:.0f} s of the processor"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
