"""The test kit: tasks and what they enqueue, run in a test's own process in virtual time.

    from questline import testing

    def test_an_upload_is_processed_and_announced() -> None:
        with testing.cluster():
            process_upload.enqueue("file-7")
            testing.drain(raise_failures=True)
            assert [job.state for job in testing.jobs(notify_user)] == ["Succeeded"]

`run` runs one attempt, `enqueued` shows what waits to be run, `drain` runs everything to its end. What happens to a Job
is decided by the operator's own `core`, what an enqueue or a task does by the SDK's own code; only the cluster between
them is replaced. It needs nothing but the standard library; Schedules need the extra `questline[testing]`.
The guide is docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, overload

from questline.durations import Duration
from questline.task import Call, Task
from questline.testing._cluster import LIMIT, Cluster, Input, Which
from questline.testing._errors import Endless, JobsFailed, KitError, NoCluster
from questline.testing._views import Attempt, Job, Outcome

__all__ = [
    "Attempt",
    "Cluster",
    "Endless",
    "Job",
    "JobsFailed",
    "KitError",
    "NoCluster",
    "Outcome",
    "advance",
    "cancel",
    "cluster",
    "drain",
    "enqueued",
    "job",
    "jobs",
    "now",
    "rerun",
    "run",
]

P = ParamSpec("P")
R = TypeVar("R")

_clusters: list[Cluster] = []


def cluster(
    *,
    now: datetime | None = None,
    attempt_seconds: Duration = 1,
    strict: bool = False,
    max_running_pods: int | None = None,
) -> Cluster:
    """A new cluster for a ``with`` block: what is enqueued in it goes there. See `Cluster`."""
    return Cluster(now=now, attempt_seconds=attempt_seconds, strict=strict, max_running_pods=max_running_pods)


@overload
def run(what: Task[P, Any, R], *args: P.args, **kwargs: P.kwargs) -> Outcome[R]: ...
@overload
def run(what: Call[R], *, attempt: int = 1, inputs: Iterable[Input] = ()) -> Outcome[R]: ...
def run(what: Any, *args: Any, **kwargs: Any) -> Outcome[Any]:
    """See `Cluster.run`. Outside a cluster it has one of its own, which is gone with it."""
    if _clusters:
        return _clusters[-1].run(what, *args, **kwargs)
    with cluster() as own:
        return own.run(what, *args, **kwargs)


def drain(*, raise_failures: bool = False, limit: int = LIMIT) -> list[Job]:
    """See `Cluster.drain`."""
    return _current().drain(raise_failures=raise_failures, limit=limit)


def advance(duration: Duration, *, limit: int = LIMIT) -> None:
    """See `Cluster.advance`."""
    _current().advance(duration, limit=limit)


def now() -> datetime:
    """See `Cluster.now`."""
    return _current().now


def enqueued(task: Task[..., Any, Any] | None = None, *, queue: str | None = None) -> list[Job]:
    """See `Cluster.enqueued`."""
    return _current().enqueued(task, queue=queue)


def jobs(task: Task[..., Any, Any] | None = None, *, queue: str | None = None, state: str | None = None) -> list[Job]:
    """See `Cluster.jobs`."""
    return _current().jobs(task, queue=queue, state=state)


def job(which: Which) -> Job:
    """See `Cluster.job`."""
    return _current().job(which)


def cancel(which: Which) -> None:
    """See `Cluster.cancel`."""
    _current().cancel(which)


def rerun(which: Which) -> None:
    """See `Cluster.rerun`."""
    _current().rerun(which)


def _current() -> Cluster:
    if not _clusters:
        raise NoCluster(
            "there is no cluster of the test kit here: `with questline.testing.cluster():` makes one, "
            "around all that the test enqueues"
        )
    return _clusters[-1]
