"""The judge of the fault runs: a history that keeps every promise, and for each promise one that breaks it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from questline_operator.core.pod import Pod
from questline_operator.core.records import (
    ANNOTATION_EPOCH,
    ANNOTATION_KEY,
    ANNOTATION_SCHEDULE_UID,
    ANNOTATION_TICK,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_QUEUE,
    Job,
)
from questline_operator.shell.api import JOBS, PODS, Object, Resource
from tests.history import Event, History
from tests.unit.core.builders import a_job as record_of
from tests.unit.core.builders import a_report, an_attempt, child_of, pod_uid, uid_of
from tests.verdict import Verdict, most_slots, violations


class Story:
    """A made-up history, told in the order in which it happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def job(
        self, name: str = "a", *, spec: Mapping[str, Any] | None = None, tick: str | None = None, **status: Any
    ) -> Job:
        """A Job is written as it says. ``tick``: of the Schedule, if one made it."""
        job = record_of(name, version=len(self.events) + 1, spec=spec, **{"epoch": 4, **status})
        if tick is not None:
            job.raw["metadata"]["annotations"] = {
                ANNOTATION_SCHEDULE_UID: uid_of("schedule"),
                ANNOTATION_TICK: tick,
                ANNOTATION_EPOCH: str(job.epoch),
            }
        self._add("MODIFIED", JOBS, job.raw)
        return job

    def jobs_end(self, job: Job) -> None:
        """A Job is deleted."""
        self._add("DELETED", JOBS, job.raw)

    def pod(
        self,
        job: Job,
        attempt: int = 1,
        *,
        ended: bool = False,
        deleted: bool = False,
        uid: str | None = None,
        epoch: int = 4,
    ) -> None:
        """The pod of an attempt is written, or deleted."""
        state = {"terminated": {"exitCode": 0}} if ended else {"running": {}}
        meta = {
            "name": job.pod_name(attempt),
            "namespace": job.namespace,
            "uid": uid or pod_uid(job, attempt),
            "creationTimestamp": "2027-01-15T08:00:00Z",
            "annotations": {ANNOTATION_EPOCH: str(epoch), ANNOTATION_KEY: job.concurrency_key},
            "labels": {LABEL_JOB: job.name, LABEL_QUEUE: job.queue, LABEL_ATTEMPT: str(attempt)},
            "ownerReferences": [{"kind": "Job", "name": job.name, "uid": job.uid, "controller": True}],
        }
        status = {"phase": "Running", "containerStatuses": [{"name": "worker", "state": state}]}
        self._add("DELETED" if deleted else "MODIFIED", PODS, {"metadata": meta, "spec": {}, "status": status})

    def attempt(self, name: str = "a", number: int = 1, *, spec: Mapping[str, Any] | None = None) -> Job:
        """An attempt is claimed and its pod runs, to no end yet."""
        job = self.job(name, spec=spec, state="Starting", attempt=number)
        self.pod(job, number)
        return job

    def success(self, name: str = "a", *, spec: Mapping[str, Any] | None = None) -> Job:
        """A whole life."""
        self.job(name, spec=spec)
        job = self.attempt(name, spec=spec)
        children = {"total": 2}
        done = self.job(
            name, spec=spec, state="Succeeded", report=a_report(job), attempts=[an_attempt()], children=children
        )
        self.pod(job, ended=True)
        return done

    def _add(self, type_: str, resource: Resource, raw: Mapping[str, Any]) -> None:
        version = len(self.events) + 1
        meta = {**raw["metadata"], "resourceVersion": str(version)}
        self.events.append(Event(version, type_, resource, {**raw, "metadata": meta}))


class Told:
    """What `Verdict.of` asks of a `History`."""

    gaps = 0

    def __init__(self, story: Story) -> None:
        self.events = story.events
        self._last: dict[tuple[Resource, str], Event] = {}
        for event in story.events:
            self._last[event.resource, event.object["metadata"]["name"]] = event

    def in_order(self) -> list[Event]:
        return self.events

    def jobs(self) -> list[Job]:
        return [Job.parse(raw) for raw in self._left(JOBS)]

    def pods(self) -> list[Pod]:
        return [Pod.parse(raw) for raw in self._left(PODS)]

    def _left(self, kind: Resource) -> Iterator[Object]:
        for (resource, _), event in self._last.items():
            if resource == kind and event.type != "DELETED":
                yield event.object


