"""Draws plans from a seed with Hypothesis, lives each, and has a failure shrunk to a small plan that is printed.

One seed and one number of plans are one batch, the same each time: Hypothesis draws from these alone and remembers
nothing. (Of more plans with that seed the first few alone would be the same.)
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture.providers import HypothesisProvider

from tests.simulation.chaos import Life, live
from tests.simulation.plan import Plan
from tests.simulation.plan_drawing import plans

SHRINK_SECONDS = 60.0
"""After the first failure of a batch so long is looked for a smaller plan that fails too."""


@dataclass
class Record:
    """What runs came to, in numbers.

    Attributes:
        steps: changes applied to the API server, renewals of the Lease not counted.
        actions: what the plans asked or did.
        faults: how often each kind was injected.
        violations: runs that broke an invariant.
        cpu_seconds: what the processor took for all of it.
    """

    steps: int = 0
    actions: int = 0
    runs: int = 0
    jobs: int = 0
    attempts: int = 0
    violations: int = 0
    cpu_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, life: Life) -> None:
        """Count a life."""
        self.steps += life.steps
        self.actions += life.actions
        self.runs += 1
        self.jobs += len(life.judge.jobs)
        self.attempts += len(life.cluster.kubelet.runs)
        self.faults.update({kind: number for kind, number in life.faults.items() if number})

    def merge(self, other: "Record") -> None:
        """Add another one's numbers."""
        self.faults.update(other.faults)
        for each in fields(self):
            if each.name != "faults":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def as_json(self) -> dict[str, Any]:
        """The numbers, the faults by kind and in all."""
        faults = dict(sorted(self.faults.items()))
        seconds = round(self.cpu_seconds, 1)
        return {**vars(self), "cpu_seconds": seconds, "faults": faults, "faults_injected": sum(faults.values())}


class BrokenError(AssertionError):
    """A plan whose life broke an invariant; the text says which, and how to live it again."""


class _ShrunkEnoughError(BaseException):
    """Ends the search for a smaller plan: Hypothesis, which takes an Exception for a failure, lets it through."""


def account(plan: Plan, life: Life | None, broken: list[str], batch: tuple[int, int] | None) -> str:
    """What somebody needs who looks for the cause. ``batch``: the seed, and how many plans were drawn from it."""
    lines = [*broken, "", "What happened:", *(life.log if life is not None else ())]
    if batch is not None:
        number, count = batch
        again = f"python -m tests.simulation.campaign --replay-seed {number} --plans {count}"
        lines += ["", f"Seed {number}: {again}"]
    return "\n".join(
        [*lines, "Put the plan into a file for python -m tests.simulation.campaign --plan FILE:", repr(plan)]
    )


def _failure_of(plan: Plan, record: Record, batch: tuple[int, int]) -> str:
    """Live one plan and count it; the account of what broke, or ""."""
    try:
        life, broken = live(plan)
    except Exception as error:
        return account(plan, None, [repr(error)], batch)
    record.add(life)
    return account(plan, life, broken, batch) if broken else ""


def explore(
    number: int,
    count: int,
    record: Record,
    *,
    shrink_seconds: float = SHRINK_SECONDS,
    seen: Callable[[], None] = lambda: None,
) -> None:
    """Live a batch of plans.

    Args:
        number: the seed.
        count: how many plans.
        record: is added to, by plans that were lived while shrinking too.
        seen: called after each life.

    Raises:
        BrokenError: a plan broke an invariant; it is the smallest found.
    """
    failures: dict[str, str] = {}
    first_failed_at = float("inf")

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(plans())
    def lives(plan: Plan) -> None:
        nonlocal first_failed_at
        if time.monotonic() > first_failed_at + shrink_seconds:
            raise _ShrunkEnoughError
        text = repr(plan)
        if text not in failures:
            failure = _failure_of(plan, record, (number, count))
            if failure:
                record.violations += first_failed_at == float("inf")
                first_failed_at = min(first_failed_at, time.monotonic())
                failures[text] = failure
            seen()
        # One place for every failure, by which Hypothesis takes them for the same.
        if text in failures:
            raise BrokenError(failures[text])

    began = time.process_time()
    with mock.patch.object(HypothesisProvider, "_maybe_draw_constant", _no_constant):
        try:
            lives()
        except (BrokenError, _ShrunkEnoughError):
            raise BrokenError(failures[min(failures, key=len)]) from None
        finally:
            record.cpu_seconds += time.process_time() - began


def _no_constant(*args: object, **options: object) -> None:
    """Hypothesis now and then draws a number that it has read in the sources of the modules that happen to be loaded.
    With these, a seed would mean other plans in another process and after any change of the code."""
