"""Tasks that the kit's tests run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from questline import Backoff, Cancel, Fail, Retry, Snooze, chain, current, fan_out, job
from questline import testing as kit

log: list[str] = []
"""What ran, for tests that ask in which order; each test begins with none."""


@dataclass
class Order:
    id: str
    total: Decimal
    due: date | None = None


@job
def nothing(label: str = "") -> None:
    log.append(label)


@job
def echo(value: Any) -> Any:
    assert value != 1.0 or isinstance(value, int), "the API server has made 1 of 1.0"
    return value


@job
def invoice(orders: list[Order]) -> Order:
    assert all(isinstance(order, Order) for order in orders)
    return Order("sum", sum((order.total for order in orders), Decimal(0)), date(2026, 1, 31))


@job(max_attempts=3)
def ends(how: str) -> str:
    log.append(how)
    match how:
        case "Retry":
            raise Retry("90s", "busy")
        case "Snooze":
            raise Snooze(5, "early")
        case "Fail":
            raise Fail("no")
        case "Cancel":
            raise Cancel("gone")
        case "ValueError":
            raise ValueError("it broke")
        case "large":
            return "x" * 4_000
        case "exit":
            raise SystemExit(3)
        case "ctrl-C":
            raise KeyboardInterrupt
    return how


@job(backoff=Backoff(base=10, jitter=0))
def succeeds_at(attempt: int) -> int:
    if current().attempt < attempt:
        raise ConnectionError("not yet")
    return current().attempt


@job
async def later(seconds: float = 0) -> int:
    import asyncio

    await asyncio.sleep(seconds)
    await nothing.enqueue_async("from async")
    return current().attempt


@job(queue="media")
def process_upload(file_id: str, failures: int = 0) -> dict[str, bool]:
    generate_thumbnail.enqueue(file_id)
    if current().attempt <= failures:
        raise OSError("the disk is full")
    return {"processed": True}


@job(queue="media")
def generate_thumbnail(file_id: str) -> str:
    notify_user.options(delay="5m").enqueue(file_id)
    return f"{file_id}.png"


@job
def notify_user(file_id: str) -> None:
    log.append(f"notified of {file_id}")


@job(queue="emails", unique=("message_id", "recipient"), window="1d")
def send_email(message_id: str, recipient: str) -> bool:
    log.append(recipient)
    if "@" not in recipient:
        raise Fail(f"{recipient} is no address")
    return recipient.endswith("@example.com")


@job
def report(message_id: str) -> str:
    summary = (current().inputs or {"summary": {}})["summary"]
    return f"{sum(current().results(send_email))} of {summary.get('total')}"


@job(queue="broadcast")
def send_broadcast(message_id: str, recipients: list[str]) -> int:
    children = fan_out(send_email.call(message_id, one) for one in recipients)
    children.then(report.call(message_id), policy="Finished")
    children.then(nothing.call("all were sent"))
    return len(children)


@job
def in_order(labels: list[str]) -> None:
    chain(*(nothing.call(label) for label in labels))


@job
def snoozes(times: int) -> int:
    if current().attempt <= times:
        raise Snooze("1h")
    return current().attempt


@job
def polls() -> None:
    raise Snooze(60)


@job
def goes_on(n: int = 0) -> None:
    goes_on.enqueue(n + 1)


@job(timeout="1m", max_attempts=1)
def takes(duration: str) -> str:
    try:
        time.sleep(1) if duration == "sleep" else kit.advance(duration)
    finally:
        log.append("cleaned up")
    return "done"


@job(timeout="1m", max_attempts=1)
def waits_to_be_stopped(goes_on_for: int = 0) -> str:
    while not current().stopping.wait("25s"):
        pass
    kit.advance(goes_on_for)
    return "left by itself"


@job(max_attempts=1)
def never_stopped() -> None:
    while not current().stopping.wait("1w"):
        pass


@job
def drains() -> None:
    kit.drain()


@job
def at_once(fail: bool) -> None:
    nothing.options(stage=False).enqueue("at once")
    nothing.enqueue("afterwards")
    if fail:
        raise Fail("after the enqueue")