def verdict(story: Story, **options: Any) -> Verdict:
    return Verdict.of(cast("History", Told(story)), **options)


def test_a_history_that_keeps_every_promise_has_no_violation_and_is_counted() -> None:
    story = Story()
    first = story.success("first")
    story.success("second", spec={"after": [{"job": "first"}]})
    story.success("child", spec={"parent": child_of(first)})
    story.success("once", spec={"unique": {"key": "k"}})
    story.job("again", spec={"unique": {"key": "k"}}, state="Skipped", reason="Duplicate", duplicateOf="once")
    story.success("third", spec={"after": [{"job": "again"}]})
    story.jobs_end(first)
    found = verdict(story, concurrency={"default": 1}, faults={"pods deleted": 2})
    assert found.violations == ()
    assert (found.jobs, found.attempts, found.events) == (6, 5, len(story.events))
    assert str(found) == (
        f"Jobs 6, attempts 5, events {len(story.events)}, gaps 0, faults injected: 2 x pods deleted, violations 0"
    )


def _unfinished(story: Story) -> None:
    story.job("a", state="Waiting", reason="BackingOff")


def _two_pods(story: Story) -> None:
    job = story.attempt("a", 1)
    story.pod(story.job("a", state="Starting", attempt=2), 2)
    story.pod(job, 1, ended=True)


def _too_many_slots(story: Story) -> None:
    for name in "abc":
        story.attempt(name)


def _claims_without_pods(story: Story) -> None:
    for name in "abc":
        story.job(name, state="Starting", attempt=1)


def _pods_without_jobs(story: Story) -> None:
    for name in "abc":
        job = story.attempt(name)
        story.jobs_end(job)


def _busy_key(story: Story) -> None:
    for name in "ab":
        story.attempt(name, spec={"key": "k"})


def _child_beyond_the_reported(story: Story) -> None:
    parent = story.success("parent")
    story.attempt("child", spec={"parent": child_of(parent, index=2)})


def _twin_children(story: Story) -> None:
    parent = story.success("parent")
    for name in ("one", "two"):
        story.job(name, spec={"parent": child_of(parent, index=3)}, state="Skipped")


def _early_child(story: Story) -> None:
    parent = story.attempt("parent")
    story.attempt("child", spec={"parent": child_of(parent)})


def _child_of_a_failed_attempt(story: Story) -> None:
    parent = story.success("parent")
    story.attempt("child", spec={"parent": child_of(parent, attempt=2)})


def _early_follower(story: Story) -> None:
    story.attempt("first")
    story.job("second", spec={"after": [{"job": "first"}]})
    story.attempt("second", spec={"after": [{"job": "first"}]})


def _follower_of_a_failure(story: Story) -> None:
    story.job("first", state="Failed")
    story.job("second", spec={"after": [{"job": "first"}]})
    story.attempt("second", spec={"after": [{"job": "first"}]})


def _follower_of_nobody(story: Story) -> None:
    story.job("second", spec={"after": [{"job": "first"}]})
    story.attempt("second", spec={"after": [{"job": "first"}]})


def _end_undone(story: Story) -> None:
    story.success("a")
    story.job("a", state="Waiting", attempt=1)


def _result_exchanged(story: Story) -> None:
    story.job("a", state="Succeeded", result=1)
    story.job("a", state="Succeeded", result=2)


def _pod_of_an_older_leader(story: Story) -> None:
    story.job("b")
    story.pod(story.job("a", state="Starting", attempt=1, epoch=3), epoch=3)


def _job_written_by_an_older_leader_than_anothers(story: Story) -> None:
    story.job("a")
    story.job("b", epoch=0)
    story.job("b", state="Starting", attempt=1, epoch=3)


def _tick_of_an_older_leader(story: Story) -> None:
    story.job("a")
    story.job("b", tick="2027-01-15T08:00:00Z", epoch=3)


