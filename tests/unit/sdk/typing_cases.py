"""What type checkers see of tasks. Each wrong line names the error that it must give: mypy refuses an unused ignore.

Checked, never run: `mypy` reads it with the rest of the project, and test_typing.py by itself.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, assert_type

from questline import (
    Backoff,
    Call,
    FanOut,
    Handle,
    Retry,
    Schedule,
    Snooze,
    chain,
    current,
    enqueue_many,
    fan_out,
    job,
    join,
    schedule,
)


@job
def bare(text: str, times: int = 1) -> list[str]:
    return [text] * times


@job(queue="media", timeout="10m", backoff=Backoff(base="1s"), retry_on=OSError, unique=("text",), window="1d")
def configured(text: str) -> int:
    return len(text)


@job
async def asynchronous(url: str) -> str:
    return url


@job(delay=timedelta(hours=1), unique=True)
async def asynchronous_configured(url: str) -> int:
    return len(url)


def key_of(message: str, recipient: str) -> str:
    return f"{message}:{recipient}"


@job(unique=key_of)
def keyed(message: str, recipient: str) -> None: ...


# A task keeps its function's parameters and result, called, enqueued or to be enqueued.
assert_type(bare("a"), list[str])
assert_type(bare.call("a", times=2), Call[list[str]])
assert_type(bare.enqueue("a"), Handle[list[str]])
assert_type(bare.enqueue("a").result(), list[str])
assert_type(bare.options(queue="other").enqueue("a"), Handle[list[str]])
assert_type(configured("a"), int)
assert_type(configured.enqueue(text="a").result(timeout="1m"), int)
assert_type(asynchronous.enqueue("u"), Handle[str])
assert_type(asynchronous_configured.call("u"), Call[int])
assert_type(keyed.call("m", recipient="r"), Call[None])


async def in_a_coroutine() -> None:
    assert_type(await bare.enqueue_async("a"), Handle[list[str]])
    one: Coroutine[Any, Any, str] = asynchronous("u")
    assert_type(await one, str)
    assert_type(await asynchronous_configured("u"), int)


assert_type(enqueue_many(bare.call(str(n)) for n in range(3)), list[Handle[list[str]]])
assert_type(fan_out([configured.call("a")]), FanOut[int])
assert_type(fan_out([configured.call("a")])[0].result(), int)
assert_type(fan_out([configured.call("a")]).then(bare.call("b"), policy="Finished"), Handle[list[str]])
assert_type(join(configured.call("a"), "group", bare.enqueue("a"), trees=[bare.enqueue("b")]), Handle[int])
assert_type(chain(bare.call("a"), configured.call("b")), list[Handle[Any]])
assert_type(schedule("s", cron="0 2 * * *", overlap="Forbid", catch_up="1h", job=configured.call("a")), Schedule)
assert_type(current().results(configured), list[int])
assert_type(current().results(asynchronous), list[str])

# Wrong arguments are errors wherever they are given.
bare(1)  # type: ignore[arg-type]
bare.enqueue()  # type: ignore[call-arg]
bare.enqueue(1)  # type: ignore[arg-type]
bare.enqueue("a", 1, 2)  # type: ignore[call-arg]
bare.enqueue("a", time=2)  # type: ignore[call-arg]
bare.call("a", times="b")  # type: ignore[arg-type]
bare.options(queue="q").enqueue(None)  # type: ignore[arg-type]
configured.call()  # type: ignore[call-arg]
configured.enqueue(b"a")  # type: ignore[arg-type]
asynchronous.enqueue(1)  # type: ignore[arg-type]
asynchronous_configured.call("u", 2)  # type: ignore[call-arg]
keyed.enqueue("m")  # type: ignore[call-arg]

# So are wrong options ...
bare.options(que="q")  # type: ignore[call-arg]
bare.options(queue=3)  # type: ignore[arg-type]
bare.options(timeout=[1])  # type: ignore[arg-type]
bare.options(max_attempts="3")  # type: ignore[arg-type]


@job(queues="q")  # type: ignore[call-overload, untyped-decorator]
def unknown_option() -> None: ...


@job(max_attempts="3")  # type: ignore[call-overload, untyped-decorator]
def wrong_option() -> None: ...


# ... a unique function of other parameters ...
@job(unique=key_of)  # type: ignore[arg-type]
def keyed_otherwise(message: str, recipient: int) -> None: ...


# ... and what is no call, no task, no result.
fan_out([configured])  # type: ignore[arg-type]
chain(bare)  # type: ignore[arg-type]
fan_out([configured.call("a")]).then(bare)  # type: ignore[arg-type]
schedule("s", cron="0 2 * * *", job=bare)  # type: ignore[arg-type]
schedule("s", cron="0 2 * * *", job=bare.call("a"), overlap="Never")  # type: ignore[arg-type]
schedule("s", job=bare.call("a"))  # type: ignore[call-arg]
join(bare.call("a"), "group", policy="Always")  # type: ignore[arg-type]
current().results(key_of)  # type: ignore[arg-type]
text: str = configured.enqueue("a").result()  # type: ignore[assignment]
Retry(delay=[1])  # type: ignore[arg-type]
Snooze()  # type: ignore[call-arg]
Snooze([1])  # type: ignore[arg-type]
