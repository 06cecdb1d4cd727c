"""Processes by identity: a pid that was used again is never taken for ours, nor signalled."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster.paths import DevclusterError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """This boot of the machine: pids and start times mean nothing beyond it."""
    return BOOT_ID.read_text().strip()


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Clock ticks from boot to the process's start; None when there is no such process or it is a zombie."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may itself hold spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Identity:
    """One process of one boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Raises ProcessLookupError when the process is not alive."""
        started = start_time(pid)
        if started is None:
            raise ProcessLookupError(pid)
        return cls(pid, started, boot_id())

    @property
    def alive(self) -> bool:
        return self.boot == boot_id() and start_time(self.pid) == self.started

    def kill(self, sig: signal.Signals, wait_seconds: float) -> bool:
        """Signals the process, if it still is that process, and says whether it was gone within the time."""
        try:
            # The file descriptor keeps meaning this process even if its pid is used again meanwhile.
            pidfd = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return not self.alive
        try:
            if not self.alive:
                return True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, sig)
            ended, _, _ = select.select([pidfd], [], [], wait_seconds)
            return bool(ended) or not self.alive
        finally:
            os.close(pidfd)


@dataclass(frozen=True)
class Record:
    """What is kept of a daemon: who it is and the digest of what it was started with."""

    identity: Identity
    digest: str

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """None when there is no such file or a crash left it torn."""
        try:
            data = json.loads(path.read_text())
            identity = data["identity"]
            return cls(
                Identity(int(identity["pid"]), int(identity["started"]), str(identity["boot"])),
                str(data["digest"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


def stop(identity: Identity, term_seconds: float) -> None:
    """SIGTERM, then SIGKILL. Raises DevclusterError when the process outlives even that."""
    if term_seconds > 0 and identity.kill(signal.SIGTERM, term_seconds):
        return
    if not identity.kill(signal.SIGKILL, 10):
        raise DevclusterError(f"process {identity.pid} does not end after SIGKILL; it may hang in the kernel")


def spawn(argv: Sequence[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a daemon in a session of its own, with its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env=env,
        )


def processes() -> Iterator[tuple[int, list[str]]]:
    """Every process that is no zombie: its pid and argv (empty for a kernel thread)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or start_time(int(entry.name)) is None:
            continue
        with contextlib.suppress(OSError):
            yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def tail(path: Path, lines: int = 15, since: int = 0) -> str:
    """The last lines of a log, indented, each cut at 400 characters; nothing before the byte `since`."""
    try:
        text = path.read_bytes()[since:][-20_000:].decode(errors="replace")
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join("    " + line[:400] for line in text.splitlines()[-lines:]) or "    (empty log)"
