"""docs/queues.md, uniqueness.md and schedules.md: what they show runs, in virtual time, and is right."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from questline_operator.core.limits import Starts, why_unclaimed
from questline_operator.core.states import Reason
from questline_operator.core.ticks import IN_TIME_SECONDS, JOB_REFUSED
from questline_operator.core.times import format_whole_seconds, parse_time
from questline_operator.cron import next_tick
from questline_operator.shell.api import SCHEDULES
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster
from tests.unit.core.builders import T0, a_job, a_queue, a_world

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "queues.md").read_text()
SCHEDULES_PAGE = (DOCS / "schedules.md").read_text()


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


@simulated
async def test_the_manifest_of_the_page_on_uniqueness_runs_once_in_its_window() -> None:
    (text,) = blocks((DOCS / "uniqueness.md").read_text(), "yaml")
    manifest = yaml.safe_load(text)
    window = manifest["spec"]["unique"]["windowSeconds"]
    async with Cluster() as cluster:
        for number, seconds in enumerate((0.0, 1.0, window / 2, window / 2 + 1)):
            await cluster.clock.sleep(seconds)
            meta = {"name": f"charge-17-{number}", "namespace": NAMESPACE}
            await cluster.apply({**manifest, "metadata": meta})
            await cluster.until_settled()
        jobs = {job.name: (job.state, job.duplicate_of) for job in cluster.jobs()}
        assert jobs == {
            "charge-17-0": ("Succeeded", ""),
            "charge-17-1": ("Skipped", "charge-17-0"),
            "charge-17-2": ("Skipped", "charge-17-0"),
            "charge-17-3": ("Succeeded", ""),
        }


@simulated
async def test_the_manifest_of_the_page_on_schedules_works() -> None:
    (text,) = blocks(SCHEDULES_PAGE, "yaml")
    manifest = yaml.safe_load(text)
    manifest["metadata"]["namespace"] = NAMESPACE
    async with Cluster() as cluster:
        cluster.clock.jump(parse_time("2026-02-03T01:29:00Z") - cluster.clock.now())
        await cluster.apply(manifest)
        await cluster.until(lambda: len(cluster.jobs()) == 1, seconds=70)
        await cluster.until_settled()
        assert set(cluster.states().values()) == {"Succeeded"}
        status = cluster.server.store.get(SCHEDULES, NAMESPACE, "nightly-report")["status"]
        assert (status["lastTick"], status["nextTick"]) == ("2026-02-03T01:30:00Z", "2026-02-04T01:30:00Z")


def test_the_lines_of_the_page_on_schedules_mean_what_it_says() -> None:
    lines = re.findall(r"^\| `([^`]+)` \|", SCHEDULES_PAGE, re.MULTILINE)
    since = parse_time("2026-02-01T00:00:00Z")
    first = {line: format_whole_seconds(next_tick(line, "UTC", since) or 0.0) for line in lines}
    assert first == {
        "*/15 * * * *": "2026-02-01T00:15:00Z",
        "0 8-18/2 * * MON-FRI": "2026-02-02T08:00:00Z",
        "0 0 1,15 * *": "2026-02-15T00:00:00Z",
        "0 9 L * *": "2026-02-28T09:00:00Z",
        "0 9 * * MON#2": "2026-02-09T09:00:00Z",
        "0 0 13 * FRI": "2026-02-06T00:00:00Z",
    }


def test_the_page_on_schedules_names_the_reasons_and_fields_that_there_are() -> None:
    crd = yaml.safe_load((DOCS.parent / "crds" / "questschedules.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for field in schema["spec"]["properties"]:
        assert field in SCHEDULES_PAGE
    for word in (*schema["spec"]["properties"]["overlap"]["enum"], Reason.REPLACED, JOB_REFUSED, "Overlap", "Late"):
        assert re.search(rf"\b{word}\b", SCHEDULES_PAGE), word
    assert f"within {IN_TIME_SECONDS:.0f} seconds" in SCHEDULES_PAGE
