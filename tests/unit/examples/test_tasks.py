"""The demo's tasks as the plain functions that they are: what they do to files and which e-mails they send."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from examples.demo.cluster import CHECKOUT
from examples.media import tasks
from tests.unit.examples.mail_server import MailServer

PICTURE = CHECKOUT / "examples" / "media" / "picture.jpg"


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDIA_DIR", str(tmp_path))
    for kind in ("uploads", "thumbnails", "messages"):
        (tmp_path / kind).mkdir()
    return tmp_path


@pytest.fixture
def mailbox(media: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    server = MailServer(media)
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SMTP_PORT", str(server.port))
    yield server
    server.stop()


def test_the_picture_is_small_enough_to_ship_and_large_enough_to_be_made_smaller() -> None:
    assert PICTURE.stat().st_size < 300 * 1024
    with Image.open(PICTURE) as picture:
        assert min(picture.size) > tasks.THUMBNAIL_EDGE


def test_a_thumbnail_fits_its_edge_and_keeps_the_shape(media: Path) -> None:
    target = media / "thumbnails" / "x.jpg"
    assert tasks.make_thumbnail(PICTURE, target) == (320, 213)
    with Image.open(target) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (320, 213))


def test_a_picture_with_transparency_gets_a_thumbnail_too(media: Path) -> None:
    source = media / "uploads" / "x.png"
    Image.new("RGBA", (800, 400), (0, 0, 0, 0)).save(source)
    assert tasks.make_thumbnail(source, media / "thumbnails" / "x.jpg") == (320, 160)


def test_a_broken_picture_leaves_no_thumbnail_and_no_draft(media: Path) -> None:
    source = media / "uploads" / "x.jpg"
    source.write_bytes(PICTURE.read_bytes()[:20_000])
    with pytest.raises(OSError, match="truncated"):
        tasks.make_thumbnail(source, media / "thumbnails" / "x.jpg")
    assert list((media / "thumbnails").iterdir()) == []


@pytest.mark.parametrize("file_id", ["", "../secret", "a/b", "A", "x.jpg", "-a", "a" * 64])
def test_an_id_that_is_no_id_reaches_no_file(file_id: str) -> None:
    with pytest.raises(ValueError, match="file id"):
        tasks.media_file("uploads", file_id, ".jpg")


def test_the_owner_is_sent_the_thumbnail(media: Path, mailbox: MailServer) -> None:
    (media / "thumbnails" / "photo-1.jpg").write_bytes(b"thumbnail")
    tasks.notify_user("photo-1", "owner@example.com")
    (mail,) = mailbox.logged()
    assert (mail["message"], mail["to"]) == ("photo-1", ["owner@example.com"])
    assert mail["attachments"] == [{"name": "photo-1.jpg", "type": "image/jpeg", "bytes": 9}]


def test_a_recipient_is_sent_the_message(media: Path, mailbox: MailServer) -> None:
    text = {"subject": "News", "body": "All is well.\n"}
    (media / "messages" / "news-1.json").write_text(json.dumps(text))
    tasks.send_email("news-1", "ada@example.com")
    (mail,) = mailbox.logged()
    assert (mail["message"], mail["to"], mail["subject"]) == ("news-1", ["ada@example.com"], "News")


def test_a_refused_delivery_fails_the_task(media: Path, mailbox: MailServer) -> None:
    (media / "messages" / "news-1.json").write_text(json.dumps({"subject": "News", "body": "\n"}))
    with pytest.raises(smtplib.SMTPDataError):
        tasks.send_email("news-1", "ada@busy.example")
