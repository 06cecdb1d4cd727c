"""Random lives of a whole cluster under faults: whatever breaks, the invariants of the design's section 9 hold.

The plans are those of a fixed seed, so that a failure is a failure of the change at hand. It prints the smallest plan
found that fails too, and the seed. CHAOS_SEEDS=500 tries as many plans; fresh ones, and any number of steps:
`python -m tests.simulation.campaign --help`.
"""

import os

import pytest

from tests.simulation.chaos import live
from tests.simulation.explore import SHRINK_SECONDS, Record, explore
from tests.simulation.plan import Ask, Child, Freeze, Kill, Plan, Script, TakePod, parse

SEED = 20260131
PLANS = int(os.environ.get("CHAOS_SEEDS", "65"))
SHRINKING = float(os.environ.get("CHAOS_SHRINK_SECONDS", str(SHRINK_SECONDS)))
STEPS = 10_000
MOST_CPU_SECONDS = 120.0
"""For so many steps: a life that takes longer is run less often. Time of this process, so that a busy machine fails
nothing."""
LIFE = Plan(
    seed=3,
    scripts=(Script(work=1.0, children=(Child(), Child(staged=False))), Script(work=2.0, end="failed"), Script()),
    deeds=(
        *(Ask(queue=queue, scripts=(0, 1, 2), max_attempts=3, unique="a") for queue in ("narrow", "wide", "default")),
        TakePod(pause=2.0),
        Kill(pause=0.5, write=2, after=True),
        Freeze(pause=2.0, seconds=17.0, hold=0.004),
        *(Ask(pause=1.0, scripts=(1, 2)) for _ in range(4)),
    ),
)


def test_whatever_breaks_the_invariants_hold() -> None:
    record = Record()
    explore(SEED, PLANS, record, shrink_seconds=SHRINKING)
    print(record.as_json())
    assert record.steps >= STEPS
    took = record.cpu_seconds / record.steps * STEPS
    assert took <= MOST_CPU_SECONDS, (
        f"{STEPS} steps of random lives take {took:.0f} s of the processor, and {MOST_CPU_SECONDS:.0f} s are allowed: "
        "look for what has made the operator's core, or the simulation, slower"
    )


def test_a_plan_is_the_same_life_every_time_and_prints_as_itself() -> None:
    first, broken = live(LIFE)
    second, _ = live(parse(repr(LIFE)))
    assert broken == []
    assert first.log == second.log
    assert first.history == second.history


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_in_two_thousand_more_lives_the_invariants_hold(number: int) -> None:
    explore(number, 100, Record())
