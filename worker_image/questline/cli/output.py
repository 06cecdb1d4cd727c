"""What commands print: tables, JSON, YAML, lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from questline.cli.tree import state_of
from questline.cli.view import JobView

PLAIN_WIDTH = 10_000
"""Columns where there is no terminal: nothing is cut, so that other programs can read it."""


class Output(StrEnum):
    """The forms of -o."""

    JSON = "json"
    YAML = "yaml"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read our output has seen enough: `app` ends the command for that."""
        raise


def console() -> Console:
    """Standard output, made anew so that tests may put another in its place."""
    return _Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def say(text: str | Text) -> None:
    """One line of the command's result."""
    console().print(text, soft_wrap=True)


def note(text: str) -> None:
    """One line for people, beside the result: on standard error."""
    print(text, file=sys.stderr, flush=True)


def note_none_found(kinds: str, namespace: str | None) -> None:
    """The note in the place of an empty table; ``namespace`` is None where all were looked through."""
    note(f"No {kinds} found in {'any namespace' if namespace is None else f'namespace {namespace}'}.")


def print_objects(objects: Sequence[dict[str, Any]], output: Output, *, single: bool = False) -> None:
    """Objects as the API has them, without managedFields; several as one List."""
    clean = [_without_managed_fields(one) for one in objects]
    print_value(clean[0] if single else {"apiVersion": "v1", "kind": "List", "items": clean}, output)


def print_value(value: Any, output: Output) -> None:
    """A value as JSON or YAML."""
    if output is Output.JSON:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Columns as kubectl has them: upper-case heads, no lines."""
    cells = [[Text(column, style="bold") for column in columns]]
    cells += [[cell.copy() if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    out = console()
    for row in cells:
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            cell.pad_right(width + 3 - cell.cell_len)
            line.append_text(cell)
        line.rstrip()
        out.print(line, soft_wrap=True)


def job_table(jobs: Sequence[JobView], *, everywhere: bool) -> None:
    """The columns of `kubectl get questjobs`."""
    columns = ["NAME", "STATE", "REASON", "QUEUE", "TASK", "ATTEMPT", "AGE"]
    rows: list[list[str | Text]] = [
        [job.name, _state(job), job.reason, job.queue, job.work, str(job.attempt or ""), age(job.created)]
        for job in jobs
    ]
    if everywhere:
        columns.insert(0, "NAMESPACE")
        rows = [[job.namespace, *row] for job, row in zip(jobs, rows, strict=True)]
    print_table(columns, rows)


def queue_table(queues: Sequence[dict[str, Any]], *, everywhere: bool) -> None:
    """The columns of `kubectl get questqueues`."""
    rows = []
    for queue in queues:
        spec, status = queue.get("spec") or {}, queue.get("status") or {}
        row = [
            queue["metadata"]["name"],
            str(spec.get("concurrency", 10)),
            str(status.get("running", 0)),
            str(status.get("waiting", 0)),
            str(bool(spec.get("paused"))).lower(),
            age(queue["metadata"].get("creationTimestamp", "")),
        ]
        rows.append([queue["metadata"]["namespace"], *row] if everywhere else row)
    columns = ["NAME", "CONCURRENCY", "RUNNING", "WAITING", "PAUSED", "AGE"]
    print_table(["NAMESPACE", *columns] if everywhere else columns, rows)


def schedule_table(schedules: Sequence[dict[str, Any]], *, everywhere: bool) -> None:
    """The columns of `kubectl get questschedules`, and what its condition says where one is not Ready."""
    rows = []
    for schedule in schedules:
        spec, status = schedule["spec"], schedule.get("status") or {}
        ready: dict[str, Any] = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})
        row = [
            schedule["metadata"]["name"],
            spec["cron"],
            spec.get("timeZone", "UTC"),
            str(bool(spec.get("suspend"))).lower(),
            ready.get("status", ""),
            age(status.get("lastTick", "")),
            status.get("nextTick", ""),
            age(schedule["metadata"].get("creationTimestamp", "")),
            "" if ready.get("status") == "True" else ready.get("message", ""),
        ]
        rows.append([schedule["metadata"]["namespace"], *row] if everywhere else row)
    columns = ["NAME", "CRON", "ZONE", "SUSPEND", "READY", "LAST", "NEXT", "AGE", "MESSAGE"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(["NAMESPACE", *columns] if everywhere else columns, rows)


def age(created: str) -> str:
    """How long ago that was, as kubectl says it."""
    if not created:
        return ""
    return duration(time.time() - datetime.fromisoformat(created).timestamp())


def duration(seconds: float) -> str:
    """A time span in a word: 45s, 3m10s, 5h2m, 3d4h."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    for unit, size, below in (("d", 86_400, ("h", 3_600)), ("h", 3_600, ("m", 60)), ("m", 60, ("s", 1))):
        if whole >= size * (2 if unit == "d" else 1):
            rest = whole % size // below[1]
            return f"{whole // size}{unit}" + (f"{rest}{below[0]}" if rest else "")
    return f"{whole}s"


def is_interactive() -> bool:
    """Whether a picture that moves can be drawn: a terminal, and no CI."""
    return sys.stdout.isatty() and os.environ.get("CI") != "true"


def _state(job: JobView) -> Text:
    text = state_of(job)
    return text[: len(job.state)]


def _without_managed_fields(one: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in one.get("metadata", {}).items() if name != "managedFields"}
    return {**one, "metadata": metadata}
