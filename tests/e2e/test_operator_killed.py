"""The operator killed ten times during the demo's fan-out (behaviour 6 of the main job)."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from questline_operator.core.states import State
from questline_operator.shell.http_api import HttpApi
from tests.e2e.operator_process import leading_operator
from tests.history import History
from tests.verdict import violations

pytestmark = pytest.mark.exclusive

ROOT = Path(__file__).parents[2]
KILLS = 10


@pytest.mark.timeout(900)
async def test_the_operator_killed_ten_times_during_the_fan_out_loses_and_doubles_nothing(
    api: HttpApi, installed: Path
) -> None:
    async with History(api, "default") as history:
        before = {job.uid for job in history.jobs()}
        demo = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.demo"),
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(installed), "CI": "true"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:

            def mails_sent() -> int:
                ended = (j for j in history.jobs() if j.queue == "emails" and j.uid not in before)
                return sum(job.state is State.SUCCEEDED for job in ended)

            epoch = 0
            for kill in range(KILLS):
                await history.until(lambda kill=kill: mails_sent() > 3 * kill, seconds=180)  # type: ignore[misc]
                leader = await leading_operator(api, after=epoch)
                leader.kill()
                epoch = leader.epoch
            out, _ = await demo.communicate()
        finally:
            if demo.returncode is None:
                demo.terminate()
                await demo.wait()
        assert demo.returncode == 0, out.decode()
        jobs = [job for job in history.jobs() if job.uid not in before]
        assert all(job.terminal for job in jobs)
        assert all(job.finishes == 1 for job in jobs), "a Job ended twice"
        events = [event for event in history.in_order() if event.object["metadata"]["uid"] not in before]
        assert violations(events, concurrency={"emails": 4}) == []
