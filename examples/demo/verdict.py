"""Whether the run was as promised: a Check for each promise. Pure: it judges what was recorded and fetched."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageStat

from examples.demo.record import Record
from questline.cli.view import JobView

CHAIN = ["process_upload", "generate_thumbnail", "notify_user"]


@dataclass(frozen=True)
class Check:
    """One promise, whether it was kept, and what was seen."""

    promise: str
    kept: bool
    seen: str


@dataclass(frozen=True)
class Run:
    """What one run of the demo asked for and what came of it."""

    record: Record
    upload: str  # the names of the three root Jobs
    broadcast: str
    broadcast_again: str
    file_id: str
    message_id: str
    owner: str
    recipients: Sequence[str]
    busy: str  # the recipient whose server refuses the first two deliveries
    concurrency: int  # of queue `emails`
    picture: bytes
    thumbnail: bytes
    deliveries: Sequence[dict[str, Any]]  # the mail server's log, in its order


def judge(run: Run) -> list[Check]:
    """Every promise of the demo, in the order in which they are printed."""
    return [
        chain_succeeded(run),
        chain_in_order(run),
        thumbnail_is_real(run),
        owner_was_notified(run),
        one_mail_each(run),
        busy_recipient_was_retried(run),
        slots_were_kept(run),
        duplicates_were_skipped(run),
    ]


def chain_succeeded(run: Run) -> Check:
    jobs = run.record.tree(run.upload)
    kept = [job.function for job in jobs] == CHAIN and all(job.state == "Succeeded" for job in jobs)
    kept = kept and jobs[0].status.get("result") == {"processed": True}
    seen = ", ".join(f"{job.function} {job.state}" for job in jobs) or "no Job"
    return Check("the chain ran to its end", kept, seen)


def chain_in_order(run: Run) -> Check:
    names = [job.name for job in run.record.tree(run.upload)]
    kept = len(names) == len(CHAIN) and run.record.ran_in_order(names)
    seen = "each claimed after the success of the one before" if kept else "a step was claimed too early, or never"
    return Check("each step started after the one before had succeeded", kept, seen)


def thumbnail_is_real(run: Run) -> Check:
    promise = "the thumbnail is the picture, made smaller"
    try:
        with (
            Image.open(io.BytesIO(run.thumbnail)) as thumbnail,
            Image.open(io.BytesIO(run.picture)) as picture,
        ):
            thumbnail.load()
            expected = picture.convert("RGB").resize(thumbnail.size)
            off = max(ImageStat.Stat(ImageChops.difference(thumbnail.convert("RGB"), expected)).mean)
            smaller = thumbnail.width < picture.width and len(run.thumbnail) < len(run.picture)
            seen = (
                f"{thumbnail.format} {thumbnail.width} x {thumbnail.height}, {len(run.thumbnail)} bytes,"
                f" of {picture.width} x {picture.height}, {len(run.picture)} bytes"
            )
    except OSError as error:
        return Check(promise, kept=False, seen=f"no picture: {error}")
    # A mean of 12 of 255 is far above what scaling and JPEG do to a picture and far below another picture.
    return Check(promise, smaller and off < 12, seen)


def owner_was_notified(run: Run) -> Check:
    mails = [mail for mail in taken(run, run.file_id) if mail["to"] == [run.owner]]
    attached = [part["bytes"] for mail in mails for part in mail["attachments"]]
    seen = f"{len(mails)} e-mail to {run.owner}, attached: {attached} bytes"
    return Check("the owner was told once, thumbnail attached", attached == [len(run.thumbnail)], seen)


def one_mail_each(run: Run) -> Check:
    received = Counter(recipient for mail in taken(run, run.message_id) for recipient in mail["to"])
    kept = received == Counter(run.recipients)
    wrong = [f"{who}: {received[who]}" for who in sorted({*received, *run.recipients}) if received[who] != 1]
    seen = f"{received.total()} e-mails for {len(run.recipients)} recipients" + "".join(f"; {w}" for w in wrong)
    return Check("enqueued twice, the broadcast reached every recipient exactly once", kept, seen)


def busy_recipient_was_retried(run: Run) -> Check:
    refused = sum(
        mail["code"] != 250 and mail["to"] == [run.busy] and mail["message"] == run.message_id
        for mail in run.deliveries
    )
    jobs = [job for job in emails(run) if recipient_of(job) == run.busy and job.state == "Succeeded"]
    outcomes = jobs[0].outcomes if jobs else []
    # An attempt that was taken away is run again and counts as none: it proves nothing, and breaks nothing.
    counted = [outcome for outcome in outcomes if outcome != "Disrupted"]
    kept = refused == 2 and counted == ["Failed", "Failed", "Succeeded"]
    seen = f"refused {refused} times, attempts: {', '.join(outcomes) or 'none'}"
    return Check(f"{run.busy} failed twice, then succeeded", kept, seen)


def slots_were_kept(run: Run) -> Check:
    highest = run.record.highest_slots("emails")
    seen = f"at most {highest} held at once"
    promise = f"queue `emails` used all its {run.concurrency} slots and never more"
    return Check(promise, highest == run.concurrency, seen)


def duplicates_were_skipped(run: Run) -> Check:
    jobs = emails(run)
    ran = {job.name: recipient_of(job) for job in jobs if job.state == "Succeeded"}
    skipped = [job for job in jobs if (job.state, job.reason) == ("Skipped", "Duplicate")]
    right = [job for job in skipped if ran.get(str(job.status.get("duplicateOf"))) == recipient_of(job)]
    count = len(run.recipients)
    kept = len(jobs) == 2 * count and len(ran) == len(skipped) == len(right) == count
    seen = f"{len(jobs)} send_email Jobs: {len(ran)} Succeeded, {len(skipped)} Skipped (Duplicate)"
    return Check("the second of two equal e-mails was skipped", kept, seen)


def taken(run: Run, message_id: str) -> list[dict[str, Any]]:
    """The deliveries of one message that the mail server took."""
    return [mail for mail in run.deliveries if mail["code"] == 250 and mail["message"] == message_id]


def emails(run: Run) -> list[JobView]:
    return [*run.record.children(run.broadcast), *run.record.children(run.broadcast_again)]


def recipient_of(job: JobView) -> str:
    return str(job.spec.get("args", {}).get("recipient", ""))