def _late_report(story: Story) -> None:
    first = story.attempt("a", 1)
    story.job("a", state="Waiting", attempt=1)
    story.attempt("a", 2)
    story.job("a", state="Starting", attempt=2, report=a_report(first))


def _report_of_a_stranger(story: Story) -> None:
    job = story.attempt("a")
    story.job("a", state="Starting", attempt=1, report={**a_report(job), "podUID": uid_of("stranger")})


def _tick_made_twice(story: Story) -> None:
    for name in ("tick-1", "tick-2"):
        story.job(name, tick="2027-01-15T08:00:00Z")


def _two_in_a_window(story: Story) -> None:
    spec = {"unique": {"key": "k", "scope": "Window", "windowSeconds": 60}}
    for name in "ab":
        story.success(name, spec=spec)


def _written_by_an_older_leader(story: Story) -> None:
    story.job("a", epoch=4)
    story.job("a", epoch=3)


def _claimed_when_canceled(story: Story) -> None:
    story.job("a", spec={"cancel": True})
    story.attempt("a", spec={"cancel": True})


def _pod_left(story: Story) -> None:
    job = story.success("a")
    story.pod(job)


def _failure_of_an_eviction(story: Story) -> None:
    story.attempt("a")
    story.job("a", state="Failed", failures=1, attempt=1, attempts=[an_attempt(1, "Disrupted")])


def _number_given_back(story: Story) -> None:
    story.job("a", attempt=2)
    story.job("a", attempt=1)


def _number_claimed_twice(story: Story) -> None:
    story.job("a", attempt=1)
    story.job("a", state="Starting", attempt=1)


def _pod_made_twice(story: Story) -> None:
    job = story.attempt("a")
    story.pod(job, deleted=True)
    story.pod(job, uid=uid_of("another"))


def _two_of_one_key(story: Story) -> None:
    for name in "ab":
        story.attempt(name, spec={"unique": {"key": "k"}})


BROKEN: list[tuple[Callable[[Story], None], str]] = [
    (_unfinished, "1, at 1: a is Waiting BackingOff at the end"),
    (_two_pods, "2, at 4: a has live pods"),
    (_too_many_slots, "3, at 6: queue default holds 3 of 2 slots"),
    (_claims_without_pods, "3, at 3: queue default holds 3 of 2 slots"),
    (_pods_without_jobs, "3, at 8: queue default holds 3 of 2 slots"),
    (_busy_key, "3, at 3: key k of queue default holds 2 of 1 slots"),
    (_child_beyond_the_reported, "4, at 7: pod child-"),
    (_twin_children, "4, at 7: one and two are the same child of parent"),
    (_early_child, "5, at 4: pod child-"),
    (_child_of_a_failed_attempt, "5, at 7: pod child-"),
    (_early_follower, "6, at 4: second was claimed, and first, which it waits for, is Starting"),
    (_follower_of_a_failure, "6, at 3: second was claimed, and first, which it waits for, is Failed"),
    (_follower_of_nobody, "6, at 2: second was claimed, and first, which it waits for, is unknown"),
    (_end_undone, "7, at 6: a went from Succeeded to Waiting"),
    (_result_exchanged, "7, at 2: a is Succeeded, and its result changed"),
    (_pod_of_an_older_leader, "8, at 3: pod a-"),
    (_job_written_by_an_older_leader_than_anothers, "8, at 3: b was written in epoch 3 after 4"),
    (_tick_of_an_older_leader, "8, at 2: b was created in epoch 3 after 4"),
    (_late_report, "8, at 6: a has a report of attempt 1 in attempt 2"),
    (_report_of_a_stranger, "8, at 3: a has a report of another pod than a-"),
    (_tick_made_twice, "10, at 2: tick-2 is the second Job of one tick"),
    (_two_in_a_window, "uniqueness, at 7: b was claimed in the window of a"),
    (_written_by_an_older_leader, "8, at 2: a was written in epoch 3 after 4"),
    (_claimed_when_canceled, "9, at 2: a was claimed though it is canceled"),
    (_pod_left, "9, at 6: pod a-"),
    (_failure_of_an_eviction, "11, at 3: a has 1 failures, but 0 of its attempts failed"),
    (_number_given_back, "12, at 2: a went from attempt 2 to 1"),
    (_number_claimed_twice, "12, at 2: a was claimed again as attempt 1"),
    (_pod_made_twice, "12, at 4: pod a-"),
    (_two_of_one_key, "uniqueness, at 3: unique Jobs ['a', 'b'] run at once"),
]


