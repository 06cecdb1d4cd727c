"""The demo's mail server as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from examples.demo.cluster import CHECKOUT


class MailServer:
    """Runs from its creation to `stop`, on a free port of the loopback interface."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.log = directory / "mail" / "log.jsonl"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.media.mailbox"],
            cwd=CHECKOUT,
            env={**os.environ, "MEDIA_DIR": str(directory), "SMTP_PORT": str(self.port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == f"listening on :{self.port}\n"

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def stop(self) -> tuple[int, str]:
        """Ends it by SIGTERM; its exit status and what it wrote to stderr."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors
