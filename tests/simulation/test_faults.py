"""Random lives of a whole cluster under faults: whatever breaks, the invariants of the design's section 9 hold.

A failure prints its seed and what was done. `CHAOS_SEED=17 pytest tests/simulation/test_faults.py` replays it alone,
`CHAOS_SEEDS=500` tries as many.
"""

import os

import pytest

from tests.simulation.chaos import Chaos
from tests.simulation.clock import run_simulated

SEEDS = range(int(os.environ.get("CHAOS_SEEDS", "45")))
ONE_SEED = os.environ.get("CHAOS_SEED")
LONG_SEEDS = range(1_000, 1_500)


@pytest.mark.parametrize("seed", SEEDS if ONE_SEED is None else [int(ONE_SEED)])
def test_whatever_breaks_the_invariants_hold(seed: int) -> None:
    chaos, broken = _lived(seed)
    assert not broken, "\n".join([f"seed {seed}:", *broken, "", *chaos.log])


def test_a_seed_is_the_same_life_every_time() -> None:
    first, second = _lived(3)[0], _lived(3)[0]
    assert first.log == second.log
    assert first.history == second.history


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_in_five_hundred_more_lives_the_invariants_hold(seed: int) -> None:
    chaos, broken = _lived(seed)
    assert not broken, "\n".join([f"seed {seed}:", *broken, "", *chaos.log])


def _lived(seed: int) -> tuple[Chaos, list[str]]:
    lives: list[Chaos] = []

    async def live() -> list[str]:
        lives.append(Chaos(seed))
        return await lives[0].run()

    broken = run_simulated(live())
    return lives[0], broken