@pytest.mark.parametrize(("broken", "words"), BROKEN, ids=[tell.__name__.strip("_") for tell, _ in BROKEN])
def test_each_broken_promise_is_found_at_its_moment(broken: Callable[[Story], None], words: str) -> None:
    story = Story()
    broken(story)
    found = verdict(story, concurrency={"default": 2}, per_key={"default": 1}).violations
    assert any(violation.startswith(words) for violation in found), found


def test_a_follower_may_start_after_a_failure_where_its_policy_says_finished() -> None:
    story = Story()
    story.job("first", state="Failed")
    spec = {"after": [{"job": "first"}], "afterPolicy": "Finished"}
    story.job("second", spec=spec)
    story.attempt("second", spec=spec)
    assert violations(story.events) == []


def test_what_rightly_waits_at_the_end_is_no_violation() -> None:
    story = Story()
    story.job("a", state="Waiting", reason="QueuePaused")
    assert verdict(story, unfinished=["a"]).violations == ()


def test_a_slot_is_free_from_the_report_and_the_most_that_were_held_are_told() -> None:
    story = Story()
    for name in "abc":
        job = story.attempt(name)
        story.job(name, state="Starting", attempt=1, report=a_report(job))
    assert most_slots(story.events, "default") == 1


def test_a_claim_whose_pods_container_has_ended_holds_no_slot() -> None:
    story = Story()
    for name in "ab":
        job = story.attempt(name)
        story.pod(job, ended=True)
    assert most_slots(story.events, "default") == 1


def test_a_window_ends_with_the_deletion_of_its_winner() -> None:
    story = Story()
    spec = {"unique": {"key": "k", "scope": "Window", "windowSeconds": 60}}
    story.jobs_end(story.success("a", spec=spec))
    story.success("b", spec=spec)
    assert violations(story.events) == []


def test_a_report_of_an_attempt_that_an_older_leader_claimed_is_none_of_its_writes() -> None:
    story = Story()
    job = story.attempt("a")
    story.job("b")
    story.job("b", state="Starting", attempt=1, epoch=5)
    story.job("a", state="Starting", attempt=1, report=a_report(job))
    assert violations(story.events) == []


def test_a_rerun_may_undo_an_end() -> None:
    story = Story()
    story.success("a")
    story.job("a", state="Waiting", attempt=1, observedRerun=1)
    assert violations(story.events) == []


@pytest.mark.parametrize(("waited_for", "found"), [("b", []), ("c", ["7, at 3: d went from Skipped to Waiting"])])
def test_the_rerun_of_a_duplicate_undoes_the_skip_of_what_waits_for_that_one_alone(
    waited_for: str, found: list[str]
) -> None:
    story = Story()
    spec = {"after": [{"job": waited_for}]}
    upstream = {"name": "a", "uid": uid_of("a"), "finishes": 1}
    story.job("d", spec=spec, state="Skipped", reason="UpstreamFailed", upstream=upstream)
    story.job("b", armed={"at": "2027-01-15T08:00:00Z", "attempt": 0, "duplicateOf": "a"})
    story.job("d", spec=spec)
    assert list(violations(story.events)) == found


def test_a_verdict_is_kept_as_json(tmp_path: Path) -> None:
    story = Story()
    story.success("a")
    verdict(story, faults={"node deleted": 1}, measured={"seconds": 1.5}).save(tmp_path / "records", "a_test")
    kept = json.loads((tmp_path / "records" / "a_test.json").read_text())
    assert kept == {
        "jobs": 1,
        "attempts": 1,
        "events": 5,
        "gaps": 0,
        "faults": {"node deleted": 1},
        "violations": [],
        "measured": {"seconds": 1.5},
    }
