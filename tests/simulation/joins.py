"""Tasks that fan out and join, and what became of them: what the tests of joins and of trees share."""

from typing import Any

from tests.simulation.cluster import Cluster
from tests.simulation.sdk import Attempt, Ended, failed, succeeded


def fan_out(children: int, *, policy: str = "Succeeded", name: str = "join", **child: Any) -> Any:
    """A task that enqueues so many children in a group and a join behind them."""

    async def behave(attempt: Attempt) -> Ended:
        for index in range(children):
            await attempt.enqueue("tasks:child", group="g", args={"index": index}, queue="wide", **child)
        await attempt.enqueue(f"tasks:{name}", after=[{"group": "g"}], afterPolicy=policy)
        return succeeded()

    return behave


def some_fail(*indices: int) -> Any:
    async def child(attempt: Attempt) -> Ended:
        await attempt.work(1.0)
        return failed() if attempt.args["index"] in indices else succeeded(attempt.args["index"])

    return child


class Join:
    """A task that keeps what it was told, and when."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    async def __call__(self, attempt: Attempt) -> Ended:
        self.inputs.append(attempt.inputs)
        return succeeded()

    @property
    def summary(self) -> dict[str, int]:
        (inputs,) = self.inputs
        return {name: number for name, number in inputs["summary"].items() if number}


def of_task(cluster: Cluster, task: str) -> list[Any]:
    return [job for job in cluster.jobs() if job.spec.get("task") == f"tasks:{task}"]


def outcome(cluster: Cluster, task: str = "join") -> str:
    (job,) = of_task(cluster, task)
    return f"{job.state} {job.reason}".strip()


def ended_before(cluster: Cluster, join: str, others: str) -> bool:
    """Whether the join's container started when all of the others had ended."""
    runs = [run for run in cluster.kubelet.runs if run.job.startswith(f"{others}-")]
    (started,) = [run.started_at for run in cluster.kubelet.runs if f"{run.job}-".startswith(f"{join}-")]
    return bool(runs) and all(run.ended_at is not None and run.ended_at <= started for run in runs)
