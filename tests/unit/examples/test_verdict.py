"""The verdict: a run as promised passes, and each broken promise is seen, alone."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from examples.demo.cluster import CHECKOUT
from examples.demo.record import Record
from examples.demo.verdict import Run, judge
from tests.unit.examples.world import History, child_of

BUSY = "late@busy.example"
RECIPIENTS = ["a@example.com", "b@example.com", "c@example.com", BUSY]


def jpeg(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, format="JPEG")
    return target.getvalue()


PICTURE = (CHECKOUT / "examples/media/picture.jpg").read_bytes()
with Image.open(io.BytesIO(PICTURE)) as opened:
    opened.thumbnail((320, 320))
    THUMBNAIL = jpeg(opened)


def history_as_promised() -> History:
    history = History()
    previous = None
    for name, task in (("up", "process_upload"), ("thumb", "generate_thumbnail"), ("tell", "notify_user")):
        spec = child_of(previous, task=f"m:{task}") if previous else {"task": f"m:{task}"}
        history.job(name, "Starting", spec=spec, attempt=1)
        history.pod(f"{name}-1", queue="media", type="ADDED")
        result = {"processed": True} if name == "up" else None
        history.job(name, "Succeeded", spec=spec, attempt=1, result=result)
        previous = name
    for broadcast in ("first", "again"):
        history.job(broadcast, "Succeeded", spec={"task": "m:send_broadcast"}, attempt=1)
    for index, _ in enumerate(RECIPIENTS):
        history.pod(f"email{index}-1", type="ADDED")
    for index, recipient in enumerate(RECIPIENTS):
        history.pod(f"email{index}-1", type="DELETED")
        outcomes = ["Failed", "Failed", "Succeeded"] if recipient == BUSY else ["Succeeded"]
        history.job(
            f"email{index}",
            "Succeeded",
            spec=child_of("first", index, task="m:send_email", recipient=recipient),
            attempts=[{"outcome": outcome} for outcome in outcomes],
        )
        history.job(
            f"again{index}",
            "Skipped",
            spec=child_of("again", index, task="m:send_email", recipient=recipient),
            reason="Duplicate",
            duplicateOf=f"email{index}",
        )
    return history


def delivery(to: str, message: str = "news", code: int = 250, attached: bytes = b"") -> dict[str, Any]:
    parts = [{"name": "x.jpg", "type": "image/jpeg", "bytes": len(attached)}] if attached else []
    return {"code": code, "message": message, "to": [to], "attachments": parts}


def run_as_promised() -> Run:
    record = Record()
    for event in history_as_promised().events:
        record.add(event)
    return Run(
        record=record,
        upload="up",
        broadcast="first",
        broadcast_again="again",
        file_id="file",
        message_id="news",
        owner="o@example.com",
        recipients=RECIPIENTS,
        busy=BUSY,
        concurrency=4,
        picture=PICTURE,
        thumbnail=THUMBNAIL,
        deliveries=[
            delivery("o@example.com", "file", attached=THUMBNAIL),
            *(delivery(BUSY, code=451) for _ in range(2)),
            *(delivery(recipient) for recipient in RECIPIENTS),
        ],
    )


def broken(run: Run) -> set[int]:
    """The numbers of the broken promises, in judge's order."""
    return {number for number, check in enumerate(judge(run)) if not check.kept}


def test_a_run_as_promised_keeps_every_promise() -> None:
    assert broken(run_as_promised()) == set()


def changed_job(name: str, **status: Any) -> Callable[[Run], Run]:
    def change(run: Run) -> Run:
        run.record.jobs[name].raw["status"] |= status
        return run

    return change


def changed_mail(change_mail: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Run], Run]:
    return lambda run: dataclasses.replace(run, deliveries=change_mail(list(run.deliveries)))


def with_fifth_pod(run: Run) -> Run:
    history = History()
    extra = history.pod("extra-1", type="ADDED")
    extra.object["metadata"]["resourceVersion"] = "0"
    run.record.events.append(extra)
    return run


def without_a_pod(run: Run) -> Run:
    run.record.events = [e for e in run.record.events if e.object["metadata"]["name"] != "email0-1"]
    return run


GREY = jpeg(Image.new("RGB", (320, 213), (128, 128, 128)))


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        pytest.param(changed_job("tell", state="Failed"), {0}, id="a step of the chain failed"),
        pytest.param(changed_job("up", result=None), {0}, id="the first step's result is lost"),
        pytest.param(lambda run: dataclasses.replace(run, thumbnail=b""), {2, 3}, id="there is no thumbnail"),
        pytest.param(
            lambda run: dataclasses.replace(run, thumbnail=GREY), {2, 3}, id="the thumbnail is another picture"
        ),
        pytest.param(
            lambda run: dataclasses.replace(run, thumbnail=PICTURE), {2, 3}, id="the thumbnail is the picture itself"
        ),
        pytest.param(changed_mail(lambda mails: mails[1:]), {3}, id="the owner was not told"),
        pytest.param(changed_mail(lambda mails: [mails[0], *mails]), {3}, id="the owner was told twice"),
        pytest.param(changed_mail(lambda mails: [*mails, mails[-2]]), {4}, id="a recipient got two"),
        pytest.param(
            changed_mail(lambda mails: [m for m in mails if m["to"] != ["a@example.com"]]),
            {4},
            id="a recipient got none",
        ),
        pytest.param(
            changed_mail(lambda mails: [*mails, delivery("stranger@example.com")]), {4}, id="a stranger got one"
        ),
        pytest.param(changed_mail(lambda mails: [mails[0], *mails[2:]]), {5}, id="the busy server refused once only"),
        pytest.param(
            changed_job("email3", attempts=[{"outcome": "Succeeded"}]), {5}, id="the busy recipient's Job never failed"
        ),
        pytest.param(with_fifth_pod, {6}, id="five slots were held"),
        pytest.param(without_a_pod, {6}, id="the queue was never full"),
        pytest.param(changed_job("again1", state="Succeeded", reason=""), {7}, id="a duplicate ran"),
        pytest.param(changed_job("again1", duplicateOf="email2"), {7}, id="a duplicate names another's original"),
    ],
)
def test_a_broken_promise_is_seen(change: Callable[[Run], Run], promises: set[int]) -> None:
    assert broken(change(run_as_promised())) == promises


def test_a_step_claimed_before_its_parent_succeeded_is_seen() -> None:
    run = run_as_promised()
    success = next(
        event
        for event in run.record.events
        if event.object["metadata"]["name"] == "up" and event.object["status"]["state"] == "Succeeded"
    )
    success.object["metadata"]["resourceVersion"] = "10000"
    assert broken(run) == {1}


def test_an_attempt_that_was_taken_away_breaks_no_promise() -> None:
    outcomes = ["Failed", "Disrupted", "Failed", "Disrupted", "Succeeded"]
    change = changed_job("email3", attempts=[{"outcome": outcome} for outcome in outcomes])
    assert broken(change(run_as_promised())) == set()
