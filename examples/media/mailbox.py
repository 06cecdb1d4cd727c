"""A real SMTP server that keeps what it receives, so that the demo can say which e-mails arrived.

    python -m examples.media.mailbox

listens on :8025 (SMTP_PORT). Each delivery, taken or refused, is one JSON line, on stdout and in the file
MEDIA_DIR/mail/log.jsonl:

    {"at": "2025-01-01T12:00:00.000000+00:00", "code": 250, "message": "<header X-Message-Id>",
     "to": ["a@example.com"], "from": "questline@example.com", "subject": "...",
     "attachments": [{"name": "x.jpg", "type": "image/jpeg", "bytes": 8000}]}

Mail to the domain `busy.example` is answered 451 the first two times for each message and recipient, as a
server that greylists does: the sender must come again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

BUSY_DOMAIN = "@busy.example"
REFUSALS = 2  # deliveries refused for each message and recipient of BUSY_DOMAIN


class Mailbox:
    """aiosmtpd's handler: decides on each delivery and writes it down before it is answered."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._refused: Counter[tuple[str, str]] = Counter()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        content = envelope.content
        raw = content.encode() if isinstance(content, str) else content or b""
        message = message_from_bytes(raw, policy=policy.default)
        refused = self._is_refused(str(message["X-Message-Id"]), envelope.rcpt_tos)
        self._record(describe(message, envelope, code=451 if refused else 250))
        return "451 4.7.1 busy, come again" if refused else "250 2.0.0 received"

    def _is_refused(self, message_id: str, recipients: list[str]) -> bool:
        for recipient in recipients:
            if recipient.endswith(BUSY_DOMAIN) and self._refused[message_id, recipient] < REFUSALS:
                self._refused[message_id, recipient] += 1
                return True
        return False

    def _record(self, delivery: dict[str, Any]) -> None:
        line = json.dumps(delivery, ensure_ascii=False)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        print(line, flush=True)


def describe(message: EmailMessage, envelope: Envelope, code: int) -> dict[str, Any]:
    """One delivery as the JSON object of the module's docstring."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "code": code,
        "message": str(message["X-Message-Id"]),
        "to": envelope.rcpt_tos,
        "from": envelope.mail_from,
        "subject": str(message["Subject"]),
        "attachments": [
            {
                "name": part.get_filename(),
                "type": part.get_content_type(),
                "bytes": len(part.get_payload(decode=True) or b""),
            }
            for part in message.iter_attachments()
        ],
    }


async def serve(log: Path, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    mailbox = Mailbox(log)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # One event loop and one handler: deliveries are decided and written down one after the other.
    server = await loop.create_server(lambda: SMTP(mailbox, hostname="mailbox", loop=loop), port=port)
    print(f"listening on :{port}", file=sys.stderr, flush=True)
    async with server:
        await stop.wait()


if __name__ == "__main__":
    directory = Path(os.environ.get("MEDIA_DIR", "/data"))
    asyncio.run(serve(directory / "mail" / "log.jsonl", int(os.environ.get("SMTP_PORT", "8025"))))
