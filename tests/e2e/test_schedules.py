"""Schedules on the real kubelet: one tick makes one Job, an operator killed at that moment or not.

A cron line counts in minutes, so a test that needs a tick waits for one, and shows all it has to show in that wait.
"""

import asyncio
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from questline_operator.core.records import ANNOTATION_EPOCH, ANNOTATION_SCHEDULE_UID, ANNOTATION_TICK, Job
from questline_operator.core.schedule import Schedule
from questline_operator.core.states import State
from questline_operator.core.times import format_whole_seconds, parse_time
from questline_operator.shell.api import JOBS, PODS, SCHEDULES
from tests.e2e.operator_process import LEASE, NAMESPACE, leading_operator
from tests.kube import Kube
from tests.live import API_VERSION, Live, a_schedule
from tests.verdict import violations

TASKS = Path(__file__).parent
MINUTE = 60.0
READY_SECONDS = 10.0
"""So soon is a new Schedule's condition written, with room for a busy machine."""
IN_TIME_SECONDS = 30.0
"""A tick counts as in time so long: docs/schedules.md."""
LEAD_SECONDS = 4.0
"""What has to be done between the look at the next tick and that tick takes less."""
DECLARED = """
from questline import schedule
from tasks import work

minutely = schedule(
    "declared",
    cron="* * * * *",
    overlap="Forbid",
    job=work.options(max_attempts=2, timeout="5m", priority=7).call(0.2, {"kind": "minutely", "n": [1, None]}),
)
"""
AS_ENQUEUED: dict[str, Any] = {
    "task": "tasks:work",
    "queue": "default",
    "maxAttempts": 2,
    "timeoutSeconds": 300,
    "priority": 7,
    "args": {"seconds": 0.2, "value": {"kind": "minutely", "n": [1, None]}},
}

Known = dict[str, Schedule]


class Schedules:
    """The Schedules of one namespace, and the Jobs that their ticks made, deleted or not."""

    def __init__(self, live: Live) -> None:
        self.live = live

    async def until(self, what: str, reached: Callable[[Known], bool], *, seconds: float) -> Known:
        """Wait until it holds of the Schedules by name, after some event.

        Raises:
            AssertionError: it did not in time; says what each Schedule's status is, and what Jobs there are.
        """
        known: Known = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    listing = await self.live.api.list(SCHEDULES)
                    known = {}
                    for raw in listing.items:
                        self._take(known, raw)
                    if reached(known):
                        return known
                    async for event in self.live.api.watch(SCHEDULES, since=listing.resource_version):
                        if event.type in ("ADDED", "MODIFIED"):
                            self._take(known, event.object)
                            if reached(known):
                                return known
        except TimeoutError:
            raise AssertionError(f"{what}: not in {seconds:g} s, at {_now()}:\n{self.told(known)}") from None

    def _take(self, known: Known, raw: dict[str, Any]) -> None:
        if raw["metadata"]["namespace"] == self.live.namespace:
            known[raw["metadata"]["name"]] = Schedule.parse(raw)

    def told(self, known: Known) -> str:
        """What a person asks first when a tick is missing."""
        lines = [
            f"  {one.name}: last {one.status.get('lastTick')}, next {one.status.get('nextTick')}, skipped "
            f"{one.status.get('skipped')}, Ready {dict(one.ready) or None}"
            for one in known.values()
        ]
        lines += [
            f"  Job {job.name} of {job.tick}: {job.state} {job.reason}, attempt {job.attempt}"
            for job in sorted(self.live.history.jobs(), key=lambda job: job.name)
        ]
        return "\n".join(lines)

    def made(self) -> Counter[tuple[str, str]]:
        """How many Jobs each (Schedule's UID, tick) was given."""
        annotations = (
            event.object["metadata"].get("annotations", {})
            for event in self.live.history.in_order()
            if event.resource == JOBS and event.type == "ADDED"
        )
        return Counter(
            (of[ANNOTATION_SCHEDULE_UID], of[ANNOTATION_TICK]) for of in annotations if ANNOTATION_TICK in of
        )

    async def job(self, schedule: Schedule, tick: float) -> Job:
        """The Job of that tick, which the watch of Jobs may show after that of Schedules has shown it to be made."""

        def found() -> list[Job]:
            jobs = (job for job in self.live.history.jobs() if schedule.made(job))
            return [job for job in jobs if job.tick is not None and job.tick.at == tick]

        await self.live.history.until(lambda: bool(found()), seconds=READY_SECONDS)
        assert len(found()) == 1, f"{schedule.name}, tick {format_whole_seconds(tick)}: {[job.name for job in found()]}"
        return found()[0]


