"""A pid alone never identifies a process."""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.processes import Identity, Record, boot_id, spawn, start_time, stop, tail


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_reused_pid_is_neither_alive_nor_killed(sleeper: subprocess.Popen[bytes]) -> None:
    real = Identity.of(sleeper.pid)
    earlier = dataclasses.replace(real, started=real.started - 1)
    assert real.alive
    assert not earlier.alive
    stop(earlier, term_seconds=0)
    assert sleeper.poll() is None
    assert real.alive


def test_a_pid_of_another_boot_is_not_ours(sleeper: subprocess.Popen[bytes]) -> None:
    other = dataclasses.replace(Identity.of(sleeper.pid), boot="another")
    assert not other.alive
    assert other.kill(signal.SIGKILL, 1)
    assert sleeper.poll() is None


def test_stop_ends_a_process_that_ignores_sigterm() -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        stop(Identity.of(stubborn.pid), term_seconds=0.1)
        assert stubborn.wait() == -signal.SIGKILL


def test_a_zombie_counts_as_dead(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    sleeper.kill()
    assert identity.kill(signal.SIGKILL, 10)
    assert not identity.alive


def test_the_start_time_is_found_behind_any_command_name(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a) S (b) c)) S {fields}")
    assert start_time(7, tmp_path) == 22
    assert start_time(8, tmp_path) is None


def test_a_record_survives_its_file_and_a_torn_file_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "pids" / "etcd.json"
    record = Record(Identity(12, 345, boot_id()), "digest")
    record.write(path)
    assert Record.read(path) == record
    path.write_text(path.read_text()[:20])
    assert Record.read(path) is None
    path.unlink()
    assert Record.read(path) is None


def test_a_daemon_lives_in_a_session_of_its_own_and_its_words_go_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log" / "daemon.log"
    child = spawn(["sh", "-c", "echo hello; cut -d' ' -f6 /proc/$$/stat; echo trouble >&2"], log)
    assert child.wait() == 0
    hello, session, trouble = log.read_text().split()
    assert (hello, trouble) == ("hello", "trouble")
    assert int(session) == child.pid
    assert tail(log, 1) == "    trouble"
    assert tail(log, since=len("hello\n")) == f"    {session}\n    trouble"
