"""Where a life happens: a simulated cluster whose operator is two replicas, and what is noted of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.cluster import Cluster
from tests.simulation.judge import Judge
from tests.simulation.plan import Plan
from tests.simulation.policies import Fence, immutable, lineage, report
from tests.simulation.replica import NAMESPACE as SYSTEM
from tests.simulation.replica import Replica


class ReplicatedCluster(Cluster):
    """A cluster whose operator is two replicas that elect a leader, behind the chart's policies."""

    def __init__(self, plan: Plan, judged: Callable[[str], None], **kubelet: Any) -> None:
        super().__init__(max_running_pods=plan.max_running_pods, **kubelet)
        self.note = judged
        self.epochs: list[int] = []
        """Of every leadership."""
        self.replicas = [
            Replica(
                self.server,
                name,
                skew=skew,
                note=self.note,
                led=self.epochs.append,
                max_running_pods=plan.max_running_pods,
            )
            for name, skew in zip("ab", plan.skews, strict=True)
        ]
        self.fence = Fence(self.server, namespace=SYSTEM, lag=plan.fence_lag)
        self.server.store.admission.extend([lineage, report, immutable, self.fence])

    def start_operator(self) -> None:
        """Start both."""
        for replica in self.replicas:
            replica.start()

    async def crash_operator(self) -> None:
        """Kill both; none comes back."""
        for replica in self.replicas:
            await replica.kill(seconds=float("inf"))


@dataclass
class Scene:
    """What everybody who takes part in a life shares.

    Attributes:
        log: what was done and when, for whoever looks for a cause.
        faults: how often each kind of fault was injected.
    """

    plan: Plan
    cluster: ReplicatedCluster
    judge: Judge
    log: list[str]
    faults: Counter[str] = field(default_factory=Counter)

    def note(self, what: str) -> None:
        """Put a line into the log."""
        self.log.append(f"{self.cluster.clock.monotonic():8.3f} {what}")
