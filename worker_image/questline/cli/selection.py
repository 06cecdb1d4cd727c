"""Which Jobs a command is about: by name, or many at once by label, queue or state."""

from __future__ import annotations

from typing import Annotated

import typer

from questline.cli.app import complete_queues
from questline.cli.cluster import JOBS, Cluster
from questline.cli.errors import CommandError
from questline.cli.view import STATES, JobView


def _checked_state(value: str | None) -> str | None:
    if value is None:
        return None
    found = next((state for state in STATES if state.lower() == value.lower()), None)
    if found is None:
        raise typer.BadParameter(f"{value!r} is no state: there are {', '.join(STATES)}")
    return found


QueueOption = Annotated[
    str | None, typer.Option("--queue", "-q", metavar="QUEUE", help="Of this Queue.", autocompletion=complete_queues)
]
StateOption = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="In this state.",
        callback=_checked_state,
        autocompletion=lambda incomplete: [state for state in STATES if state.startswith(incomplete)],
    ),
]
SelectorOption = Annotated[
    str, typer.Option("--selector", "-l", metavar="LABELS", help="With these labels, as kubectl has it.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of the namespace.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def fields_of(queue: str | None, state: str | None) -> dict[str, str]:
    """As a field selector of the API."""
    fields = {"spec.queue": queue, "status.state": state}
    return {name: value for name, value in fields.items() if value}


def selected(
    cluster: Cluster, names: list[str] | None, queue: str | None, state: str | None, selector: str, *, all_jobs: bool
) -> list[JobView]:
    """The Jobs that are meant.

    Raises:
        CommandError: nothing says which, or both names and something else do, or a name does not exist.
    """
    filters = bool(queue or state or selector)
    if names and (filters or all_jobs):
        raise CommandError("names of Jobs go without --queue, --state, --selector and --all: leave one of them out")
    if names:
        return [JobView(cluster.get(JOBS, name)) for name in dict.fromkeys(names)]
    if not filters and not all_jobs:
        raise CommandError("which Jobs? Name them, or give --queue, --state or --selector, or --all")
    return [JobView(raw) for raw in cluster.listed(JOBS, selector=selector, fields=fields_of(queue, state))]
