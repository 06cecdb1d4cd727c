"""Fixtures of the SDK's tests: a server, an attempt in this process, and one in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from questline import attempt as attempts
from questline import enqueue
from questline.attempt import Attempt
from tests.unit.sdk.apiserver import ApiServer, serving
from tests.unit.sdk.processes import POD_UID, Ended, payload

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    with serving(folder) as server:
        yield server


@pytest.fixture
def in_pod(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """A pod with a service account that runs no attempt, such as a web server's."""
    for name, value in api.environ().items():
        monkeypatch.setenv(name, value)
    enqueue.forget_connection()
    yield api
    enqueue.forget_connection()


@pytest.fixture
def attempt(in_pod: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attempt]:
    """This process runs attempt 2 of Job `parent`."""
    monkeypatch.setenv("QUESTLINE_POD_UID", POD_UID)
    monkeypatch.setattr(enqueue, "ENQUEUE_SECONDS", 1.0)
    begun = Attempt(payload("tests.unit.sdk.apps.shop:nothing"))
    attempts.begin(begun)
    yield begun
    attempts.end()
    if begun._transport is not None:
        begun._transport.close()


@pytest.fixture
def start_task(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `python -m questline run` for a task of the folder `apps`, as a pod would."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        task: str, args: dict[str, Any] | None = None, *, api: ApiServer | None = None, code: str = "", **env: str
    ) -> subprocess.Popen[bytes]:
        payload_file, log = tmp_path / "job.json", tmp_path / "termination-log"
        payload_file.write_text(json.dumps(payload(task, args)))
        log.write_bytes(b"")
        environ = {
            "PATH": os.environ["PATH"],
            "QUESTLINE_PAYLOAD": str(payload_file),
            "QUESTLINE_POD_UID": POD_UID,
            "QUESTLINE_TERMINATION_LOG": str(log),
            "QUESTLINE_SERVICEACCOUNT_DIR": str(tmp_path / "none"),
            **(api.environ() if api else {}),
            **env,
        }
        command = [sys.executable, *(["-c", code] if code else ["-m", "questline", "run"])]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=APPS, env=environ, stdin=pipe, stdout=pipe, stderr=pipe)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def ended(tmp_path: Path) -> Callable[[subprocess.Popen[bytes]], Ended]:
    """Waits for a started task's end."""

    def wait(process: subprocess.Popen[bytes]) -> Ended:
        stdout, stderr = process.communicate(timeout=60)
        log = (tmp_path / "termination-log").read_bytes()
        return Ended(process.returncode, stdout.decode(), stderr.decode(), log)

    return wait


@pytest.fixture
def run_task(
    start_task: Callable[..., subprocess.Popen[bytes]], ended: Callable[[subprocess.Popen[bytes]], Ended]
) -> Callable[..., Ended]:
    """Starts a task and waits for its end."""
    return lambda *args, **kwargs: ended(start_task(*args, **kwargs))
