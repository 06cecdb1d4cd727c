"""The demo's mail server, spoken to by SMTP."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.unit.examples.mail_server import MailServer


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[MailServer]:
    server = MailServer(tmp_path)
    yield server
    server.stop()


def send(mailbox: MailServer, recipient: str, message_id: str = "news", attachment: bytes = b"") -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "me@example.com", recipient, "Grüße"
    message["X-Message-Id"] = message_id
    message.set_content("Hello\n")
    if attachment:
        message.add_attachment(attachment, maintype="image", subtype="jpeg", filename="x.jpg")
    with smtplib.SMTP("127.0.0.1", mailbox.port, timeout=10) as server:
        server.send_message(message)


def test_a_delivery_is_in_the_log_once_it_is_answered(mailbox: MailServer) -> None:
    send(mailbox, "ada@example.com", attachment=b"x" * 5000)
    (mail,) = mailbox.logged()
    assert mail.pop("at").endswith("+00:00")
    assert mail == {
        "code": 250,
        "message": "news",
        "to": ["ada@example.com"],
        "from": "me@example.com",
        "subject": "Grüße",
        "attachments": [{"name": "x.jpg", "type": "image/jpeg", "bytes": 5000}],
    }


def test_stdout_is_the_log(mailbox: MailServer) -> None:
    send(mailbox, "ada@example.com")
    assert mailbox.process.stdout is not None
    assert json.loads(mailbox.process.stdout.readline()) == mailbox.logged()[0]


def test_a_busy_recipient_is_refused_twice_for_each_message_and_then_served(mailbox: MailServer) -> None:
    for message_id in ("first", "second"):
        for _ in range(2):
            with pytest.raises(smtplib.SMTPDataError, match="451"):
                send(mailbox, "late@busy.example", message_id)
        send(mailbox, "late@busy.example", message_id)
    assert [mail["code"] for mail in mailbox.logged()] == [451, 451, 250, 451, 451, 250]


def test_the_server_ends_at_once_and_cleanly_when_told(tmp_path: Path) -> None:
    assert MailServer(tmp_path).stop() == (0, "")
