"""A queue's concurrency, disruption and cancel on the real kubelet (behaviours 4, 5 and 8 of the main job)."""

import asyncio
import json
from itertools import pairwise
from typing import Any

from questline_operator.core.states import State
from questline_operator.core.times import parse_time
from questline_operator.shell.api import PODS, QUEUES, Object
from tests.live import Live, a_job, a_queue
from tests.verdict import most_slots, violations


async def test_forty_jobs_in_a_queue_of_four_hold_four_slots_and_never_more(live: Live) -> None:
    await live.apply(a_queue("emails", concurrency=4))
    await live.apply(*(a_job(f"mail-{n:02}", queue="emails", args={"seconds": 0.5}) for n in range(40)))
    jobs = await live.history.settled(seconds=240)
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    events = live.history.in_order()
    assert violations(events, concurrency={"emails": 4}) == []
    assert most_slots(events, "emails") == 4


async def test_a_queue_is_kept_full(live: Live) -> None:
    """A slot that a report frees is taken by the next claim at once: far below the kubelet's own two seconds."""
    await live.apply(a_queue("emails", concurrency=2))
    await live.apply(*(a_job(f"mail-{n}", queue="emails", args={"seconds": 0.5}) for n in range(10)))
    jobs = await live.history.settled()
    claims = sorted(job.status["attempts"][0]["startedAt"] for job in jobs)
    assert len(claims) == 10
    gaps = _gaps_between_report_and_claim(live)
    assert sorted(gaps)[len(gaps) // 2] < 0.25, gaps


async def test_a_pod_deleted_or_evicted_by_hand_is_run_again_and_counts_no_failure(live: Live) -> None:
    await live.apply(a_job("deleted", args={"seconds": 20}), a_job("evicted", args={"seconds": 20}))
    await live.history.until(lambda: sum(pod.started for pod in live.history.pods()) == 2)
    for pod in live.history.pods():
        if pod.job == "deleted":
            await live.api.delete(PODS, live.namespace, pod.name, uid=pod.uid)
        else:
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod.name, "namespace": live.namespace},
            }
            path = f"/api/v1/namespaces/{live.namespace}/pods/{pod.name}/eviction"
            await live.api.request("POST", path, body=json.dumps(body).encode())
    jobs = await live.history.settled(seconds=120)
    for job in jobs:
        assert (job.state, job.attempt, job.failures, job.disruptions) == (State.SUCCEEDED, 2, 0, 1)
        assert job.status["attempts"][0]["outcome"] == "Disrupted"
    assert violations(live.history.in_order()) == []


async def test_cancel_ends_a_waiting_a_starting_and_a_running_job(live: Live) -> None:
    await live.apply(a_queue("narrow", concurrency=1))
    await live.job("running", queue="narrow", args={"seconds": 60})
    await live.job("waiting", queue="narrow")
    await live.job("starting", image="questline.dev/does-not-exist:1", worker="default")
    await live.history.until(lambda: any(pod.started for pod in live.history.pods() if pod.job == "running"))
    await live.history.until(lambda: any(pod.job == "starting" for pod in live.history.pods()))
    for name in ("waiting", "starting", "running"):
        await live.edit(name, cancel=True)
    jobs = await live.history.settled()
    assert {(job.state, job.reason) for job in jobs} == {(State.CANCELED, "Requested")}
    await live.history.until(lambda: not live.history.pods())


async def test_cancel_of_a_tree_of_fifty_leaves_no_pod_and_starts_nothing_new(live: Live) -> None:
    await live.apply(a_queue("default", concurrency=6))
    await live.job("root", "tasks:fans_out", args={"children": 49, "seconds": 4})
    await live.history.until(lambda: _states(live)["Succeeded"] >= 3, seconds=120)
    await live.edit("root", cancel=True)
    await live.history.settled()
    counts = _states(live)
    assert counts["Succeeded"] + counts["Canceled"] == 50
    assert counts["Canceled"] >= 30
    assert live.history.job("root").state is State.SUCCEEDED, "a finished Job keeps its state"
    claimed = {job.name: job.attempt for job in live.history.jobs()}
    await live.history.until(lambda: not any(pod.live for pod in live.history.pods()))
    assert {job.name: job.attempt for job in live.history.jobs()} == claimed
    assert violations(live.history.in_order()) == []


async def test_a_suspended_job_and_a_later_one_wait_and_say_why(live: Live) -> None:
    await live.job("held", suspend=True)
    await live.history.until(lambda: live.history.has("held") and live.history.job("held").reason == "Suspended")
    await live.edit("held", suspend=False)
    await live.history.settled("held")
    assert live.history.job("held").state is State.SUCCEEDED


async def test_a_paused_queue_starts_nothing_until_it_goes_on(live: Live) -> None:
    await live.apply(a_queue("media", paused=True))
    await live.job("a", queue="media")
    await live.job("b")
    await live.history.settled("b")
    assert live.history.job("a").attempt == 0
    await live.edit("media", QUEUES, paused=False)
    await live.history.settled("a")


