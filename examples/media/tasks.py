"""The demo's tasks: a chain over an uploaded picture, and a broadcast by e-mail.

    process_upload -> generate_thumbnail -> notify_user      each step enqueues the next
    send_broadcast -> send_email, once for each recipient    in parallel, as far as queue `emails` allows

Args carry ids; what they stand for (pictures, a message's text) lies on a volume that the pods mount at
MEDIA_DIR (default /data). A child waits until its parent's attempt has succeeded, so a step that fails halfway
and is retried never doubles what follows, though it enqueues before it ends.
"""

from __future__ import annotations

import json
import os
import re
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from secrets import token_hex

from PIL import Image, ImageOps

from questline import fan_out, job

THUMBNAIL_EDGE = 320  # pixels, the longer side
SENDER = "questline@example.com"


def media_file(kind: str, file_id: str, suffix: str) -> Path:
    """Where a file of that id lies, MEDIA_DIR/kind/<file_id><suffix>. ValueError: that is no id."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", file_id):
        raise ValueError(f"file id {file_id!r}: expected letters a-z, digits and '-', at most 63")
    return Path(os.environ.get("MEDIA_DIR", "/data")) / kind / f"{file_id}{suffix}"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to that takes target's place at the end: an attempt that dies leaves no half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{token_hex(4)}")
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def make_thumbnail(source: Path, target: Path) -> tuple[int, int]:
    """Writes source, upright and made smaller, to target as JPEG; its width and height in pixels."""
    with Image.open(source) as picture, replacing(target) as draft:
        thumbnail = ImageOps.exif_transpose(picture)
        thumbnail.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
        thumbnail.convert("RGB").save(draft, format="JPEG", quality=85)
    return thumbnail.size


def send(message: EmailMessage) -> None:
    """Hands one e-mail to SMTP_HOST:SMTP_PORT. Raises smtplib.SMTPException when that does not take it."""
    host, port = os.environ.get("SMTP_HOST", "mailbox"), int(os.environ.get("SMTP_PORT", "8025"))
    with smtplib.SMTP(host, port, timeout=10) as server:
        server.send_message(message)


@job(queue="media", max_attempts=3, timeout="2m")
def process_upload(file_id: str, owner: str) -> dict[str, bool]:
    """Checks that the upload is a whole picture, then has its thumbnail made."""
    with Image.open(media_file("uploads", file_id, ".jpg")) as picture:
        picture.load()
    generate_thumbnail.enqueue(file_id, owner)
    return {"processed": True}


@job(queue="media", max_attempts=3, timeout="2m")
def generate_thumbnail(file_id: str, owner: str) -> dict[str, int]:
    """Makes the thumbnail, then has its owner told."""
    target = media_file("thumbnails", file_id, ".jpg")
    width, height = make_thumbnail(media_file("uploads", file_id, ".jpg"), target)
    notify_user.enqueue(file_id, owner)
    return {"width": width, "height": height, "bytes": target.stat().st_size}


@job(queue="emails", priority=10, max_attempts=5, timeout="1m")
def notify_user(file_id: str, owner: str) -> None:
    """Tells the owner by e-mail, thumbnail attached. Its priority lets it overtake a running broadcast."""
    message = EmailMessage()
    message["From"], message["To"] = SENDER, owner
    message["Subject"] = "Your picture is ready"
    message["X-Message-Id"] = file_id
    message.set_content("Your upload was processed. Its thumbnail is attached.\n")
    thumbnail = media_file("thumbnails", file_id, ".jpg").read_bytes()
    message.add_attachment(thumbnail, maintype="image", subtype="jpeg", filename=f"{file_id}.jpg")
    send(message)


@job(queue="broadcast", timeout="5m")
def send_broadcast(message_id: str, recipients: list[str]) -> dict[str, int]:
    """One e-mail for each recipient, in parallel."""
    fan_out(send_email.call(message_id, recipient) for recipient in recipients)
    return {"recipients": len(recipients)}


@job(queue="emails", unique=("message_id", "recipient"), window="1d", max_attempts=5, timeout="1m")
def send_email(message_id: str, recipient: str) -> None:
    """One e-mail to one recipient: within a day, once for each message, however often it is enqueued."""
    text = json.loads(media_file("messages", message_id, ".json").read_text(encoding="utf-8"))
    message = EmailMessage()
    message["From"], message["To"] = SENDER, recipient
    message["Subject"] = text["subject"]
    message["X-Message-Id"] = message_id
    message.set_content(text["body"])
    send(message)
