"""docs/command.md: what it shows is what the command prints, and its tables name all there is."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from questline.cli import enqueue
from questline.cli.app import app
from questline.options import Options
from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server
from tests.unit.cli.test_following import at
from tests.unit.cli.test_frame import groups_of, names_of

PAGE = (Path(__file__).parents[3] / "docs" / "command.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
SHOWN = [
    (line, output)
    for block in BLOCKS
    for line, _, output in (part.partition("\n") for part in block.removeprefix("$ ").split("\n$ "))
]
TASKS = """
from questline import job

@job
def process_upload(file_id: str) -> dict[str, bool]:
    return {"processed": True}
"""
SCHEDULES = """
from questline import job, schedule

@job
def write_report(kind: str) -> None: ...

nightly = schedule("nightly-report", cron="30 2 * * *", time_zone="Europe/Berlin", job=write_report.call("nightly"))
weekly = schedule("weekly-report", cron="0 9 * * MON", time_zone="Europe/Berlin", job=write_report.call("weekly"))
"""


@pytest.fixture
def example(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The namespace that the page is about, and modules tasks.py and shop.py in the current folder."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "shop.py").write_text(SCHEDULES)
    monkeypatch.setattr("questline.schedules._declared", [])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    # All was created 300 s ago.
    monkeypatch.setattr(time, "time", lambda: 1_769_846_400.0 + 300)
    ready = [{"type": "Ready", "status": "True", "observedGeneration": 1}]
    server.put("questworkers", "default", {"image": "i"}, status={"conditions": ready})
    server.put("questqueues", "mail", {"paused": True})
    server.put("questqueues", "media", {"concurrency": 1}, status={"running": 1, "waiting": 2})
    condition: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "True"}]}
    condition |= {"lastTick": "2026-01-31T01:00:00Z", "nextTick": "2026-02-01T01:00:00Z"}
    for name, task in (("nightly-report", "shop:write_report"), ("old-report", "shop:write_all")):
        job = {"task": task, "queue": "default", "args": {"kind": "nightly"}}
        spec = {"cron": "0 2 * * *", "timeZone": "Europe/Berlin", "overlap": "Allow", "catchUpSeconds": 0, "job": job}
        by = {"questline.dev/declared-by": "shop"}
        server.put("questschedules", name, spec, annotations=by, status=condition)
    media = {"queue": "media", "task": "media.tasks:resize"}
    server.job("run-1", "Running", media, attempt=1, startedAt="2026-01-31T08:00:00Z")
    server.job("wait-1", "Waiting", media)
    server.job("wait-2", "Waiting", media)
    server.job("letter", "Waiting", {"queue": "mail"})
    times: dict[str, Any] = {"startedAt": "2026-01-31T08:00:02.500000Z", "finishedAt": "2026-01-31T08:00:05Z"}
    uid = server.job("upload", "Succeeded", attempt=1, **times)

    def below(index: int) -> dict[str, Any]:
        parent = {"name": "upload", "uid": f"{uid}-0000-0000-0000-000000000000", "podUID": "p"}
        return {"parent": {**parent, "attempt": 1, "index": index}}

    attempts: list[dict[str, Any]] = [
        {"number": 1, "outcome": "Failed", "startedAt": "2026-01-31T08:00:05Z"},
        {"number": 2, "outcome": "Succeeded"},
    ]
    done: dict[str, Any] = {"finishedAt": "2026-01-31T08:00:12.000000Z"}
    thumbnail = server.job(
        "thumbnail", "Succeeded", below(0), attempt=2, attempts=attempts, startedAt="2026-01-31T08:00:10Z", **done
    )
    message = "attempt 1 of 1: ConnectionError: no route"
    server.job("notify", "Failed", below(1), attempt=1, reason="TaskError", message=message, **done)
    first, second = f"thumbnail-{thumbnail}-1", f"thumbnail-{thumbnail}-2"
    server.write_log(first, at(5, "resizing p1"), at(6, "cannot reach the storage"), ended=True)
    server.write_log(second, at(10, "resizing p1"), ended=True)
    return server


@pytest.mark.parametrize(("line", "output"), [pytest.param(*one, id=one[0]) for one in SHOWN])
def test_a_command_prints_what_the_page_shows(example: Server, command: Command, line: str, output: str) -> None:
    given, _, then = line.partition(" && echo ")
    result = command(*shlex.split(given.removeprefix("questline ")))
    said = result.stdout + (f"{then}\n" if then and result.exit_code == 0 else "")
    assert said.rstrip("\n") == output.rstrip("\n"), result.stderr


def test_every_command_is_in_the_table_and_shown() -> None:
    groups = groups_of(app)
    names = names_of(app) | set(groups)
    table = PAGE.partition("## Which cluster")[0]
    assert set(re.findall(r"`questline (\w+)[ `]", table)) == names
    shown = {line.split()[1] for line, _ in SHOWN}
    assert names - shown == {"resume"}
    for group, commands in groups.items():
        assert set(re.findall(rf"`questline {group} (\w+) ", table)) == commands
        shown_of_group = {line.partition(f"questline {group} ")[2].partition(" ")[0] for line, _ in SHOWN}
        assert commands - shown_of_group == {"resume"}


def test_every_option_of_the_sdk_is_one_of_enqueue_and_named() -> None:
    missing = {"group", "stage"}  # of children
    named = set(re.findall(r"`--([a-z-]+)", PAGE.partition("## Enqueue and wait")[2].partition("## Look")[0]))
    options = {name.replace("_", "-") for name in set(Options._fields) - missing}
    assert options <= named
    assert {name.replace("-", "_") for name in named} - {"unique_by"} <= set(enqueue.enqueue.__annotations__)


def test_every_exit_status_is_in_the_table() -> None:
    table = PAGE.partition("## Exit statuses")[2].partition("## Completion")[0]
    rows = {int(number) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for number in row.split(",")}
    assert rows == {0, 1, 2, 3, 4, 64, 75, 124, 130}