@pytest.fixture
def schedules(live: Live) -> Schedules:
    return Schedules(live)


async def applied(live: Live, kubeconfig: Path, folder: Path, *args: str, status: int = 0) -> tuple[str, str]:
    """What `questline schedules apply` prints of the folder's module `declares`: its output, and its standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "questline.cli.main", "schedules", "apply", "declares", "-n", live.namespace, *args),
        cwd=folder,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(TASKS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == status, (process.returncode, out.decode(), err.decode())
    return out.decode(), err.decode()


async def kubectl(kube: Kube, live: Live, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """What kubectl says in the namespace, while the watches go on."""
    return await asyncio.to_thread(kube.kubectl, "-n", live.namespace, *arguments, stdin=stdin, check=check)


def row_of(table: str, name: str) -> dict[str, str]:
    """The cells of that object's row by column: an empty one, and spaces inside one, keep their places."""
    head, *rows = table.splitlines()
    row = next((row for row in rows if row.split()[0] == name), None)
    assert row is not None, f"no {name} in\n{table}"
    columns = [(match[0], match.start()) for match in re.finditer(r"\S+", head)]
    ends = [start for _, start in columns[1:]] + [None]
    return {column: row[start:end].strip() for (column, start), end in zip(columns, ends, strict=True)}


def all_wait_for_one_tick(known: Known) -> bool:
    """Whether all have the same tick before them, and there is still time to get ready for it."""
    ticks = {one.next_tick or 0.0 for one in known.values()}
    return len(ticks) == 1 and min(ticks) - time.time() >= LEAD_SECONDS


async def not_just_before_a_minute() -> None:
    """So that what is created together has its first tick together."""
    left = MINUTE - time.time() % MINUTE
    if left < LEAD_SECONDS:
        await asyncio.sleep(left)  # a moment to come is told by the clock alone


