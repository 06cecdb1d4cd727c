"""A random life that breaks something can be lived again by the command that its account names."""

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.simulation import campaign, explore
from tests.simulation.explore import BrokenError, Record
from tests.simulation.plan import Plan

FAILS = 30
"""The first plan of a batch that breaks something: as late as this what is drawn depends on how many are to be."""


@pytest.mark.parametrize("count", [campaign.BATCH, 65, 2_000])
def test_the_command_that_a_failure_names_draws_the_plan_that_failed(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived: list[str] = []

    def live(plan: Plan) -> tuple[Any, list[str]]:
        lived.append(repr(plan))
        nothing = SimpleNamespace(
            judge=SimpleNamespace(jobs=()), cluster=SimpleNamespace(kubelet=SimpleNamespace(runs=()))
        )
        nothing.steps, nothing.actions, nothing.faults, nothing.log = 1, 1, Counter(), []
        return nothing, ["broken"] if len(lived) == FAILS else []

    monkeypatch.setattr(explore, "live", live)
    monkeypatch.setattr("logging.disable", lambda level: None)  # it would stay so for the tests after this one
    with pytest.raises(BrokenError) as caught:
        explore.explore(7, count, Record(), shrink_seconds=0.0)
    first = lived[FAILS - 1]
    command = re.search(r"python -m tests\.simulation\.campaign (.*)", str(caught.value))
    assert command is not None
    lived.clear()
    monkeypatch.setattr("sys.argv", ["campaign", *command[1].split(), "--shrink", "0"])
    assert campaign.main() == 1
    assert lived[FAILS - 1] == first
