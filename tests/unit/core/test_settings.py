"""Which setting holds, and how long a Job waits before its next attempt."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as without_deadline
from hypothesis import strategies as st

from questline_operator.core import settings
from tests.unit.core.builders import a_job, a_queue

SETTINGS = {
    "maxAttempts": (settings.max_attempts, 5),
    "timeoutSeconds": (settings.timeout_seconds, None),
    "ttlSecondsAfterFinished": (settings.ttl_seconds, 86_400),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_job_goes_before_its_queue_and_the_queue_before_the_built_in(name: str) -> None:
    read, built_in = SETTINGS[name]
    says, silent = a_job(spec={name: 2}), a_job()
    queue = a_queue(defaults={name: 3})

    assert read(says, queue) == 2
    assert read(silent, queue) == 3
    assert read(silent, a_queue()) == built_in
    assert read(silent, None) == built_in


@pytest.mark.parametrize("name", ["ttlSecondsAfterFinished"])
def test_a_zero_of_the_job_is_no_silence(name: str) -> None:
    assert settings.ttl_seconds(a_job(spec={name: 0}), a_queue(defaults={name: 3})) == 0


def test_the_worker_of_a_root_is_its_queues_default_else_default() -> None:
    assert settings.default_worker(a_queue(defaults={"worker": "gpu"})) == "gpu"
    assert settings.default_worker(a_queue()) == "default"
    assert settings.default_worker(None) == "default"


def test_the_last_failed_attempts_pod_is_kept_longer() -> None:
    queue = a_queue(defaults={"podTTLSeconds": 5, "failedPodTTLSeconds": 50})

    assert settings.pod_ttl_seconds(queue, last_failed=False) == 5
    assert settings.pod_ttl_seconds(queue, last_failed=True) == 50
    assert settings.pod_ttl_seconds(None, last_failed=False) == 600
    assert settings.pod_ttl_seconds(a_queue(), last_failed=True) == 86_400


# The law of the backoff

NO_JITTER = {"type": "Exponential", "baseSeconds": 2, "maxSeconds": 60, "jitter": 0}


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        pytest.param(NO_JITTER, [2, 4, 8, 16, 32, 60, 60], id="it doubles up to its longest"),
        pytest.param({**NO_JITTER, "type": "Fixed"}, [2, 2, 2, 2], id="a fixed one stays"),
        pytest.param({"jitter": 0}, [1, 2, 4], id="what it leaves out is built in"),
        pytest.param({**NO_JITTER, "baseSeconds": 0}, [0, 0, 0], id="a base of 0 never waits"),
        pytest.param({"type": "Fixed", "baseSeconds": 9, "maxSeconds": 5, "jitter": 0}, [5, 5], id="never over max"),
    ],
)
def test_the_delay_after_each_failure(backoff: Mapping[str, Any], delays: list[float]) -> None:
    job = a_job(spec={"backoff": backoff})

    assert [settings.backoff_seconds(job, None, n) for n in range(1, len(delays) + 1)] == delays


def test_a_jobs_backoff_replaces_its_queues_as_a_whole() -> None:
    queue = a_queue(defaults={"backoff": {"type": "Fixed", "baseSeconds": 30, "jitter": 0}})

    assert settings.backoff_seconds(a_job(), queue, 4) == 30
    assert settings.backoff_seconds(a_job(spec={"backoff": {"jitter": 0}}), queue, 1) == 1


@without_deadline(deadline=None)
@given(
    kind=st.sampled_from(["Exponential", "Fixed"]),
    base=st.integers(0, 86_400),
    longest=st.integers(1, 2_592_000),
    jitter=st.floats(0, 1),
    failures=st.integers(1, 10_000),
    name=st.text("abc", min_size=1, max_size=6),
)
@example(kind="Exponential", base=1, longest=3_600, jitter=0.5, failures=10_000, name="a")
def test_the_delay_lies_within_the_jitter_and_never_over_the_longest(
    kind: str, base: int, longest: int, jitter: float, failures: int, name: str
) -> None:
    job = a_job(name, spec={"backoff": {"type": kind, "baseSeconds": base, "maxSeconds": longest, "jitter": jitter}})
    middle = min(float(longest), base * 2.0 ** min(failures - 1, 64) if kind == "Exponential" else float(base))

    delay = settings.backoff_seconds(job, None, failures)

    assert delay <= longest
    assert middle * (1 - jitter) * 0.999 <= delay <= middle * (1 + jitter) * 1.001
    assert settings.backoff_seconds(a_job(name, spec=job.spec, version=999), None, failures) == delay


def test_the_jitter_spreads_jobs_that_fail_together() -> None:
    delays = [settings.backoff_seconds(a_job(f"job-{n}"), None, 1) for n in range(400)]

    assert len({round(delay, 6) for delay in delays}) > 390
    assert min(delays) < 0.55
    assert max(delays) > 1.45
    assert 0.95 < sum(delays) / len(delays) < 1.05


def test_a_disrupted_job_runs_again_soon_and_after_five_minutes_at_most() -> None:
    delays = [settings.disruption_delay_seconds(d) for d in (1, 2, 3, 9, 10, 1_000)]

    assert delays == [1, 2, 4, 256, 300, 300]
