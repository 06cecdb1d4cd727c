"""The writer: each write applied at most once, repeated until its answer is definite, and never after leadership."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from questline_operator.shell.api import JOBS, PODS, ApiError, Object
from questline_operator.shell.lease import LeadershipLostError
from questline_operator.shell.metrics import count_writes
from questline_operator.shell.writer import URGENT_WRITES, FateUnknownError, Writer, status_operations
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import VirtualClock, simulated
from tests.simulation.cluster import NAMESPACE, a_job
from tests.simulation.faults import Fault, internal_error, too_many_requests


class Bench:
    """A writer on an API server, and whether it leads."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.server = ApiServer(self.clock, latency=0.01)
        self.registry = CollectorRegistry()
        self.leading = True
        self.writer = Writer(self.server, self.clock, self._check_leading, count_writes(self.registry))

    def _check_leading(self) -> None:
        if not self.leading:
            raise LeadershipLostError("another one leads")

    async def job(self, name: str = "a") -> Object:
        return await self.server.create(JOBS, NAMESPACE, a_job(name))

    def status(self, name: str = "a") -> Object:
        status: Object = self.server.store.get(JOBS, NAMESPACE, name)["status"]
        return status

    def sent(self, verb: str, plural: str) -> float | None:
        return self.registry.get_sample_value("questline_writes_total", {"verb": verb, "resource": plural})


def _pod(name: str = "a-1") -> Object:
    return {"metadata": {"name": name}, "spec": {"containers": []}}


@simulated
async def test_a_status_is_written_only_over_the_record_that_it_was_computed_from() -> None:
    bench = Bench()
    old = await bench.job()
    await bench.writer.patch_status(JOBS, old, {"state": "Starting", "attempt": 1})
    with pytest.raises(ApiError) as refused:
        await bench.writer.patch_status(JOBS, old, {"state": "Failed"})
    assert refused.value.status == 409
    assert bench.status() == {"state": "Starting", "attempt": 1}


@simulated
async def test_a_change_is_not_written_to_another_job_of_the_same_name() -> None:
    bench = Bench()
    old = await bench.job()
    await bench.server.delete(JOBS, NAMESPACE, "a")
    new = await bench.job()
    old["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"]
    with pytest.raises(ApiError):
        await bench.writer.patch_status(JOBS, old, {"state": "Starting"})
    assert bench.status() == {"state": "Waiting"}


def test_none_removes_a_field_that_is_there_and_a_null_result_is_written() -> None:
    raw = {"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"state": "Running", "reason": "Odd"}}
    operations = status_operations(raw, {"state": "Succeeded", "reason": None, "message": None, "result": None})
    assert operations[2:] == [
        {"op": "add", "path": "/status/state", "value": "Succeeded"},
        {"op": "remove", "path": "/status/reason"},
        {"op": "add", "path": "/status/result", "value": None},
    ]


@simulated
async def test_a_write_whose_request_was_lost_is_repeated_until_it_is_applied() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="patch", lose="request", times=5))
    written = await bench.writer.patch_status(JOBS, await bench.job(), {"state": "Starting"})
    assert written["status"] == {"state": "Starting"}
    assert bench.sent("patch", "questjobs") == 6


@simulated
async def test_a_write_whose_answer_was_lost_is_applied_once_and_its_repeat_is_a_conflict() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="patch", lose="answer"))
    before = bench.server.store.version
    with pytest.raises(ApiError) as refused:
        await bench.writer.patch_status(JOBS, await bench.job(), {"state": "Starting"})
    assert refused.value.status == 409
    assert bench.status() == {"state": "Starting"}
    assert bench.server.store.version == before + 2  # the Job, and one write of its status


@simulated
async def test_a_server_that_asks_for_patience_gets_it() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="patch", error=too_many_requests(7.0)))
    job = await bench.job()
    began = bench.clock.monotonic()
    await bench.writer.patch_status(JOBS, job, {"state": "Starting"})
    assert 7.0 <= bench.clock.monotonic() - began < 7.2


@simulated
async def test_nothing_is_sent_once_leadership_is_lost_not_even_a_repeat() -> None:
    bench = Bench()
    job = await bench.job()
    bench.server.faults.append(Fault(verb="patch", lose="request", times=None))
    writing = asyncio.create_task(bench.writer.patch_status(JOBS, job, {"state": "Starting"}))
    await asyncio.sleep(1.0)
    sent = bench.sent("patch", "questjobs")
    bench.leading = False
    bench.server.faults.clear()
    with pytest.raises(LeadershipLostError):
        await writing
    assert bench.sent("patch", "questjobs") == sent
    assert bench.status() == {"state": "Waiting"}