@pytest.mark.exclusive
async def test_a_tick_makes_one_job_each_that_runs_though_the_operator_is_killed_at_that_moment(
    live: Live, kube: Kube, installed: Path, tmp_path: Path, schedules: Schedules
) -> None:
    """Of Schedules that are declared in Python and applied by the command, and of ones by manifest, under every policy.

    60 s at most to the tick, and 20 s to the next leader.
    """
    seed = random.SystemRandom().randrange(10**6)
    moment = random.Random(seed).uniform(-0.1, 0.4)
    (tmp_path / "declares.py").write_text(DECLARED)
    await asyncio.to_thread(kube.kubectl, "rollout", "status", f"deployment/{LEASE}", "-n", NAMESPACE, "--timeout=120s")
    assert (await applied(live, installed, tmp_path))[0] == "declared created\n"
    overlaps = ("Allow", "Allow", "Forbid", "Forbid", "Replace", "Replace")
    await live.apply(*(a_schedule(f"plain-{n}", overlap=overlap) for n, overlap in enumerate(overlaps)))
    names = {"declared", *(f"plain-{n}" for n in range(len(overlaps)))}
    await schedules.until(
        "each new Schedule is Ready, with its next tick",
        lambda known: set(known) == names and all(one.ready.get("status") == "True" for one in known.values()),
        seconds=READY_SECONDS,
    )
    known = await schedules.until(
        "all have one next tick, and that is to come",
        all_wait_for_one_tick,
        seconds=LEAD_SECONDS + READY_SECONDS,
    )
    tick = known["declared"].next_tick or 0.0

    leader = await leading_operator(live.api)
    try:
        await asyncio.sleep(tick + moment - time.time())  # a moment to come is told by the clock alone
        leader.kill()
        killed = f"{leader.pod} was killed {moment:+.3f} s after the tick {format_whole_seconds(tick)} (seed {seed})"
        known = await schedules.until(
            f"{killed}; that each status tells the tick as made, in time",
            lambda known: all((one.last_tick or 0.0) >= tick for one in known.values()),
            seconds=IN_TIME_SECONDS + READY_SECONDS,
        )
        table = await kubectl(kube, live, "get", "qs")
    finally:
        # A new pod's start is delayed by no former crash.
        replaced = ("delete", "pod", leader.pod, "-n", NAMESPACE, "--wait=false", "--ignore-not-found")
        await asyncio.to_thread(kube.kubectl, *replaced)
    assert {one.last_tick for one in known.values()} == {tick}, f"{killed}\n{schedules.told(known)}"
    assert not any("skipped" in one.status for one in known.values()), f"{killed}\n{schedules.told(known)}"

    of_tick = [(await schedules.job(one, tick)).name for one in known.values()]
    jobs = await live.history.settled(*of_tick, seconds=60)
    made = schedules.made()
    assert set(made.values()) == {1}, f"{killed}: {made}"
    assert {uid for uid, at in made if at == format_whole_seconds(tick)} == {one.uid for one in known.values()}, killed
    assert {(job.state, job.finishes, job.failures) for job in jobs} == {(State.SUCCEEDED, 1, 0)}, killed
    ran = {pod.job for pod in live.history.pods()} | {
        event.object["metadata"]["labels"]["questline.dev/job"]
        for event in live.history.in_order()
        if event.resource == PODS
    }
    assert {job.name for job in jobs} <= ran
    assert violations(live.history.in_order()) == []

    of_declared = await schedules.job(known["declared"], tick)
    meta = of_declared.raw["metadata"]
    assert of_declared.name == known["declared"].job_name(tick) == known["declared"].status["lastJob"]
    assert meta["labels"]["questline.dev/schedule"] == "declared"
    assert meta["annotations"][ANNOTATION_SCHEDULE_UID] == known["declared"].uid
    assert meta["annotations"][ANNOTATION_TICK] == format_whole_seconds(tick)
    assert int(meta["annotations"][ANNOTATION_EPOCH]) >= leader.epoch
    assert "ownerReferences" not in meta, "the history outlives the Schedule"
    assert of_declared.spec == AS_ENQUEUED
    assert of_declared.status["result"] == {"kind": "minutely", "n": [1, None]}

    row = row_of(table, "declared")
    assert (row["CRON"], row["ZONE"], row["READY"]) == ("* * * * *", "UTC", "True"), table
    assert re.fullmatch(r"\d+s", row["LAST"]), table
    assert row["NEXT"] == format_whole_seconds(tick + MINUTE), table


