"""Leader election in virtual time: what two processes may believe at one moment, whatever happens to either."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from questline_operator.shell.api import CONFIG_MAPS, LEASES, ApiError, Object
from questline_operator.shell.epoch import FENCE, raise_epoch
from questline_operator.shell.lease import (
    LEASE_SECONDS,
    LOOK_SECONDS,
    RENEW_DEADLINE_SECONDS,
    RETRY_SECONDS,
    Elector,
    LeadershipLostError,
)
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import Freezer, VirtualClock, simulated
from tests.simulation.faults import Fault, Verb, internal_error

NAMESPACE, LEASE = "questline-system", "questline-operator"
HANDOVER_SECONDS = 2 * LOOK_SECONDS
"""What a candidate needs beyond the waiting itself: it looks only so often."""


@dataclass
class Process:
    """An operator that does nothing but elect itself."""

    server: ApiServer
    name: str
    skew: float = 0.0
    freezer: Freezer = field(default_factory=Freezer)

    def __post_init__(self) -> None:
        clock = VirtualClock(skew=self.skew, freezer=self.freezer)
        self.elector = Elector(self.server.client(self.name, self.freezer), clock, NAMESPACE, LEASE, self.name)
        self.acquired = asyncio.Event()
        self.lost: LeadershipLostError | None = None
        self.lost_at = 0.0
        self.task: asyncio.Task[None] | None = None

    def start(self) -> "Process":
        self.task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        await self.elector.acquire()
        self.acquired.set()
        try:
            await self.elector.run()
        except LeadershipLostError as error:
            self.lost, self.lost_at = error, now()

    async def stop(self, *, release: bool = False) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if release:
            await self.elector.release()


def now() -> float:
    return asyncio.get_running_loop().time()


def a_server() -> ApiServer:
    return ApiServer(VirtualClock(), latency=0.02)


async def never_both(*processes: Process) -> None:
    """Fail at the first moment at which two processes trust themselves."""
    while True:
        assert sum(process.elector.trusted for process in processes) <= 1, f"two leaders at {now():.3f} s"
        await asyncio.sleep(0.05)


async def within(seconds: float, step: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.timeout(seconds):
        await step


async def leading(server: ApiServer, name: str = "first") -> Process:
    """A process that has acquired the Lease."""
    process = Process(server, name).start()
    await within(1, process.acquired.wait())
    return process


def holder(server: ApiServer) -> Object:
    lease = server.store.peek(LEASES, NAMESPACE, LEASE)
    assert lease is not None
    spec: Object = lease["spec"]
    return spec


@simulated
async def test_the_first_candidate_makes_the_lease_and_leads() -> None:
    server = a_server()
    first = await leading(server)
    spec = holder(server)
    assert spec["holderIdentity"] == "first"
    assert spec["leaseDurationSeconds"] == LEASE_SECONDS
    assert spec["leaseTransitions"] == 0
    assert spec["renewTime"].endswith("Z")
    first.elector.check()


@simulated
async def test_a_second_candidate_stands_by_while_the_first_renews() -> None:
    server = a_server()
    first, second = await leading(server), Process(server, "second").start()
    await asyncio.sleep(3600)
    assert first.elector.trusted
    assert not second.acquired.is_set()
    with pytest.raises(LeadershipLostError, match="questline-operator is not held by this process"):
        second.elector.check()


@simulated
async def test_of_two_candidates_at_one_moment_one_leads() -> None:
    server = a_server()
    processes = [Process(server, "first").start(), Process(server, "second").start()]
    watch = asyncio.create_task(never_both(*processes))
    await asyncio.sleep(60)
    assert [process.elector.trusted for process in processes].count(True) == 1
    assert not watch.done()


@simulated
async def test_wall_clocks_hours_apart_change_nothing() -> None:
    server = a_server()
    first, second = Process(server, "first", skew=-7200).start(), Process(server, "second", skew=7200)
    await within(1, first.acquired.wait())
    second.start()
    await asyncio.sleep(600)
    assert first.elector.trusted
    assert not second.acquired.is_set()


@simulated
async def test_a_dead_leader_is_followed_once_its_record_has_not_changed_for_its_duration() -> None:
    server = a_server()
    first, second = await leading(server), Process(server, "second").start()
    await asyncio.sleep(30)
    await first.stop()
    died = now()
    await within(60, second.acquired.wait())
    # It had renewed its record at most so long before, and the candidate had seen that at its next look.
    assert LEASE_SECONDS - RETRY_SECONDS <= now() - died <= LEASE_SECONDS + LOOK_SECONDS + 0.1
    assert holder(server)["leaseTransitions"] == 1


@pytest.mark.parametrize("seconds", [5.0, 9.0, 14.0, 20.0, 100.0])
def test_a_frozen_leader_never_trusts_itself_beside_its_successor(seconds: float) -> None:
    @simulated
    async def play() -> None:
        server = a_server()
        first, second = await leading(server), Process(server, "second").start()
        await asyncio.sleep(30)
        watch = asyncio.create_task(never_both(first, second))
        first.freezer.freeze()
        await asyncio.sleep(seconds)
        first.freezer.thaw()
        await asyncio.sleep(30)
        assert not watch.done()
        assert first.elector.trusted is not second.elector.trusted
        if seconds > LEASE_SECONDS + HANDOVER_SECONDS:
            assert second.elector.trusted
            assert first.lost is not None
        if seconds < RENEW_DEADLINE_SECONDS - RETRY_SECONDS:
            assert first.elector.trusted

    play()


@simulated
async def test_a_leader_frozen_with_its_renewal_under_way_does_not_trust_the_late_answer() -> None:
    server = a_server()
    first = await leading(server)
    server.faults.append(Fault(verb="replace", resource=LEASES, answer_delay_seconds=0.5))
    await asyncio.sleep(RETRY_SECONDS + 0.1)
    first.freezer.freeze()
    await asyncio.sleep(RENEW_DEADLINE_SECONDS + 1)
    first.freezer.thaw()
    await asyncio.sleep(0)
    with pytest.raises(LeadershipLostError):
        first.elector.check()


@simulated
async def test_a_leader_cut_off_stops_trusting_itself_before_another_may_begin() -> None:
    server = a_server()
    first, second = await leading(server), Process(server, "second").start()
    await asyncio.sleep(30)
    watch = asyncio.create_task(never_both(first, second))
    server.faults.append(Fault(client="first", times=None, lose="request", hang_seconds=10.0))
    cut = now()
    await within(60, second.acquired.wait())
    assert not watch.done()
    assert first.lost is not None
    assert first.lost_at - cut <= RENEW_DEADLINE_SECONDS
    assert "was not renewed within 10 s: no answer within" in str(first.lost)


@simulated
async def test_trust_is_counted_from_the_sending_of_a_renewal_and_not_from_its_answer() -> None:
    server = a_server()
    server.faults += [
        Fault(client="first", verb="create", answer_delay_seconds=3.5),
        Fault(client="first", verb="replace", times=None, lose="request", hang_seconds=10.0),
    ]
    sent = now()
    first = Process(server, "first").start()
    await within(4, first.acquired.wait())
    assert now() - sent > 3.5
    await asyncio.sleep(20)
    assert first.lost is not None
    assert first.lost_at - sent == pytest.approx(RENEW_DEADLINE_SECONDS, abs=0.1)


@simulated
async def test_one_hanging_renewal_does_not_cost_the_leadership() -> None:
    server = a_server()
    first = await leading(server)
    for _ in range(20):
        server.faults.append(Fault(client="first", lose="request", hang_seconds=10.0))
        await asyncio.sleep(20)
    assert first.elector.trusted


@simulated
async def test_a_renewal_whose_answer_was_lost_is_found_to_be_ours() -> None:
    server = a_server()
    first = await leading(server)
    server.faults.append(Fault(client="first", verb="replace", times=3, lose="answer"))
    await asyncio.sleep(60)
    assert first.elector.trusted
    assert server.faults[0].hits == 3


@pytest.mark.parametrize("verb", ["create", "replace"])
def test_a_lease_taken_with_a_lost_answer_is_taken(verb: str) -> None:
    @simulated
    async def play() -> None:
        server = a_server()
        if verb == "replace":
            former = await leading(server, "former")
            await former.stop(release=True)
        server.faults.append(Fault(client="first", resource=LEASES, verb=verb, lose="answer"))  # type: ignore[arg-type]
        first = Process(server, "first").start()
        await within(RETRY_SECONDS + HANDOVER_SECONDS, first.acquired.wait())
        assert server.faults[0].hits == 1

    play()


@simulated
async def test_errors_of_the_api_only_delay_a_candidate() -> None:
    server = a_server()
    for error in (
        internal_error(),
        ApiError(403, "Forbidden", 'leases is forbidden: User "x" cannot get resource "leases"'),
        ApiError(401, "Unauthorized", "Unauthorized"),
    ):
        server.faults.append(Fault(client="first", error=error))
    first = Process(server, "first").start()
    await within(10, first.acquired.wait())


@simulated
async def test_a_released_lease_is_taken_at_the_next_look() -> None:
    server = a_server()
    first, second = await leading(server), Process(server, "second").start()
    await asyncio.sleep(30)
    watch = asyncio.create_task(never_both(first, second))
    await first.stop(release=True)
    released = now()
    await within(60, second.acquired.wait())
    assert now() - released <= LOOK_SECONDS + 0.1
    assert not watch.done()


@simulated
async def test_a_standby_looks_four_times_a_second_and_makes_no_write_more() -> None:
    server = a_server()
    await leading(server)
    Process(server, "second").start()
    await asyncio.sleep(10)
    before = server.calls.copy()
    await asyncio.sleep(60)
    made = {(client, verb): number for (client, verb, _, _), number in (server.calls - before).items()}
    assert made == {
        ("first", "replace"): pytest.approx(60 / RETRY_SECONDS, rel=0.05),
        ("second", "get"): pytest.approx(60 * 4, rel=0.1),
    }


@simulated
async def test_whoever_releases_trusts_itself_no_more_even_before_the_answer() -> None:
    server = a_server()
    first = await leading(server)
    assert first.task is not None
    first.task.cancel()
    releasing = asyncio.create_task(first.elector.release())
    await asyncio.sleep(0)
    with pytest.raises(LeadershipLostError):
        first.elector.check()
    await releasing
    assert holder(server)["holderIdentity"] == ""


@simulated
async def test_a_renewal_that_is_applied_while_the_lease_is_given_back_does_not_keep_it() -> None:
    server = a_server()
    first = await leading(server)
    server.faults.append(Fault(client="first", verb="get", resource=LEASES, answer_delay_seconds=0.5))
    stopping = asyncio.create_task(first.stop(release=True))
    await asyncio.sleep(0.2)
    lease = server.store.get(LEASES, NAMESPACE, LEASE)
    lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    server.store.replace(LEASES, NAMESPACE, LEASE, lease)
    async with asyncio.timeout(2):
        await stopping
    assert holder(server)["holderIdentity"] == ""


@simulated
async def test_a_standby_tells_how_long_the_lease_could_not_be_read() -> None:
    server = a_server()
    await leading(server)
    second = Process(server, "second")
    assert second.elector.seconds_since_answer is None
    second.start()
    await asyncio.sleep(10)
    assert second.elector.seconds_since_answer is not None
    assert second.elector.seconds_since_answer <= LOOK_SECONDS + 0.1
    server.faults.append(Fault(client="second", times=None, error=internal_error()))
    await asyncio.sleep(60)
    assert second.elector.seconds_since_answer >= 59


@simulated
async def test_releasing_anothers_lease_leaves_it_alone() -> None:
    server = a_server()
    first, second = Process(server, "first").start(), Process(server, "second").start()
    await within(1, first.acquired.wait())
    before = holder(server)
    await second.stop(release=True)
    assert holder(server) == before
    assert first.elector.trusted


@simulated
async def test_release_without_an_api_server_ends_soon_and_raises_nothing() -> None:
    server = a_server()
    first = await leading(server)
    server.faults.append(Fault(times=None, lose="request", hang_seconds=10.0))
    await within(5, first.stop(release=True))


@simulated
async def test_a_container_restarted_in_its_pod_leads_at_once() -> None:
    server = a_server()
    before = await leading(server, "pod-1_uid-1")
    await asyncio.sleep(30)
    await before.stop()
    after = Process(server, "pod-1_uid-1").start()
    await within(1, after.acquired.wait())
    assert holder(server)["leaseTransitions"] == 0


@simulated
async def test_a_leader_whose_record_another_overwrote_is_told_so() -> None:
    server = a_server()
    first = await leading(server)
    lease = server.store.get(LEASES, NAMESPACE, LEASE)
    lease["spec"]["holderIdentity"] = "intruder"
    server.store.replace(LEASES, NAMESPACE, LEASE, lease)
    await asyncio.sleep(RETRY_SECONDS + 0.1)
    assert first.lost is not None
    assert "held by intruder now" in str(first.lost)
    assert not first.elector.trusted


@simulated
async def test_a_lease_deleted_by_hand_is_made_again_by_its_leader() -> None:
    server = a_server()
    first = await leading(server)
    server.store.delete(LEASES, NAMESPACE, LEASE)
    await asyncio.sleep(RETRY_SECONDS + 0.2)
    assert holder(server)["holderIdentity"] == "first"
    assert first.elector.trusted


# The epoch


def allowed() -> None:
    """The check of a process that leads."""


@simulated
async def test_each_leader_has_a_higher_epoch_than_the_last() -> None:
    server = a_server()
    epochs = [await raise_epoch(server, NAMESPACE, allowed) for _ in range(3)]
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]
    fence = await server.get(CONFIG_MAPS, NAMESPACE, FENCE)
    assert fence["data"] == {"epoch": str(epochs[-1])}


@simulated
async def test_two_raising_at_one_moment_get_different_epochs() -> None:
    server = a_server()
    await raise_epoch(server, NAMESPACE, allowed)
    epochs = await asyncio.gather(*(raise_epoch(server.client(f"operator-{n}"), NAMESPACE, allowed) for n in range(5)))
    assert len(set(epochs)) == 5


@simulated
async def test_an_epoch_is_not_used_again_after_the_fence_was_deleted() -> None:
    server = a_server()
    before = [await raise_epoch(server, NAMESPACE, allowed) for _ in range(3)]
    server.store.delete(CONFIG_MAPS, NAMESPACE, FENCE)
    assert await raise_epoch(server, NAMESPACE, allowed) > max(before)


@pytest.mark.parametrize("value", ["", "abc", "-3", "1.5", "٣", "9" * 40])
def test_a_fence_without_a_number_is_healed_with_one_that_is_higher_than_any_before(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    @simulated
    async def play() -> None:
        server = a_server()
        before = await raise_epoch(server, NAMESPACE, allowed)
        fence = await server.get(CONFIG_MAPS, NAMESPACE, FENCE)
        await server.replace(CONFIG_MAPS, NAMESPACE, FENCE, {**fence, "data": {"epoch": value, "other": "kept"}})
        assert await raise_epoch(server, NAMESPACE, allowed) > before
        healed = await server.get(CONFIG_MAPS, NAMESPACE, FENCE)
        assert healed["data"]["other"] == "kept"

    play()
    assert [value for record in caplog.records if "no whole number" in record.message] == [value] * bool(value)


@simulated
async def test_the_epoch_is_raised_through_lost_requests_lost_answers_and_server_errors() -> None:
    server = a_server()
    before = await raise_epoch(server, NAMESPACE, allowed)
    server.faults += [
        Fault(verb="get", lose="request"),
        Fault(verb="replace", lose="answer"),
        Fault(verb="replace", error=internal_error()),
        Fault(verb="replace", lose="request"),
    ]
    assert await raise_epoch(server, NAMESPACE, allowed) > before
    assert all(fault.hits == 1 for fault in server.faults)


@simulated
async def test_who_was_stopped_while_it_raised_the_epoch_does_not_fence_out_the_one_that_leads_now() -> None:
    server = a_server()
    leads = True

    def check() -> None:
        if not leads:
            raise LeadershipLostError("another one leads")

    await raise_epoch(server, NAMESPACE, allowed)
    moments: tuple[Verb, ...] = ("get", "replace")
    for moment in moments:
        leads = True
        fault = Fault(client="stopped", verb=moment, delay_seconds=20.0)
        server.faults.append(fault)
        stopped = asyncio.create_task(raise_epoch(server.client("stopped"), NAMESPACE, check))
        await asyncio.sleep(10)
        leads = False
        epoch = await raise_epoch(server, NAMESPACE, allowed)
        with pytest.raises(LeadershipLostError):
            await stopped
        fence = await server.get(CONFIG_MAPS, NAMESPACE, FENCE)
        assert fence["data"] == {"epoch": str(epoch)}


@simulated
async def test_an_operator_without_the_right_to_the_fence_ends_with_the_servers_words() -> None:
    server = a_server()
    server.faults.append(
        Fault(verb="get", error=ApiError(403, "Forbidden", 'configmaps "questline-fence" is forbidden'))
    )
    with pytest.raises(ApiError, match="is forbidden"):
        await raise_epoch(server, NAMESPACE, allowed)
