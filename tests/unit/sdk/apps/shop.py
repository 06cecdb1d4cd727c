"""Tasks that tests enqueue and run."""

from __future__ import annotations

from questline import job


@job
def nothing() -> None:
    """Does nothing."""


@job(queue="media", max_attempts=3, timeout="10m")
def resize(picture: str, width: int = 320) -> str:
    return f"{picture}-{width}"


@job(queue="emails", unique=("message_id", "recipient"), window="1d")
def send_email(message_id: str, recipient: str) -> None:
    print(f"{message_id} to {recipient}")


@job(unique=True)
def once(number: float, text: str = "") -> float:
    return number


@job
async def fetch(url: str) -> dict[str, str]:
    return {"url": url}