async def test_apply_changes_dry_runs_prunes_and_leaves_what_others_made_alone(
    live: Live, kube: Kube, installed: Path, tmp_path: Path
) -> None:
    """Against the API server's own validation, defaults and JSON Patch; nothing here waits for a tick."""
    module = tmp_path / "declares.py"
    yearly = DECLARED.replace("* * * * *", "0 0 1 1 *")
    second = yearly.replace("minutely", "other").replace('"declared"', '"other"')
    module.write_text(yearly + second)
    assert (await applied(live, installed, tmp_path, "--dry-run"))[0] == (
        "declared would be created\nother would be created\n"
    )
    assert (await kubectl(kube, live, "get", "qs", "-o", "name")) == ""
    assert (await applied(live, installed, tmp_path))[0] == "declared created\nother created\n"
    before = await live.api.get(SCHEDULES, live.namespace, "declared")
    assert before["spec"]["job"] == AS_ENQUEUED
    assert (await applied(live, installed, tmp_path))[0] == "declared unchanged\nother unchanged\n"
    assert (await live.api.get(SCHEDULES, live.namespace, "declared"))["metadata"]["generation"] == 1

    await kubectl(kube, live, "patch", "qs/declared", "--type=merge", "-p", '{"spec":{"job":{"maxAttempts":9}}}')
    await kubectl(kube, live, "patch", "qs/declared", "--type=merge", "-p", '{"spec":{"job":{"key":"k"}}}')
    await kubectl(kube, live, "patch", "qs/declared", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    module.write_text(yearly)
    dry = await applied(live, installed, tmp_path, "--prune", "--dry-run")
    assert dry[0] == "declared would be configured (job.maxAttempts, job.key)\nother would be deleted\n"
    assert (await applied(live, installed, tmp_path, "--prune"))[0] == (
        "declared configured (job.maxAttempts, job.key)\nother deleted\n"
    )
    after = await live.api.get(SCHEDULES, live.namespace, "declared")
    assert after["spec"] == before["spec"] | {"suspend": True}, "a suspension stays"

    await live.apply(a_schedule("by-hand", "0 0 1 1 *"))
    module.write_text(yearly.replace('"declared"', '"by-hand"'))
    out, err = await applied(live, installed, tmp_path, "--prune", status=2)
    assert out == ""
    assert "by-hand not applied: there is one that something else than an apply made" in err
    module.write_text(yearly.replace("0 0 1 1 *", "0 25 1 1 *"))
    _, err = await applied(live, installed, tmp_path, "--dry-run", status=2)
    assert "spec.cron: 25 is no hour" in err, "the API server's own words"
    left = (await kubectl(kube, live, "get", "qs", "-o", "name")).split()
    assert [name.partition("/")[2] for name in left] == ["by-hand", "declared"]


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("* * *", "spec.cron must be five fields"),
        ("0 24 * * *", "spec.cron: 24 is no hour"),
        ("0 0 * * FRY", "spec.cron: FRY is no day of week"),
    ],
)
async def test_kubectl_create_of_a_line_that_cannot_be_one_is_refused_and_the_field_named(
    live: Live, kube: Kube, cron: str, said: str
) -> None:
    manifest = {"apiVersion": API_VERSION, **a_schedule("wrong", cron)}
    answer = await kubectl(kube, live, "create", "-f", "-", stdin=yaml.safe_dump(manifest), check=False)
    assert said in answer
    assert "is invalid" in answer
    assert await kubectl(kube, live, "get", "qs", "-o", "name") == ""


async def test_a_line_that_only_a_parser_refuses_and_an_unknown_time_zone_are_told_at_once_by_the_condition(
    live: Live, kube: Kube, schedules: Schedules
) -> None:
    wrong = {
        "never": ("CronInvalid", "'0 0 31 2 *'"),
        "backwards": ("CronInvalid", "'0 22-4 * * *'"),
        "nowhere": ("TimeZoneUnknown", "'Mars/Olympus'"),
    }
    await live.apply(
        a_schedule("never", "0 0 31 2 *"),
        a_schedule("backwards", "0 22-4 * * *"),
        a_schedule("nowhere", timeZone="Mars/Olympus"),
    )
    known = await schedules.until(
        "each says what is wrong with it",
        lambda known: set(known) == set(wrong) and all(one.ready.get("status") == "False" for one in known.values()),
        seconds=READY_SECONDS,
    )
    for name, (reason, value) in wrong.items():
        assert known[name].ready["reason"] == reason, known[name].ready
        assert value in known[name].ready["message"]
        assert known[name].next_tick is None
    table = await kubectl(kube, live, "get", "qs", "-o", "wide")
    row = row_of(table, "never")
    assert (row["READY"], row["NEXT"]) == ("False", ""), table
    assert "'0 0 31 2 *'" in row["MESSAGE"], table

    await live.edit("never", SCHEDULES, cron="0 0 28 2 *")
    await schedules.until(
        "the mended one is Ready, with its next tick",
        lambda known: known["never"].ready.get("status") == "True" and known["never"].next_tick is not None,
        seconds=READY_SECONDS,
    )
    await kubectl(kube, live, "wait", "--for=condition=Ready", "qs/never", "--timeout=10s")


