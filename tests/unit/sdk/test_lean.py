"""What importing and running the SDK costs, measured as a worker pod pays it: without site packages of others."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import questline

SDK = Path(questline.__file__).parent
ROOT = Path(__file__).parents[3]
LEAN = [sys.executable, "-I", "-S"]
IMPORT = f"import sys; sys.path.insert(0, {str(SDK.parent)!r}); import questline"
RUNS = 9


def cpu_seconds(code: str) -> float:
    """The median CPU time of a Python process that runs the code."""

    def once() -> float:
        process = subprocess.Popen([*LEAN, "-c", code])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    return statistics.median(once() for _ in range(RUNS))


def rss_bytes(code: str) -> int:
    """The memory that such a process holds at its end."""
    code += "\nimport re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    return int(subprocess.run([*LEAN, "-c", code], capture_output=True, check=True).stdout) * 1024


def imported_by(code: str) -> set[str]:
    code += "\nimport json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([*LEAN, "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_questline_takes_less_than_60_ms_of_cpu_above_bare_python() -> None:
    assert cpu_seconds(IMPORT) - cpu_seconds("pass") < 0.060


def test_importing_questline_takes_less_than_20_mb_above_bare_python() -> None:
    assert rss_bytes(IMPORT) - rss_bytes("pass") < 20 * 2**20


def test_a_task_that_calls_nothing_imports_no_client_no_loop_and_no_library() -> None:
    heavy = {"asyncio", "http", "http.client", "ssl", "email", "inspect", "dataclasses", "logging", "kubernetes"}
    assert heavy & imported_by(f"{IMPORT}, questline.runner") == set()


def test_the_sdk_imports_nothing_but_the_standard_library_and_questline() -> None:
    lines = re.compile(r"^\s*(?:from|import) ([a-z_0-9]+)", re.MULTILINE)
    roots = {name for path in SDK.glob("*.py") for name in lines.findall(path.read_text())}
    others = roots - set(sys.stdlib_module_names) - {"questline", "questline_operator"}
    assert others == {"kubernetes", "urllib3"}
    assert {
        path.name for path in SDK.glob("*.py") if re.search("kubernetes import|from urllib3", path.read_text())
    } == {"kubeconfig.py"}


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert questline.__version__ == project["version"]
    from questline.client import USER_AGENT

    assert f"questline/{project['version']}" == USER_AGENT


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(questline.__all__) == sorted(set(questline.__all__))
    for name in questline.__all__:
        assert name == "__version__" or getattr(questline, name).__doc__, name
    assert set(dir(questline)) == set(questline.__all__)


def test_every_error_is_drawn_in_the_tree() -> None:
    from questline import errors

    tree = (errors.__doc__ or "").replace("EnqueueFateUnknown", "EnqueueFateUnknown ")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, BaseException):
            assert re.search(rf"\b{name}\b", tree), name
            assert issubclass(value, errors.QuestlineError) or name == "EnqueueFateUnknown"
            assert name in questline.__all__


def test_the_command_line_says_what_it_can() -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "questline", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert (call("--help").returncode, call("--help").stdout[:27]) == (0, "usage: python -m questline ")
    assert (call("walk").returncode, call("walk").stderr[:27]) == (64, "usage: python -m questline ")
    assert call().returncode == 64
