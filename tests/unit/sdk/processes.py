"""The payload of an attempt, and how its process ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

POD_UID = "0a1b2c3d-1111-2222-3333-444455556666"
JOB_UID = "99999999-8888-7777-6666-555544443333"


def payload(task: str, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What the operator gives attempt 2 of Job `parent` in namespace `shop`."""
    job = {"namespace": "shop", "name": "parent", "uid": JOB_UID, "queue": "media", "task": task}
    return {
        "v": 1,
        "job": {**job, "root": "parent", "depth": 0, "worker": "default", "maxAttempts": 5},
        "attempt": 2,
        "isLastAttempt": False,
        "args": args or {},
        "inputs": None,
        "parent": None,
        "traceparent": None,
        **more,
    }


@dataclass
class Ended:
    """A process's end, and the termination message that it left."""

    exit_code: int
    stdout: str
    stderr: str
    termination_message: bytes

    @property
    def envelope(self) -> dict[str, Any]:
        envelope: dict[str, Any] = json.loads(self.termination_message)
        return envelope
