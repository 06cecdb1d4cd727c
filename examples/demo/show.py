"""What the demo prints: progress while it runs, then the tree of Jobs, the e-mails and the verdict."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from examples.demo.record import Record
from examples.demo.verdict import Check
from questline.cli import tree
from questline.cli.tree import state_of
from questline.cli.view import JobView

PLAIN_WIDTH = 160  # columns, where there is no terminal to ask
LABEL_WIDTH = 44  # columns of the tree, from its left edge to the states


def is_plain() -> bool:
    """Whether to print lines instead of a picture that moves: no terminal, or CI."""
    return os.environ.get("CI") == "true" or not sys.stdout.isatty()


def make_console() -> Console:
    return Console(width=PLAIN_WIDTH, highlight=False) if is_plain() else Console(highlight=False)


class Progress:
    """Shows each change of a Job as it is seen: a table that moves on a terminal, lines elsewhere."""

    def __init__(
        self,
        console: Console,
        record: Record,
        slots_held: Callable[[], int],
        concurrency: int,
        *,
        plain: bool,
    ) -> None:
        self._console = console
        self._record = record
        self._slots_held = slots_held
        self._concurrency = concurrency
        self._started = time.monotonic()
        self._last: deque[Text] = deque(maxlen=8)
        self._mine: set[str] = set()
        self._live = None if plain else Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def follow(self, root: str) -> None:
        """Shows this Job and its descendants from now on, and nothing else of the namespace."""
        self._mine.add(root)

    def changed(self, job: JobView) -> None:
        if job.parent in self._mine:
            self._mine.add(job.name)
        if job.name not in self._mine:
            return
        line = Text(f"{time.monotonic() - self._started:6.1f} s  {label_of(job):<{LABEL_WIDTH}} ")
        line.append_text(state_of(job))
        if job.attempt > 1:
            line.append(f"  attempt {job.attempt}")
        self._last.append(line)
        if self._live:
            self._live.update(self._picture())
        elif job.state != "Waiting":
            self._console.print(line)

    def _picture(self) -> Group:
        table = Table(box=None, padding=(0, 2))
        for column in ("queue", "waiting", "running", "succeeded", "failed", "skipped"):
            table.add_column(column, justify="left" if column == "queue" else "right")
        jobs = [job for job in self._record.jobs.values() if job.name in self._mine]
        for queue in sorted({job.queue for job in jobs}):
            states = Counter(job.state for job in jobs if job.queue == queue)
            running = states["Starting"] + states["Running"]
            counts = (states["Waiting"], running, states["Succeeded"], states["Failed"], states["Skipped"])
            table.add_row(queue, *map(str, counts))
        held = self._slots_held()
        bar = Text(f"\n  slots of emails  {'■' * held}{'□' * max(0, self._concurrency - held)}\n", style="cyan")
        return Group(table, bar, *self._last)


def label_of(job: JobView) -> str:
    """The function, and for whom when the args say so."""
    recipient = job.spec.get("args", {}).get("recipient")
    return f"{job.function} {recipient}" if recipient else job.function


def job_tree(record: Record, root: str) -> Tree:
    """A Job and its descendants with states, attempts and durations. The root must be in the record."""
    return tree.job_tree(record, root, label_of, width=LABEL_WIDTH)


def mail_lines(deliveries: Sequence[dict[str, Any]]) -> list[Text]:
    """One line for each delivery, refused ones included, in the mail server's order."""
    lines = []
    for mail in deliveries:
        attached = "".join(f", {part['name']} ({part['bytes']} bytes)" for part in mail["attachments"])
        answer = "received" if mail["code"] == 250 else f"refused ({mail['code']})"
        text = f"{mail['at'][11:23]}  {', '.join(mail['to']):<28} {answer:<14} {mail['subject']}{attached}"
        lines.append(Text(text, style="" if mail["code"] == 250 else "yellow"))
    return lines


def check_lines(checks: Sequence[Check]) -> list[Text]:
    lines = []
    for check in checks:
        line = Text("  kept    " if check.kept else "  BROKEN  ", style="green" if check.kept else "bold red")
        line.append(f"{check.promise}: {check.seen}", style="default")
        lines.append(line)
    return lines