@pytest.mark.long
async def test_while_a_run_is_not_over_the_next_tick_is_allowed_forbidden_or_takes_its_place(
    live: Live, schedules: Schedules
) -> None:
    """Two ticks of every policy beside each other, and of one that is suspended between them."""
    long = {"task": "tasks:work", "args": {"seconds": 600}}
    overlaps = ("Allow", "Forbid", "Replace")
    await not_just_before_a_minute()
    await live.apply(*(a_schedule(overlap.lower(), overlap=overlap, job=long) for overlap in overlaps))
    await live.apply(a_schedule("held"))
    known = await schedules.until(
        "the first tick is made by all",
        lambda known: len(known) == 4 and all(one.last_tick is not None for one in known.values()),
        seconds=MINUTE + READY_SECONDS,
    )
    first = max(one.last_tick or 0.0 for one in known.values())
    second = first + MINUTE
    await live.edit("held", SCHEDULES, suspend=True)
    running = {(await schedules.job(known[name], first)).name for name in ("allow", "forbid", "replace")}
    await live.history.until(lambda: running <= {pod.job for pod in live.history.pods() if pod.started}, seconds=45)

    known = await schedules.until(
        "the second tick is made by two, and passed over by one",
        lambda known: (
            known["allow"].last_tick == second
            and known["replace"].last_tick == second
            and known["forbid"].status.get("skipped", {}).get("tick") == format_whole_seconds(second)
        ),
        seconds=MINUTE + READY_SECONDS,
    )
    allowed = [await schedules.job(known["allow"], tick) for tick in (first, second)]
    replaced, replacing = [await schedules.job(known["replace"], tick) for tick in (first, second)]
    forbidden = await schedules.job(known["forbid"], first)

    skipped = known["forbid"].status["skipped"]
    assert (skipped["reason"], known["forbid"].last_tick) == ("Overlap", first), skipped
    assert f"Job {forbidden.name} is not finished" in skipped["message"]
    assert known["forbid"].next_tick == second + MINUTE
    held = known["held"]
    assert (held.next_tick, held.last_tick, held.ready["reason"]) == (None, first, "Suspended"), held.status

    await live.history.until(lambda: allowed[1].name in {pod.job for pod in live.history.pods() if pod.started})
    assert all(live.history.job(job.name).active for job in allowed), "beside each other"
    await live.history.settled(replaced.name, seconds=30)
    ended = live.history.job(replaced.name)
    assert (ended.state, ended.reason) == (State.CANCELED, "Replaced")
    await live.history.until(lambda: replacing.name in {pod.job for pod in live.history.pods() if pod.started})
    claimed = next(
        parse_time(event.object["status"]["startedAt"])
        for event in live.history.in_order()
        if event.resource == JOBS
        and event.object["metadata"]["name"] == replacing.name
        and event.object.get("status", {}).get("state") == "Starting"
    )
    finished = parse_time(ended.status["finishedAt"])
    assert claimed >= finished, f"{replacing.name} was claimed at {claimed}, {replaced.name} ended at {finished}"
    assert set(schedules.made().values()) == {1}, schedules.made()
    assert violations(live.history.in_order()) == []


def _now() -> str:
    return format_whole_seconds(time.time())
