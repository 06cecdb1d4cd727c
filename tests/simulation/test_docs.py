"""The manifests of docs/queues.md run in virtual time, its Python prints what it says, its reasons are the core's."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from questline_operator.core.limits import Starts, why_unclaimed
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster
from tests.unit.core.builders import T0, a_job, a_queue, a_world

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "queues.md").read_text()


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


@simulated
async def test_the_manifests_of_the_page_on_queues_work() -> None:
    manifests = [yaml.safe_load(text) for text in blocks(PAGE, "yaml")]
    assert [manifest["kind"] for manifest in manifests] == ["Queue", "Job"]
    async with Cluster() as cluster:
        for manifest in manifests:
            manifest["metadata"]["namespace"] = NAMESPACE
            await cluster.apply(manifest)
        await cluster.until_settled()
        assert cluster.states() == {"import-7": "Succeeded"}


@pytest.mark.parametrize(("code", "expected"), list(zip(blocks(PAGE, "python"), blocks(PAGE, "text"), strict=True)))
def test_the_python_of_the_page_on_queues_prints_what_it_says(code: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", "import shop"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout) == ("", expected)


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        ({"concurrency": 1}, None),
        ({}, 1),
        ({"perKeyConcurrency": 1}, None),
        ({"rateLimit": {"count": 1, "periodSeconds": 60}}, None),
    ],
)
def test_the_reasons_of_the_page_on_queues_are_those_of_the_core(spec: dict[str, Any], limit: int | None) -> None:
    def shape(text: str) -> str:
        return re.sub(r"[0-9]+(-[-0-9T:.]+Z)?", "N", text)

    rows = re.findall(r"^\| (\w+) \| (waits .*?) \|$", PAGE, re.MULTILINE)
    waits = a_job("waits", spec={"queue": "emails", "key": "customer-7"})
    runs = a_job("runs", state="Running", startedAt=5, spec={"queue": "emails", "key": "customer-7"})
    queue = a_queue("emails", **spec)
    hold = why_unclaimed(a_world(queue, runs), waits, Starts(), T0 + 9, max_running_pods=limit)
    assert (hold.reason, shape(hold.message)) in [(reason, shape(message)) for reason, message in rows]
