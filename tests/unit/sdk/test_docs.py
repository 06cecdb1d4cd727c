"""The pages of docs/ that show Python: their code runs and prints what they say, their tasks end as they say.

A page's blocks that begin with `# tasks.py` are one module; those that begin with `# enqueue.py` are programs, each
with its output in the block behind it. A comment `<!-- run: task args -> outcome -->` says how a task ends, and
`<!-- stop: ... -->` how it does when its pod is to end as soon as it has printed a line.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import questline
from questline.options import Options
from questline.task import compact
from questline_operator.core.settings import backoff_seconds
from tests.unit.core.builders import a_job
from tests.unit.sdk.apiserver import ApiServer
from tests.unit.sdk.processes import Ended, payload

DOCS = Path(__file__).parents[3] / "docs"
RESULT = """
import json, sys
from questline import attempt
from questline.runner import call_task, find_task
attempt.begin(attempt.Attempt(json.loads(sys.argv[1])))
task = find_task(attempt.current().job.task)
print(json.dumps(task.signature.result.encode(call_task(task, task.signature.decode(attempt.current().args)))))
"""


@dataclass
class Page:
    """One page, taken apart."""

    name: str

    def __post_init__(self) -> None:
        self.text = (DOCS / self.name).read_text(encoding="utf-8")
        self.blocks = re.findall(r"```(\w+)\n(.*?)```", self.text, re.DOTALL)
        python = [(n, code) for n, (kind, code) in enumerate(self.blocks) if kind == "python"]
        self.module = "\n".join(code for _, code in python if code.startswith("# tasks.py"))
        self.scripts = [
            (code, self.blocks[n + 1][1] if self.blocks[n + 1 : n + 2] and self.blocks[n + 1][0] == "text" else "")
            for n, code in python
            if code.startswith("# enqueue.py")
        ]
        self.ends = re.findall(r"<!-- (run|stop): (\S+) (\{.*?\}) -> (\w+) ?(.*?) -->", self.text)

    def folder(self, parent: Path) -> Path:
        """A folder with the page's module tasks.py."""
        app = parent / "app"
        app.mkdir()
        (app / "tasks.py").write_text(self.module)
        return app


SDK, RETRIES, CHAINS, UNIQUENESS = Page("sdk.md"), Page("retries.md"), Page("chains.md"), Page("uniqueness.md")
PAGES = [SDK, RETRIES, CHAINS, UNIQUENESS]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_script = pytest.mark.parametrize(
    ("page", "script", "expected"),
    [pytest.param(page, *script, id=f"{page.name}-{n}") for page in PAGES for n, script in enumerate(page.scripts)],
)
each_end = pytest.mark.parametrize(
    ("page", "how", "task", "args", "outcome", "rest"),
    [pytest.param(page, *end, id=f"{page.name}-{end[1]}-{end[2]}") for page in PAGES for end in page.ends],
)


@each_page
def test_all_code_of_a_page_is_run_here(page: Page) -> None:
    python = [code for kind, code in page.blocks if kind == "python"]
    assert len(python) == page.module.count("# tasks.py") + len(page.scripts)
    assert page.scripts
    assert page.text.count("<!--") == len(page.ends)
    ran = {task.partition(":")[2] for _, task, *_ in page.ends}
    defined = set(re.findall(r"@job.*\n(?:async )?def (\w+)", page.module))
    empty = set(re.findall(r"@job.*\n(?:async )?def (\w+).*: \.\.\.\n", page.module))
    assert defined - ran == empty


@each_script
def test_a_script_prints_what_the_page_says(
    api: ApiServer, tmp_path: Path, page: Page, script: str, expected: str
) -> None:
    """The server ends each Job as soon as it is made, with what its task returns."""
    folder = page.folder(tmp_path)
    (folder / "enqueue.py").write_text(script)

    def run_at_once(job: dict[str, Any]) -> None:
        given = json.dumps(payload(job["spec"]["task"], job["spec"].get("args")))
        done = subprocess.run([sys.executable, "-c", RESULT, given], cwd=folder, capture_output=True, check=True)
        job["status"] = {"state": "Succeeded", "result": json.loads(done.stdout)}

    api.reject = run_at_once
    environ = {"PATH": os.environ["PATH"], **api.environ()}
    done = subprocess.run(
        [sys.executable, "enqueue.py"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout) == ("", expected)
    assert api.posts() or ".enqueue(" not in script


@each_end
def test_a_task_ends_as_the_page_says(
    start_task: Callable[..., subprocess.Popen[bytes]],
    ended: Callable[[subprocess.Popen[bytes]], Ended],
    api: ApiServer,
    tmp_path: Path,
    page: Page,
    how: str,
    task: str,
    args: str,
    outcome: str,
    rest: str,
) -> None:
    process = start_task(task, json.loads(args), api=api, PYTHONPATH=str(page.folder(tmp_path)))
    if how == "stop":
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    end = ended(process)
    assert end.envelope["outcome"] == outcome, end.stderr
    if outcome == "Succeeded":
        assert compact(end.envelope["result"]) == compact(json.loads(rest))
    else:
        assert end.envelope.get("reason", "") == rest


def test_every_option_is_in_the_table() -> None:
    table = SDK.text.partition("## Options")[2].partition("## Uniqueness")[0]
    rows = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert rows == {*Options._fields, "retry_on", "no_retry_on"}


@each_page
def test_every_name_that_a_page_uses_exists(page: Page) -> None:
    for name in set(re.findall(r"`([A-Z]\w+Error|\w*Invalid|Not\w+|Enqueue\w+|Job\w+|\w+Refused)`", page.text)):
        assert name in questline.__all__ or name in {"ArgsInvalid", "NoOutcome"}, name


def test_the_delays_of_the_manifest_are_those_of_the_table() -> None:
    (manifest,) = (yaml.safe_load(code) for kind, code in RETRIES.blocks if kind == "yaml")
    (delays,) = re.findall(r"\| delay in seconds \|(.*)\|", RETRIES.text)
    job = a_job(spec=manifest["spec"])
    assert [int(delay) for delay in delays.split("|")] == [backoff_seconds(job, None, n) for n in range(1, 8)]


def test_the_manifest_is_what_the_options_in_python_say(tmp_path: Path) -> None:
    (manifest,) = (yaml.safe_load(code) for kind, code in RETRIES.blocks if kind == "yaml")
    print_spec = "import json, tasks; print(json.dumps(tasks.sync.call().spec()))"
    done = subprocess.run(
        [sys.executable, "-c", print_spec], cwd=RETRIES.folder(tmp_path), capture_output=True, check=True
    )
    wanted = manifest["spec"] | {"queue": "default"}
    assert json.loads(done.stdout) == wanted


def test_the_schedule_in_python_is_the_manifest_of_its_page(tmp_path: Path) -> None:
    text = (DOCS / "schedules.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# shop.py\n.*?)```", text, re.DOTALL)
    manifest = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    (tmp_path / "shop.py").write_text(code)
    print_it = "import json, shop; print(json.dumps([shop.nightly.name, shop.nightly.spec]))"
    done = subprocess.run([sys.executable, "-c", print_it], cwd=tmp_path, capture_output=True, check=True)
    spec = manifest["spec"] | {"job": manifest["spec"]["job"] | {"queue": "default"}}
    assert json.loads(done.stdout) == [manifest["metadata"]["name"], spec]
