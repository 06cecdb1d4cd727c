"""What all commands share: help, completion, Ctrl-C, a reader that has seen enough, a library that is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from questline import __version__
from questline.cli.app import app
from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server

GROUPS = {"schedules": {"apply", "suspend", "resume"}}
COMMANDS = {"enqueue", "get", "tree", "logs", "why", "cancel", "rerun", "pause", "resume", "wait", "queues", "run"}
CLUSTERLESS = {"run"}
MAIN = "from questline.cli.main import main; main()"


def names_of(commands: typer.Typer) -> set[str]:
    return {str(one.name or getattr(one.callback, "__name__", "")) for one in commands.registered_commands}


def groups_of(commands: typer.Typer) -> dict[str, set[str]]:
    groups = [one.typer_instance for one in commands.registered_groups]
    return {str(one.info.name): names_of(one) for one in groups if one is not None}


def started(*args: str, **environ: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which a Ctrl-C reaches though a shell may have started us deaf to it."""
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    pipe = subprocess.PIPE
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **environ}
    return subprocess.Popen([sys.executable, "-c", hears + MAIN, *args], env=env, stdout=pipe, stderr=pipe, text=True)


def test_every_command_is_there_with_help_and_kubectls_flags(command: Command) -> None:
    assert names_of(app) == COMMANDS
    assert groups_of(app) == GROUPS
    in_groups = {f"{group} {name}" for group, names in GROUPS.items() for name in names}
    for name in COMMANDS | set(GROUPS) | in_groups:
        result = command(*name.split(), "--help")
        assert (result.exit_code, name in result.stdout) == (0, True)
        for flag in ("--kubeconfig", "--context", "--namespace"):
            assert (flag in result.stdout) == (name not in CLUSTERLESS), (name, flag)
    assert "Exit status: 0 succeeded, 1 failed, 3 canceled, 4 skipped, 124 timeout" in " ".join(
        command("wait", "--help").stdout.split()
    )


def test_the_version_is_told_without_a_cluster(command: Command) -> None:
    assert command("--version").stdout == f"questline {__version__}\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("questline why re", ["resize-1", "resize-2"]),
        ("questline cancel resize-1 x", ["x"]),
        ("questline wait -n other e", ["elsewhere"]),
        ("questline -n other logs ", ["elsewhere"]),
        ("questline get --queue ", ["mail", "media"]),
        ("questline pause ma", ["mail"]),
        ("questline schedules suspend n", ["nightly"]),
        ("questline -n other schedules resume ", ["elsewhere"]),
        ("questline schedules -n other resume ", ["elsewhere"]),
        ("questline schedules ", ["apply", "resume", "suspend"]),
        ("questline get --state S", ["Starting", "Succeeded", "Skipped"]),
    ],
)
def test_the_shell_completes_names_and_states(server: Server, kubeconfig: Path, line: str, found: list[str]) -> None:
    for name in ("resize-1", "resize-2", "x"):
        server.job(name)
    server.job("elsewhere", namespace="other")
    for name in ("mail", "media"):
        server.put("questqueues", name)
    for name in ("nightly", "weekly"):
        server.put("questschedules", name)
    server.put("questschedules", "elsewhere", namespace="other")
    environ = {
        "KUBECONFIG": str(kubeconfig),
        "_QUESTLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    out, err = started(**environ).communicate(timeout=30)
    assert (sorted(out.split()), err) == (sorted(found), "")


def test_completion_without_a_cluster_says_nothing() -> None:
    environ = {"_QUESTLINE_COMPLETE": "complete_bash", "COMP_WORDS": "questline why ", "COMP_CWORD": "2"}
    assert started(**environ).communicate(timeout=30) == ("\n", "")


def test_ctrl_c_ends_with_130_and_no_traceback(server: Server, kubeconfig: Path) -> None:
    server.job("a", "Running")
    process = started("wait", "a", KUBECONFIG=str(kubeconfig))
    server.until_asked("/questjobs")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_has_seen_enough_is_no_error(server: Server, kubeconfig: Path) -> None:
    for number in range(3000):
        server.job(f"job-{number:04}")
    process = started("get", KUBECONFIG=str(kubeconfig))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) in (0, 141)


@pytest.mark.parametrize("args", [("get", "-o", "json"), ("get", "-o", "yaml"), ("get",), ("wait", "a"), ("logs", "a")])
def test_a_reader_that_is_gone_before_the_first_line_is_no_error(
    server: Server, kubeconfig: Path, args: tuple[str, ...]
) -> None:
    uid = server.job("a", "Succeeded", attempt=1)
    server.write_log(f"a-{uid}-1", "2026-01-31T08:00:00Z line", ended=True)
    process = started(*args, KUBECONFIG=str(kubeconfig))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(30)) == ("", 141)
    process.stderr.close()


@pytest.mark.parametrize("library", ["typer", "rich", "yaml"])
def test_a_library_that_is_missing_is_named_with_what_installs_it(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; {MAIN}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"questline: {library} is not installed: pip install 'questline[cli]'\n",
    )


def test_as_a_plugin_of_kubectl_it_calls_itself_so(tmp_path: Path) -> None:
    script = tmp_path / "kubectl-questline"
    script.write_text(f"#!{sys.executable}\n{MAIN}\n")
    done = subprocess.run([sys.executable, script, "get", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.lstrip().startswith("Usage: kubectl questline get ")
