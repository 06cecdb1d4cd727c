"""Fixtures of the command's tests: a server, and the command run against it in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from questline.cli import enqueue, follow, jobs, local, schedules, steer  # noqa: F401  each registers its commands
from questline.cli.app import app
from tests.unit.cli.server import Server, serving

Command = Callable[..., Result]


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    return tmp_path / "kubeconfig"


@pytest.fixture
def server(kubeconfig: Path) -> Iterator[Server]:
    with serving(kubeconfig) as api:
        yield api
    for thread in threading.enumerate():
        if thread.name.startswith("questline-"):
            thread.join(5.0)
            assert not thread.is_alive(), f"{thread.name} follows on, though the command and its server are gone"


@pytest.fixture
def command(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command with KUBECONFIG set. An error that is no message fails the test."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    for name in ("QUESTLINE_PAYLOAD", "CI"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(args), input=stdin, catch_exceptions=False)
        assert "Traceback" not in result.output or args[0] == "run", "a user's mistake is a message"
        return result

    return run
