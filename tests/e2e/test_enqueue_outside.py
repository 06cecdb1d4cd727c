"""Enqueueing from outside a pod: a program with a kubeconfig and the tasks' module, as on a developer's laptop."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from questline_operator.core.states import State
from tests.live import Live

PROGRAM = """
import json
import tasks
from questline import chain

first = tasks.work.enqueue(0.1, {"a": [1, None]})
chain(tasks.work.call(0.1, "one"), tasks.work.call(0.1, "two"))
print(json.dumps({"name": first.name, "result": first.result(timeout="1m")}))
"""


@pytest.mark.timeout(180)
async def test_a_program_with_a_kubeconfig_enqueues_and_takes_the_result(live: Live, installed: Path) -> None:
    environment = {
        **os.environ,
        "KUBECONFIG": str(installed),
        "QUESTLINE_NAMESPACE": live.namespace,
        "PYTHONPATH": str(Path(__file__).parent),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM), env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    said = json.loads(out)
    assert said["result"] == {"a": [1, None]}
    await live.history.until(lambda: len(live.history.jobs()) == 3)
    jobs = await live.history.settled()
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert sum(bool(job.after) for job in jobs) == 1
    assert live.history.job(said["name"]).status["result"] == said["result"]
