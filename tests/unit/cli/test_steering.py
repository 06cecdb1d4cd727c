"""`cancel`, `rerun`, `pause` and `resume`: what is changed, and what is only said."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server

BOTH = "names of Jobs go without --queue, --state, --selector and --all: leave one of them out"
CANCELED = {"spec": {"cancel": True}}


@pytest.fixture
def shop(server: Server) -> Server:
    server.job("a", "Running", {"queue": "media"}, labels={"app": "shop"})
    server.job("b", "Waiting", {"queue": "media"})
    server.job("c", "Waiting", {"queue": "mail"})
    server.job("d", "Failed", {"queue": "media"}, reason="Fail")
    server.job("e", "Waiting", {"queue": "media", "cancel": True})
    return server


def test_cancel_by_name_asks_for_each_even_one_that_has_ended_for_its_descendants(
    shop: Server, command: Command
) -> None:
    result = command("cancel", "a", "d", "a")
    assert (result.exit_code, result.stdout) == (0, "a canceled\nd canceled\n")
    assert sorted(shop.patches()) == [("a", CANCELED), ("d", CANCELED)]


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("--queue", "media"), ["a", "b"]),
        (("--state", "Waiting"), ["b", "c"]),
        (("--state", "Failed"), ["d"]),
        (("-l", "app=shop"), ["a"]),
        (("--all",), ["a", "b", "c"]),
        (("-q", "media", "--state", "Waiting"), ["b"]),
    ],
)
def test_cancel_in_bulk_takes_what_has_not_ended_and_dry_run_takes_nothing(
    shop: Server, command: Command, args: tuple[str, ...], names: list[str]
) -> None:
    said = command("cancel", *args, "--dry-run")
    assert [line.split()[0] for line in said.stdout.splitlines()] == names
    assert shop.patches() == []
    assert [line.split()[0] for line in command("cancel", *args).stdout.splitlines()] == names
    assert sorted(shop.patches()) == [(name, CANCELED) for name in names]


def test_dry_run_says_what_each_is(shop: Server, command: Command) -> None:
    assert command("cancel", "a", "--dry-run").stdout == "a (Running, queue media) would be canceled\n"


def test_nothing_to_cancel_is_no_mistake(shop: Server, command: Command) -> None:
    result = command("cancel", "--queue", "empty")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "There is nothing to cancel.\n")


def test_rerun_raises_the_number_and_takes_a_cancel_back_in_the_same_update(server: Server, command: Command) -> None:
    server.job("failed", "Failed", reason="Fail")
    server.job("again", "Failed", {"rerun": 2}, reason="Fail")
    server.job("canceled", "Canceled", {"cancel": True}, reason="Requested")
    result = command("rerun", "failed", "again", "canceled")
    assert result.stdout == "failed run again\nagain run again\ncanceled run again\n"
    assert sorted(server.patches()) == [
        ("again", {"spec": {"rerun": 3}}),
        ("canceled", {"spec": {"rerun": 1, "cancel": False}}),
        ("failed", {"spec": {"rerun": 1}}),
    ]


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("--queue", "media"), ["d"]),
        (("--all",), ["d", "f"]),
        (("--state", "Succeeded"), ["g"]),
        (("--state", "Waiting"), []),
    ],
)
def test_rerun_in_bulk_takes_what_failed_or_the_ended_of_a_state(
    shop: Server, command: Command, args: tuple[str, ...], names: list[str]
) -> None:
    shop.job("f", "Failed", {"queue": "mail"}, reason="Fail")
    shop.job("g", "Succeeded")
    assert command("rerun", *args, "--dry-run").stdout.count("would be run again") == len(names)
    assert shop.patches() == []
    command("rerun", *args)
    assert sorted(name for name, _ in shop.patches()) == names


@pytest.mark.parametrize("name", ["cancel", "rerun"])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "which Jobs? Name them, or give --queue, --state or --selector, or --all"),
        (("a", "--all"), "names of Jobs go without --queue, --state, --selector and --all: leave one of them out"),
        (
            ("a", "-q", "media"),
            "names of Jobs go without --queue, --state, --selector and --all: leave one of them out",
        ),
    ],
)
def test_it_is_asked_which_jobs_are_meant(
    shop: Server, command: Command, name: str, args: tuple[str, ...], said: str
) -> None:
    result = command(name, *args)
    assert (result.exit_code, result.stderr) == (2, f"questline: {said}\n")
    assert shop.patches() == []


def test_one_refusal_among_many_is_named_and_the_others_are_done(shop: Server, command: Command) -> None:
    shop.refuse = lambda method, path: (
        (403, "Forbidden", "not yours") if method == "PATCH" and path.endswith("/b") else None
    )
    result = command("cancel", "a", "b", "c")
    assert result.exit_code == 2
    assert result.stdout == "a canceled\nc canceled\n"
    assert result.stderr == "questline: b not canceled: you may not patch Job shop/b: not yours\n"


def test_pause_and_resume_set_the_field_and_say_what_goes_on(server: Server, command: Command) -> None:
    for name in ("media", "mail"):
        server.put("questqueues", name, {"concurrency": 4}, status={"running": 2, "waiting": 17})
    result = command("pause", "media", "mail")
    assert result.stdout == "media paused (2 running, 17 waiting)\nmail paused (2 running, 17 waiting)\n"
    assert command("resume", "media").stdout == "media resumed (2 running, 17 waiting)\n"
    first, second, last = server.patches()
    assert sorted([first, second], key=str) == [(name, {"spec": {"paused": True}}) for name in ("mail", "media")]
    assert last == ("media", {"spec": {"paused": False}})


def test_a_queue_that_does_not_exist_is_named(server: Server, command: Command) -> None:
    server.put("questqueues", "media", {})
    result = command("pause", "nowhere", "media")
    assert (result.exit_code, result.stdout) == (2, "media paused (0 running, 0 waiting)\n")
    assert result.stderr.startswith("questline: nowhere not paused: there is no Queue shop/nowhere (context shop of ")
