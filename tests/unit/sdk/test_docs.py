"""docs/sdk.md: its code runs and prints what it says, its tasks end as it says, its tables name all there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import questline
from questline.options import Options
from questline.task import compact
from tests.unit.sdk.apiserver import ApiServer
from tests.unit.sdk.processes import Ended, payload

PAGE = (Path(__file__).parents[3] / "docs" / "sdk.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
MODULE = "\n".join(code for kind, code in BLOCKS if kind == "python" and code.startswith("# tasks.py"))
SCRIPTS = [
    (code, BLOCKS[n + 1][1] if BLOCKS[n + 1][0] == "text" else "")
    for n, (kind, code) in enumerate(BLOCKS)
    if kind == "python" and code.startswith("# enqueue.py")
]
RESULT = """
import json, sys
from questline import attempt
from questline.runner import _call, find_task
attempt.begin(attempt.Attempt(json.loads(sys.argv[1])))
task = find_task(attempt.current().job.task)
print(json.dumps(task.signature.result.encode(_call(task, task.signature.decode(attempt.current().args)))))
"""
RUNS = re.findall(r"<!-- run: (\S+) (\{.*?\}) -> (\w+) ?(.*?) -->", PAGE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's module tasks.py."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "tasks.py").write_text(MODULE)
    return app


def test_all_code_of_the_page_is_run_here() -> None:
    python = [code for kind, code in BLOCKS if kind == "python"]
    assert len(python) == MODULE.count("# tasks.py") + len(SCRIPTS)
    assert len(SCRIPTS) >= 4
    assert PAGE.count("<!-- run:") == len(RUNS)
    ran = {task.partition(":")[2] for task, *_ in RUNS}
    defined = set(re.findall(r"@job.*\n(?:async )?def (\w+)", MODULE))
    assert defined - ran == {"send_email", "bill"}


@pytest.mark.parametrize(("script", "expected"), SCRIPTS)
def test_a_script_prints_what_the_page_says(api: ApiServer, folder: Path, script: str, expected: str) -> None:
    """The server ends each Job as soon as it is made, with what its task returns."""
    (folder / "enqueue.py").write_text(script)

    def run_at_once(job: dict[str, Any]) -> None:
        given = json.dumps(payload(job["spec"]["task"], job["spec"]["args"]))
        done = subprocess.run([sys.executable, "-c", RESULT, given], cwd=folder, capture_output=True, check=True)
        job["status"] = {"state": "Succeeded", "result": json.loads(done.stdout)}

    api.reject = run_at_once
    environ = {"PATH": os.environ["PATH"], **api.environ()}
    done = subprocess.run(
        [sys.executable, "enqueue.py"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout) == ("", expected)
    assert api.posts()


@pytest.mark.parametrize(("task", "args", "outcome", "rest"), RUNS)
def test_a_task_ends_as_the_page_says(
    run_task: Callable[..., Ended], api: ApiServer, folder: Path, task: str, args: str, outcome: str, rest: str
) -> None:
    ended = run_task(task, json.loads(args), api=api, PYTHONPATH=str(folder))
    envelope = ended.envelope
    assert envelope["outcome"] == outcome, ended.stderr
    if outcome == "Succeeded":
        assert compact(envelope["result"]) == compact(json.loads(rest))
    else:
        assert envelope.get("reason", "") == rest


def test_every_option_is_in_the_table() -> None:
    table = PAGE.partition("## Options")[2].partition("## Uniqueness")[0]
    rows = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert rows == {*Options._fields, "retry_on", "no_retry_on"}


def test_every_name_that_the_page_uses_exists() -> None:
    for name in set(re.findall(r"`([A-Z]\w+Error|\w*Invalid|Not\w+|Enqueue\w+|Job\w+|\w+Refused)`", PAGE)):
        assert name in questline.__all__ or name in {"ArgsInvalid", "NoOutcome"}, name
