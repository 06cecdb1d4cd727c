"""`run`: a task here and now, with no cluster. What it enqueues is shown, and not run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from questline import attempt as attempts
from questline.attempt import PAYLOAD_ENV, Attempt
from questline.cli.app import plain_command
from questline.cli.enqueue import ArgsArgument, TaskArgument, parse_args
from questline.cli.errors import CommandError
from questline.cli.output import note
from questline.client import Answer
from questline.envelope import EXIT_NOT_RUNNABLE
from questline.runner import run_task

UID = "00000000-0000-0000-0000-000000000000"


@plain_command()
def run(
    task: TaskArgument,
    args: ArgsArgument = "{}",
    attempt: Annotated[int, typer.Option("--attempt", min=1, metavar="N", help="As this attempt.")] = 1,
    max_attempts: Annotated[int, typer.Option("--max-attempts", min=1, max=100, metavar="N", help="Of so many.")] = 5,
) -> int:
    """Run a task in this process, with no cluster, and print its result.

    Its module is looked for from the current folder on. What it enqueues is not run: a line on standard error tells it.

    Exit status: 0 succeeded, 1 failed or canceled, 75 to be run again (Retry, Snooze), 64 no such task or args.
    """
    if os.environ.get(PAYLOAD_ENV):
        raise CommandError(
            f"{PAYLOAD_ENV} is set, so this is a worker pod: the command there is python -m questline run"
        )
    given = parse_args(args)
    look_here_for_modules()
    recorder = _Recorder()
    begun = _attempt(task, given, attempt, max_attempts, recorder)
    attempts.begin(begun)
    try:
        ending, raised = run_task(begun)
    finally:
        attempts.end()
    if isinstance(raised, KeyboardInterrupt):
        raise raised
    if ending.exit_code == EXIT_NOT_RUNNABLE:
        note(f"questline: {ending.message}")
        return ending.exit_code
    if raised is not None and ending.outcome in ("Failed", "Fatal"):
        _print_traceback(raised)
    for line in recorder.lines():
        note(f"questline: {line}" + ("" if ending.outcome == "Succeeded" else ", which is skipped: the attempt failed"))
    if ending.outcome == "Succeeded":
        print(json.dumps(ending.result, ensure_ascii=False))
    else:
        again = f", again in {ending.delay_seconds:g} s" if ending.delay_seconds is not None else ""
        note(f"questline: {ending.outcome}{f' ({ending.reason})' if ending.reason else ''}: {ending.message}{again}")
    return 1 if ending.outcome == "Canceled" else ending.exit_code


def look_here_for_modules() -> None:
    """The current folder comes first where modules are looked for."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _attempt(task: str, args: dict[str, Any], number: int, max_attempts: int, recorder: _Recorder) -> Attempt:
    job = {"namespace": "local", "name": "local", "uid": UID, "task": task, "maxAttempts": max_attempts}
    begun = Attempt({"job": job, "attempt": number, "isLastAttempt": number >= max_attempts, "args": args})
    begun._transport, begun._pod_uid = recorder, UID
    return begun


class _Recorder:
    """In place of an API server: takes every Job that is enqueued, and keeps it."""

    def __init__(self) -> None:
        self._jobs: list[dict[str, Any]] = []

    def send(self, method: str, path: str, body: bytes | None, content_type: str, timeout: float) -> Answer:
        """Accepts the POST of a Job."""
        self._jobs.append(json.loads(body or b"{}"))
        return Answer(201, {}, body or b"{}")

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        """Nothing is watched here."""
        return iter(())

    def close(self) -> None:
        """Nothing is open."""

    def lines(self) -> Iterator[str]:
        """What was enqueued, in the order of the indices."""
        for job in sorted(self._jobs, key=lambda job: int(job["spec"]["parent"]["index"])):
            spec = job["spec"]
            waited = ", ".join(_waited(one) for one in spec.get("after", ()))
            after = f" after {waited}" if waited else ""
            args = json.dumps(spec.get("args", {}), ensure_ascii=False)
            yield f"enqueued {job['metadata']['name']}: {spec['task']} {args} in queue {spec['queue']}{after}"


def _waited(entry: dict[str, str]) -> str:
    """One thing that a Job waits for: another by its name, a group or a tree by what it is."""
    ((kind, name),) = entry.items()
    return name if kind == "job" else f"{kind} {name}"


def _print_traceback(error: BaseException) -> None:
    import traceback

    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(str(Path(__file__).parents[1])):
        own = own.tb_next
    traceback.print_exception(type(error), error, own)
