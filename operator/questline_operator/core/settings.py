"""What a Job's missing settings are: its own, else its Queue's defaults, else the built-in ones (design 2)."""

import hashlib
from typing import Any

from questline_operator.core.records import DEFAULT_WORKER, Job, Json, Queue

MAX_ATTEMPTS = 5
BACKOFF: Json = {"type": "Exponential", "baseSeconds": 1, "maxSeconds": 3600, "jitter": 0.5}
TTL_SECONDS_AFTER_FINISHED = 86_400
POD_TTL_SECONDS = 600
FAILED_POD_TTL_SECONDS = 86_400
MAX_DISRUPTION_DELAY_SECONDS = 300.0


def _setting(job: Job, queue: Queue | None, name: str, built_in: Any) -> Any:
    if name in job.spec:
        return job.spec[name]
    return queue.defaults.get(name, built_in) if queue else built_in


def max_attempts(job: Job, queue: Queue | None) -> int:
    """How many failures end the Job."""
    number: int = _setting(job, queue, "maxAttempts", MAX_ATTEMPTS)
    return number


def timeout_seconds(job: Job, queue: Queue | None) -> int | None:
    """How long one attempt may run, or None for no limit."""
    seconds: int | None = _setting(job, queue, "timeoutSeconds", None)
    return seconds


def ttl_seconds(job: Job, queue: Queue | None) -> float:
    """How long a finished Job is kept."""
    seconds: float = _setting(job, queue, "ttlSecondsAfterFinished", TTL_SECONDS_AFTER_FINISHED)
    return seconds


def pod_ttl_seconds(queue: Queue | None, *, last_failed: bool) -> float:
    """How long an ended pod is kept: longer where it is the last failed attempt's."""
    defaults: Json = queue.defaults if queue else {}
    if last_failed:
        return float(defaults.get("failedPodTTLSeconds", FAILED_POD_TTL_SECONDS))
    return float(defaults.get("podTTLSeconds", POD_TTL_SECONDS))


def default_worker(queue: Queue | None) -> str:
    """The Worker of a root Job that names none."""
    name: str = queue.defaults.get("worker", DEFAULT_WORKER) if queue else DEFAULT_WORKER
    return name


def backoff_seconds(job: Job, queue: Queue | None, failures: int) -> float:
    """The delay after that many failures: min(max, base * 2^(failures-1)) * U(1-j, 1+j), never over max.

    U is drawn from the Job's UID and the number, so that whoever computes it, before or after a crash, finds the same.
    """
    backoff = {**BACKOFF, **_setting(job, queue, "backoff", {})}
    longest = float(backoff["maxSeconds"])
    base = float(backoff["baseSeconds"])
    if backoff["type"] == "Exponential":
        base *= 2.0 ** min(failures - 1, 64)
    draw = int.from_bytes(hashlib.sha256(f"{job.uid}/{failures}".encode()).digest()[:8], "big") / 2**64
    jitter = float(backoff["jitter"])
    return min(longest, min(longest, base) * (1.0 - jitter + 2.0 * jitter * draw))


def disruption_delay_seconds(disruptions: int) -> float:
    """The delay after that many disruptions of a Job: min(2^(d-1), 300) seconds."""
    return min(2.0 ** min(disruptions - 1, 16), MAX_DISRUPTION_DELAY_SECONDS)
