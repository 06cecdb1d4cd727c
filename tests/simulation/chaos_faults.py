"""What breaks in a life: pods and nodes, requests and watches, and the operators themselves."""

import asyncio

from questline_operator.shell.api import CONFIG_MAPS, JOBS, PODS, QUEUES, SCHEDULES, WORKERS, ApiError, Resource
from questline_operator.shell.epoch import FENCE
from tests.simulation.apiserver import Cut
from tests.simulation.chaos_scene import Scene
from tests.simulation.cluster import NAMESPACE
from tests.simulation.faults import Fault, internal_error, too_many_requests
from tests.simulation.plan import (
    Compact,
    EndWatches,
    Freeze,
    JumpClock,
    Kill,
    Lag,
    LoseNode,
    Partition,
    TakePod,
    Terminate,
    Trouble,
    Who,
)
from tests.simulation.replica import Replica
from tests.simulation.store import Change

_RESOURCES: dict[str, Resource] = {resource.plural: resource for resource in (JOBS, PODS, QUEUES, SCHEDULES, WORKERS)}
Deed = TakePod | LoseNode | Trouble | EndWatches | Lag | Compact | Kill | Terminate | Freeze | Partition | JumpClock
"""What breaks."""
UNREAD_ROLES = 'User "operator" has no such right yet'
"""What an API server that restarts says until it has read its roles."""