async def test_a_key_runs_one_at_a_time_and_holds_up_no_other(live: Live) -> None:
    await live.apply(a_queue("media", concurrency=6, perKeyConcurrency=1))
    spec: dict[str, Any] = {"args": {"seconds": 2}, "queue": "media"}
    await live.apply(*(a_job(f"busy-{n}", key="busy", priority=9, **spec) for n in range(4)))
    await live.apply(*(a_job(f"other-{n}", key=f"k{n}", **spec) for n in range(4)))
    await live.history.settled(seconds=120)
    times = {job.name: job.status["attempts"][0] for job in live.history.jobs()}
    busy = sorted((times[name]["startedAt"], times[name]["finishedAt"]) for name in times if name.startswith("busy"))
    assert all(parse_time(later) >= parse_time(end) - 1.0 for (_, end), (later, _) in pairwise(busy)), busy
    # A kubelet's start has whole seconds: what overlapped is told by the order of the events.
    assert _most_of_key(live, "busy") == 1
    assert violations(live.history.in_order(), concurrency={"media": 6}, per_key={"media": 1}) == []
    first_end = min(end for _, end in busy)
    assert all(times[f"other-{n}"]["startedAt"] < first_end for n in range(4)), "nobody waited for another's key"


async def test_a_rate_is_kept_and_a_waiting_job_does_nothing_meanwhile(live: Live) -> None:
    await live.apply(a_queue("api", concurrency=9, rateLimit={"count": 3, "periodSeconds": 10}))
    await live.apply(*(a_job(f"call-{n}", queue="api") for n in range(7)))
    await live.history.settled(seconds=120)
    claims = sorted(
        parse_time(event.object["status"]["startedAt"])
        for event in live.history.in_order()
        if event.resource != PODS and _is_claim(event.object)
    )
    assert len(claims) == 7
    assert all(later - earlier >= 10 for earlier, later in zip(claims, claims[3:], strict=False)), claims
    assert claims[-1] - claims[0] < 25


async def test_kubectl_scale_opens_and_closes_a_queue(live: Live) -> None:
    await live.apply(a_queue("media", concurrency=0), *(a_job(f"j-{n}", queue="media") for n in range(3)))
    await _kubectl(live, "scale", "qq/media", "--replicas=3")
    await live.history.settled()
    shown = await _kubectl(live, "get", "qq/media", "-o", "jsonpath={.spec.concurrency}")
    assert shown == "3"


async def test_concurrency_lowered_under_load_kills_nothing_and_starts_nothing_until_below(live: Live) -> None:
    await live.apply(a_queue("media", concurrency=4))
    await live.apply(*(a_job(f"j-{n}", queue="media", args={"seconds": 5}) for n in range(6)))
    await live.history.until(lambda: sum(pod.started for pod in live.history.pods()) == 4)
    await live.edit("media", QUEUES, concurrency=1)
    jobs = await live.history.settled(seconds=120)
    assert {(job.state, job.attempt, job.disruptions) for job in jobs} == {(State.SUCCEEDED, 1, 0)}
    late = sorted(job.status["attempts"][0]["startedAt"] for job in jobs)[4:]
    ends = sorted(job.status["attempts"][0]["finishedAt"] for job in jobs)
    assert parse_time(late[0]) >= parse_time(ends[3]) - 1.0


async def test_a_deleted_queue_ends_what_runs_and_holds_what_waits(live: Live) -> None:
    await live.apply(a_queue("media", concurrency=1))
    await live.job("runs", queue="media", args={"seconds": 8})
    await live.history.until(lambda: any(pod.started for pod in live.history.pods()))
    await live.job("waits", queue="media")
    queue = await live.api.get(QUEUES, live.namespace, "media")
    await live.api.delete(QUEUES, live.namespace, "media", uid=queue["metadata"]["uid"])
    await live.history.until(lambda: live.history.has("waits") and live.history.job("waits").reason == "QueueNotFound")
    await live.history.settled("runs")
    assert live.history.job("waits").attempt == 0
    await live.apply(a_queue("media"))
    await live.history.settled("waits")


def _states(live: Live) -> dict[str, int]:
    counts = dict.fromkeys([state.value for state in State], 0)
    for job in live.history.jobs():
        counts[job.state.value] += 1
    return counts


def _gaps_between_report_and_claim(live: Live) -> list[float]:
    """Seconds from each attempt's own end to the next claim of the queue, as the operator stamped them."""
    ends, claims = [], []
    for event in live.history.in_order():
        status = event.object.get("status", {})
        if event.type != "MODIFIED" or event.resource == PODS:
            continue
        if status.get("state") == "Succeeded":
            ends.append(parse_time(status["finishedAt"]))
        elif status.get("state") == "Starting" and "report" not in status:
            claims.append(parse_time(status["startedAt"]))
    return [min((claim - end for claim in claims if claim >= end - 0.05), default=0.0) for end in ends[:-2]]


def _is_claim(job: Object) -> bool:
    status = job.get("status", {})
    return status.get("state") == "Starting" and "report" not in status


def _most_of_key(live: Live, key: str) -> int:
    """The most attempts of one key that held a slot at one moment of the history."""
    held: set[str] = set()
    highest = 0
    for event in live.history.in_order():
        if event.resource != PODS and event.object["spec"].get("key") == key:
            status = event.object.get("status", {})
            holds = status.get("state") in ("Starting", "Running") and "report" not in status
            (held.add if holds else held.discard)(event.object["metadata"]["name"])
            highest = max(highest, len(held))
    return highest


async def _kubectl(live: Live, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "kubectl", "-n", live.namespace, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()