@simulated
async def test_a_write_that_the_fence_refuses_ends_the_leadership_and_no_other_refusal_does() -> None:
    bench = Bench()
    fenced = (
        "pods \"a-1\" is forbidden: ValidatingAdmissionPolicy 'questline-fence' with binding 'questline-fence' denied "
        "request: this operator no longer leads: epoch 4 is below 5 of ConfigMap questline-fence"
    )
    bench.server.faults += [
        Fault(verb="create", error=ApiError(403, "Forbidden", fenced)),
        Fault(verb="create", error=ApiError(403, "Forbidden", 'pods "questline-fence-1" is forbidden: exceeded quota')),
    ]
    with pytest.raises(LeadershipLostError, match="epoch 4 is below 5"):
        await bench.writer.create(PODS, NAMESPACE, _pod(), repeat=False)
    with pytest.raises(ApiError, match="exceeded quota"):
        await bench.writer.create(PODS, NAMESPACE, _pod(), repeat=False)


@simulated
async def test_writes_that_nobody_waits_for_do_not_hold_up_those_that_a_job_waits_for() -> None:
    bench = Bench()
    jobs = [await bench.job(f"job-{number}") for number in range(40)]
    bench.server.faults.append(Fault(verb="patch", answer_delay_seconds=100.0, times=None))
    patient = [asyncio.create_task(bench.writer.patch_status(JOBS, j, {"reason": "x"}, patient=True)) for j in jobs]
    await asyncio.sleep(1.0)
    began = bench.clock.monotonic()
    await bench.writer.create(PODS, NAMESPACE, _pod())
    assert bench.clock.monotonic() - began < 0.1
    assert sum("reason" in bench.status(f"job-{number}") for number in range(40)) == 4
    for task in patient:
        task.cancel()
    await asyncio.gather(*patient, return_exceptions=True)


@simulated
async def test_so_many_writes_are_under_way_at_once_and_no_more() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="create", answer_delay_seconds=100.0, times=None))
    creates = [asyncio.create_task(bench.writer.create(PODS, NAMESPACE, _pod(f"p-{n}"))) for n in range(100)]
    await asyncio.sleep(1.0)
    assert len(bench.server.store.peek_all(PODS)) == URGENT_WRITES
    await asyncio.gather(*creates)
    assert len(bench.server.store.peek_all(PODS)) == 100


@simulated
async def test_a_write_that_waits_for_its_repeat_keeps_no_other_from_being_sent() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="create", name="stuck", error=internal_error(), times=None))
    stuck = [asyncio.create_task(bench.writer.create(PODS, NAMESPACE, _pod("stuck"))) for _ in range(URGENT_WRITES)]
    await asyncio.sleep(60.0)
    began = bench.clock.monotonic()
    await bench.writer.create(PODS, NAMESPACE, _pod())
    assert bench.clock.monotonic() - began < 0.1
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(verb="create", lose="answer"),
        Fault(verb="create", lose="request"),
        Fault(verb="create", error=internal_error()),
    ],
)
def test_a_create_that_must_not_be_repeated_says_when_it_was_sent(fault: Fault) -> None:
    @simulated
    async def run() -> None:
        bench = Bench()
        bench.server.faults.append(fault)
        await asyncio.sleep(5.0)
        with pytest.raises(FateUnknownError) as unknown:
            await bench.writer.create(PODS, NAMESPACE, _pod(), repeat=False)
        assert unknown.value.sent_at == pytest.approx(5.0)
        assert bench.sent("create", "pods") == 1

    run()


@simulated
async def test_a_create_that_was_turned_away_unseen_is_sent_again_all_the_same() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="create", error=too_many_requests(0.1)))
    pod = await bench.writer.create(PODS, NAMESPACE, _pod(), repeat=False)
    assert pod["metadata"]["name"] == "a-1"


@simulated
async def test_a_delete_of_what_is_gone_has_succeeded_and_one_of_another_has_not() -> None:
    bench = Bench()
    pod = await bench.writer.create(PODS, NAMESPACE, _pod())
    uid = pod["metadata"]["uid"]
    await bench.writer.delete(PODS, NAMESPACE, "a-1", uid=uid)
    await bench.writer.delete(PODS, NAMESPACE, "a-1", uid=uid)
    await bench.writer.create(PODS, NAMESPACE, _pod())
    with pytest.raises(ApiError) as refused:
        await bench.writer.delete(PODS, NAMESPACE, "a-1", uid=uid)
    assert refused.value.status == 409
    assert len(bench.server.store.peek_all(PODS)) == 1
