"""Telling an attempt's outcome: the termination message, and the early report on the Job's status (design 3).

A pod's end shows in the API up to 2 s late; the report is there in milliseconds, and what waits for the Job goes on.
It is an addition: where it is refused or does not get through, the termination message speaks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from questline.handle import API_PATH
from questline.task import compact

if TYPE_CHECKING:
    from questline.attempt import Attempt

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_ENV = "QUESTLINE_TERMINATION_LOG"
"""Where the termination message goes instead, for tests of the process from outside."""
REPORT_SECONDS = 5.0
"""How long the report is tried: the pod's end, which says the same, is not to wait for it long."""


def say(line: str) -> None:
    """One line of ours among the task's own, on standard error."""
    with suppress(OSError, ValueError):  # the task may have closed it
        print(f"questline: {' '.join(line.split())}", file=sys.stderr, flush=True)


def write_termination_message(envelope: Mapping[str, Any]) -> None:
    """Leaves the envelope where the kubelet finds it."""
    path = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    try:
        path.write_bytes(compact(envelope))
    except OSError as error:
        say(f"the termination message cannot be written to {path}: {error}")


def report(attempt: Attempt, envelope: Mapping[str, Any]) -> None:
    """Writes the envelope to the Job's status.report, where the pod has a token. Never raises."""
    if attempt._transport is None:
        return
    from questline.client import UnsettledError, persist
    from questline.enqueue import pod_uid_of
    from questline.errors import ConfigurationError

    job = attempt.job
    path = f"{API_PATH.format(namespace=job.namespace)}/{job.name}/status"
    try:
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": job.uid},
            {"op": "add", "path": "/status/report", "value": {**envelope, "podUID": pod_uid_of(attempt)}},
        ]
        answer, maybe_done = persist(
            attempt._transport,
            "PATCH",
            path,
            compact(patch),
            content_type="application/json-patch+json",
            seconds=REPORT_SECONDS,
            request_seconds=3.0,
        )
    except (UnsettledError, ConfigurationError) as error:
        say(f"the outcome was not reported early: {error}")
        return
    # A refusal after a lost answer is likely the answer to a second report: the first one stands.
    if answer.status >= 300 and not maybe_done:
        say(f"the outcome was not reported early ({answer.status} {answer.reason}): {answer.message}")
