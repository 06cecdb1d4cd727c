"""docs/chains.md: its manifests run as the page says, and so does the rerun that it shows."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster
from tests.simulation.sdk import Attempt, Ended, failed, succeeded

PAGE = (Path(__file__).parents[2] / "docs" / "chains.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
(PATCH,) = re.findall(r"patch qj ([a-z-]+) --type=merge -p '(.*?)'", PAGE)


def manifests() -> list[Any]:
    return [{**one, "metadata": {**one["metadata"], "namespace": NAMESPACE}} for one in yaml.safe_load_all(CODE)]


@simulated
async def test_the_manifests_run_one_after_the_other_in_whatever_order_they_are_created() -> None:
    for order in (1, -1):
        async with Cluster() as cluster:
            await cluster.apply(*manifests()[::order])
            await cluster.until_settled()
            assert set(cluster.states().values()) == {"Succeeded"}
            runs = sorted(cluster.kubelet.runs, key=lambda run: run.started_at)
            assert [run.job for run in runs] == ["process-upload", "generate-thumbnail", "notify-user", "clean-up"]
            assert cluster.watcher.violations == []


@simulated
async def test_the_chain_resumes_by_the_patch_that_the_page_shows() -> None:
    async def broken_at_first(attempt: Attempt) -> Ended:
        return failed() if attempt.number <= 5 else succeeded()

    name, patch = PATCH
    async with Cluster({name: broken_at_first}) as cluster:
        await cluster.apply(*manifests())
        await cluster.until_settled()
        assert cluster.states() == {
            "process-upload": "Succeeded",
            "generate-thumbnail": "Failed TaskError",
            "notify-user": "Skipped UpstreamFailed",
            "clean-up": "Succeeded",
        }
        await cluster.edit(name, **json.loads(patch)["spec"])
        await cluster.until(lambda: cluster.state("notify-user") == "Succeeded", seconds=60)
        assert set(cluster.states().values()) == {"Succeeded"}
        assert cluster.watcher.violations == []
