"""A Job and its descendants as a tree, and that tree live with its progress."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from questline.cli.view import STATES, JobSet, JobView

COLOURS = {
    "Waiting": "dim",
    "Starting": "cyan",
    "Running": "cyan",
    "Succeeded": "green",
    "Failed": "red",
    "Canceled": "yellow",
    "Skipped": "magenta",
}
STATE_WIDTH = 22
SIBLINGS = 20
"""So many of a Job's children are shown one by one; of the others, how many are in which state."""


def state_of(job: JobView) -> Text:
    """Its state in its colour, and why it ended so."""
    text = Text(job.state, style=COLOURS.get(job.state, ""))
    if job.reason and job.state in {"Failed", "Canceled", "Skipped"}:
        text.append(f" ({job.reason})")
    return text


def job_tree(
    jobs: JobSet,
    root: str,
    label: Callable[[JobView], str] = lambda job: job.name,
    *,
    width: int | None = None,
    siblings: int | None = None,
    now: datetime | None = None,
) -> Tree:
    """A Job and its descendants with states, attempts and durations. The root must be among the Jobs.

    Args:
        label: what each is called.
        width: columns from the tree's left edge to the states; as the longest label needs it unless given.
        siblings: the most children of one Job that are shown one by one; all unless given.
        now: for how long those that run have done so by then.
    """
    shown = _shown(jobs, root, siblings)
    columns = width or max(len(label(job)) + 4 * depth for job, depth, _ in shown) + 2
    branches: dict[int, Tree] = {}
    tree = Tree("")
    for job, depth, hidden in shown:
        line = _line(job, label(job), columns - 4 * depth, now)
        if depth == 0:
            tree = branches[0] = Tree(line)
        else:
            branches[depth] = branches[depth - 1].add(line)
        if hidden:
            states = ", ".join(f"{count} {state}" for state, count in counts_of(hidden).items() if count)
            branches[depth - 1].add(Text(f"... {len(hidden)} more: {states}", style="dim"))
    return tree


def _shown(jobs: JobSet, root: str, siblings: int | None) -> list[tuple[JobView, int, list[JobView]]]:
    """Each Job that has a line, its depth, and those that are not shown and would come after it."""
    shown: list[tuple[JobView, int, list[JobView]]] = []
    stack: list[tuple[JobView, int, list[JobView]]] = [(jobs.jobs[root], 0, [])]
    while stack:
        job, depth, hidden = stack.pop()
        shown.append((job, depth, hidden))
        children = jobs.children(job.name)
        kept = children if siblings is None or len(children) <= siblings + 1 else children[:siblings]
        rest = children[len(kept) :]
        stack.extend((child, depth + 1, rest if child is kept[-1] else []) for child in reversed(kept))
    return shown


def _line(job: JobView, label: str, columns: int, now: datetime | None) -> Text:
    text = Text(f"{label:<{columns}}")
    text.append_text(state_of(job))
    text.pad_right(max(0, columns + STATE_WIDTH - len(text)))
    if job.attempt:
        text.append(f"{job.attempt} attempt{'s' if job.attempt > 1 else ' '}  ")
    seconds = job.seconds
    if seconds is None and now is not None and job.state in ("Starting", "Running") and job.status.get("startedAt"):
        seconds = max(0.0, (now - datetime.fromisoformat(job.status["startedAt"])).total_seconds())
    if seconds is not None:
        text.append(f"{seconds:6.2f} s  ")
    if job.attempt > 1:
        text.append(f"({', '.join(job.outcomes)})  ", style="dim")
    if job.state == "Failed":
        text.append(job.message, style="red")
    elif job.state == "Waiting" and job.reason and now is not None:
        text.append(f"{job.reason}: {job.message}" if job.message else job.reason, style="dim")
    text.rstrip()
    return text


def counts_of(jobs: list[JobView]) -> dict[str, int]:
    """How many are in which state, in the order of a Job's life."""
    counts = Counter(job.state for job in jobs)
    return {state: counts[state] for state in STATES}


def progress_line(jobs: list[JobView]) -> Text:
    """How many of them have ended, and how."""
    counts = counts_of(jobs)
    ended = sum(job.finished for job in jobs)
    text = Text(f"{ended} of {len(jobs)} ended")
    for state, count in counts.items():
        if count:
            text.append(", ")
            text.append(f"{count} {state}", style=COLOURS[state])
    return text


class LiveTree:
    """The tree on a terminal, drawn anew as its Jobs change."""

    def __init__(self, console: Console, root: str) -> None:
        self._console, self._root = console, root
        self._jobs = JobSet()
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveTree:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, jobs: JobSet) -> None:
        """These Jobs from now on."""
        self._jobs = jobs

    def _picture(self) -> Group:
        jobs = self._jobs.tree(self._root)
        if not jobs:
            return Group(Text(""))
        bar = Table.grid(padding=(0, 2))
        ended = sum(job.finished for job in jobs)
        bar.add_row(ProgressBar(total=len(jobs), completed=ended, width=30), progress_line(jobs))
        siblings = max(3, min(SIBLINGS, self._console.height - 8))
        now = datetime.fromtimestamp(time.time(), UTC)
        return Group(bar, Text(""), job_tree(self._jobs, self._root, siblings=siblings, now=now))


def change_lines(before: dict[str, tuple[str, int]], jobs: list[JobView]) -> list[Text]:
    """A line for each Job whose state or attempt is another than before, where nothing can be drawn anew."""
    lines = []
    for job in jobs:
        seen = (job.state, job.attempt)
        if before.get(job.name) != seen:
            before[job.name] = seen
            line = Text(f"{job.name}  ")
            line.append_text(state_of(job))
            if job.attempt > 1:
                line.append(f"  attempt {job.attempt}")
            lines.append(line)
    return lines