class Breakage:
    """Whatever breaks, and that it works again in the end."""

    def __init__(self, scene: Scene) -> None:
        self.cluster = scene.cluster
        self.judge = scene.judge
        self.faults = scene.faults
        self._note = scene.note
        self._held: set[str] = set()
        self._troubles: list[tuple[str, Fault]] = []

    async def do(self, deed: Deed) -> bool:
        """Break it; whether it found something to act on."""
        match deed:
            case TakePod() | LoseNode():
                return self._take(deed)
            case Trouble():
                self._trouble(deed)
            case EndWatches(resource=plural, how=how):
                ended = self.cluster.server.end_watches(
                    _RESOURCES.get(plural or ""), client="operator-", broken=how == "break", expired=how == "expire"
                )
                self.faults[f"watches: {how}"] += ended
            case Lag(resource=plural, seconds=seconds):
                self._lag(plural, seconds)
            case Compact(ended=ended):
                self.faults["history compacted"] += 1
                self.cluster.server.compact()
                if ended:
                    self.cluster.server.end_watches(client="operator-", broken=True)
            case Kill() | Terminate() | Freeze() | Partition() | JumpClock():
                return await self._hurt(deed)
        return True

    def mend(self) -> None:
        """Everything works again, and two operators run."""
        server = self.cluster.server
        server.faults.clear()
        server.watch_lag = lambda client, resource: 0.0
        for client in self._held:
            server.let_go(client)
        for replica in self.cluster.replicas:
            replica.mend()

    def count(self) -> None:
        """Add to the faults what has hit a request, or the nodes did by themselves."""
        for kind, fault in self._troubles:
            self.faults[kind] += fault.hits
        self.faults["attempt past its time-out"] += self.cluster.kubelet.cut_off
        self.faults["refused by the fence"] += self.cluster.fence.refused

    def _take(self, deed: TakePod | LoseNode) -> bool:
        pods = [pod for pod in self.cluster.pods() if pod.phase in ("Pending", "Running")]
        kubelet, store = self.cluster.kubelet, self.cluster.server.store
        if not pods:
            return False
        if isinstance(deed, LoseNode):
            self.faults["node lost"] += 1
            kubelet.lose_node(deed.node)
            return True
        pod = pods[deed.pod % len(pods)]
        self._note(f"  it is {pod.name}")
        self.faults[f"pod: {deed.how}"] += 1
        if deed.how == "evict":
            kubelet.evict(NAMESPACE, pod.name)
        elif deed.how == "pressure":
            kubelet.node_pressure(NAMESPACE, pod.name)
        elif deed.how == "lose":
            kubelet.lose(NAMESPACE, pod.name)
        else:
            store.delete(PODS, NAMESPACE, pod.name, grace_seconds=0 if deed.how == "force" else None)
        return True

    def _trouble(self, deed: Trouble) -> None:
        verb, plural = deed.what
        fault = Fault(
            client=deed.who,
            verb=verb,  # type: ignore[arg-type]
            resource=_RESOURCES.get(plural or ""),
            times=deed.times,
        )
        match deed.kind:
            case "request" | "answer":
                fault.lose, fault.hang_seconds = deed.kind, deed.seconds
            case "slow":
                fault.delay_seconds = deed.seconds
            case "late answer":
                fault.answer_delay_seconds = deed.seconds
            case "429":
                fault.error = too_many_requests(deed.seconds)
            case "500":
                fault.error = internal_error()
            case "503":
                fault.error = ApiError(
                    503, "ServiceUnavailable", "the server is currently unable to handle the request"
                )
            case "403":
                fault.error = ApiError(403, "Forbidden", UNREAD_ROLES)
            case "quota":
                fault.client, fault.verb, fault.resource = "operator-", "create", PODS
                fault.error = ApiError(403, "Forbidden", "exceeded quota: pods, requested: pods=1")
            case "stale":
                fault.client, fault.verb, fault.stale_versions = "operator-", "list", deed.times * 3
                if verb == "watch":
                    fault.verb = "watch"
        self._troubles.append((f"request: {deed.kind}", fault))
        self.cluster.server.faults.append(fault)

    def _lag(self, plural: str | None, seconds: float) -> None:
        self.faults["watches late"] += seconds > 0

        def lag(client: str, resource: Resource) -> float:
            return seconds if resource.plural == plural and client.startswith("operator-") else 0.0

        self.cluster.server.watch_lag = lag

    def _replica(self, who: Who) -> Replica:
        first, second = self.cluster.replicas
        leads = second if second.leads else first
        return leads if who == "leader" else (second if leads is first else first)

    async def _hurt(self, deed: Kill | Terminate | Freeze | Partition | JumpClock) -> bool:
        replica, loop = self._replica(deed.who), asyncio.get_running_loop()
        self._note(f"  it is {replica.name}, {replica.client or 'ended'}{', frozen' if replica.frozen else ''}")
        if isinstance(deed, JumpClock):
            self.faults["clock jump"] += 1
            replica.clock.jump(deed.seconds)
            self.judge.clock_error += abs(deed.seconds)
            self.judge.clock_jumps.append(self.cluster.clock.monotonic())
            return True
        if not replica.client:
            return False
        match deed:
            case Kill(write=0):
                self.faults["operator killed"] += 1
                await replica.kill(seconds=deed.down, new_pod=deed.new_pod)
            case Kill():
                where: Cut = "after" if deed.after else "before"
                self.faults[f"operator killed {where} a write"] += 1
                replica.kill_at_write(deed.write, where, seconds=deed.down, new_pod=deed.new_pod)
            case Terminate():
                self.faults["operator terminated"] += 1
                replica.terminate(seconds=deed.down)
            case Freeze():
                self.faults["operator frozen"] += 1
                if deed.hold is not None:
                    self._hold(replica.client, deed.hold)
                replica.freeze()
                loop.call_later(deed.seconds, replica.thaw)
            case Partition():
                self.faults["operator cut off"] += 1
                lose = "answer" if deed.answers else "request"
                fault = Fault(client=replica.client, times=None, lose=lose, hang_seconds=1.0)  # type: ignore[arg-type]
                self.cluster.server.faults.insert(0, fault)
                self.cluster.server.end_watches(client=replica.client, broken=True)
                loop.call_later(deed.seconds, self._heal, fault)
        return True

    def _heal(self, fault: Fault) -> None:
        if fault in self.cluster.server.faults:
            self.cluster.server.faults.remove(fault)

    def _hold(self, client: str, seconds: float) -> None:
        """Keep the client's requests on their way until some time after the epoch is raised, or all is mended."""
        server, loop = self.cluster.server, asyncio.get_running_loop()
        server.hold(client)
        self._held.add(client)

        def raised(change: Change) -> None:
            if change.resource == CONFIG_MAPS and change.key[1] == FENCE:
                server.store.observers.remove(raised)
                loop.call_later(seconds, server.let_go, client)

        server.store.observers.append(raised)
