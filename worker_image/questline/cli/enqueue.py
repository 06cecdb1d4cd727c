"""`enqueue`: a Job of a task, with its args as JSON and the options that the SDK has."""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from questline.cli.app import OutputOption, cluster_command, complete_queues
from questline.cli.cluster import Cluster
from questline.cli.errors import CommandError
from questline.cli.output import print_objects, say
from questline.enqueue import Roots
from questline.options import Options
from questline.task import ARGS_LIMIT, KEY_LIMIT, MAX_TASK_NAME, TASK_NAME, compact, key_part, nested_too_deeply

MAX_INTEGER = 2**63

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="package.module:function")]
ArgsArgument = Annotated[
    str,
    typer.Argument(metavar="ARGS", help="A JSON object, such as '{\"width\": 64}'; @FILE reads one, - the input."),
]
DURATION = 'seconds, or a text like "1h30m"'


@cluster_command()
def enqueue(
    cluster: Cluster,
    task: TaskArgument,
    args: ArgsArgument = "{}",
    queue: Annotated[
        str | None,
        typer.Option("--queue", "-q", metavar="QUEUE", help="The Queue.", autocompletion=complete_queues),
    ] = None,
    worker: Annotated[str | None, typer.Option("--worker", metavar="WORKER", help="The Worker.")] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Run in this image.")] = None,
    max_attempts: Annotated[str | None, typer.Option("--max-attempts", metavar="N", help="1 to 100.")] = None,
    backoff: Annotated[
        str | None,
        typer.Option(
            "--backoff",
            metavar="BACKOFF",
            help=f"The first delay ({DURATION}), or JSON with base, max, jitter and type.",
        ),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help=f"Of one attempt: {DURATION}.")
    ] = None,
    delay: Annotated[
        str | None, typer.Option("--delay", metavar="TIME", help=f"Not before so long: {DURATION}.")
    ] = None,
    run_at: Annotated[
        str | None,
        typer.Option("--run-at", metavar="MOMENT", help="Not before, such as 2026-01-31T08:00:00+01:00."),
    ] = None,
    priority: Annotated[
        str | None, typer.Option("--priority", metavar="N", help="-1000 to 1000, higher first.")
    ] = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="TIME", help=f"How long it is kept when it has ended: {DURATION}.")
    ] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Only one with the same args runs.")] = False,
    unique_by: Annotated[
        list[str] | None,
        typer.Option("--unique-by", metavar="PARAMETER", help="Only one with the same value of these runs."),
    ] = None,
    window: Annotated[
        str | None, typer.Option("--window", metavar="TIME", help=f"With --unique: one in this time: {DURATION}.")
    ] = None,
    concurrency_key: Annotated[
        str | None,
        typer.Option("--concurrency-key", metavar="KEY", help="Counted by the queue's perKeyConcurrency."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The Job's name.")] = None,
    output: OutputOption = None,
) -> None:
    """Make a Job of a task. Its defaults are its queue's, not those of its decorator: that is not read here."""
    given: dict[str, Any] = {"queue": queue, "worker": worker, "image": image, "name": name}
    given["concurrency_key"] = concurrency_key
    given |= {"timeout": timeout, "delay": delay, "ttl": ttl, "window": window, "backoff": _backoff(backoff)}
    given |= {
        "max_attempts": _integer(max_attempts, "--max-attempts"),
        "priority": _integer(priority, "--priority"),
        "run_at": _moment(run_at),
    }
    if unique and unique_by:
        raise CommandError("--unique and --unique-by are both given: the first is for all args, leave one out")
    given["unique"] = tuple(unique_by) if unique_by else unique
    options = Options().replaced({key: value for key, value in given.items() if value is not None})
    created = Roots(cluster.transport, cluster.namespace).post(task, spec_of(task, args, options), options.name)
    if output is not None:
        print_objects([created], output, single=True)
    else:
        say(created["metadata"]["name"])


def spec_of(task: str, args_text: str, options: Options) -> dict[str, Any]:
    """The spec of the Job.

    Raises:
        CommandError: the task's name or the args are none.
    """
    if not TASK_NAME.fullmatch(task) or len(task) > MAX_TASK_NAME:
        raise CommandError(f"{task!r} names no task: package.module:function is needed")
    args = parse_args(args_text)
    spec: dict[str, Any] = {"task": task, **options.spec()}
    if args:
        spec["args"] = args
    if options.unique is not False:
        unique: dict[str, Any] = {}
        if isinstance(options.unique, tuple):
            missing = [one for one in options.unique if one not in args]
            if missing:
                raise CommandError(
                    f"--unique-by names {missing[0]!r}, which is not among the args ({', '.join(args) or 'none'}): "
                    "give it there, even where it has a default"
                )
            unique["key"] = ":".join(key_part(args[one]) for one in options.unique)
            if len(unique["key"]) > KEY_LIMIT:
                raise CommandError(
                    f"--unique-by: the key has {len(unique['key']):,} characters, {KEY_LIMIT:,} are allowed"
                )
        if options.window is not None:
            unique |= {"scope": "Window", "windowSeconds": options.window}
        spec["unique"] = unique
    return spec


def parse_args(text: str) -> dict[str, Any]:
    """A Job's args.

    Raises:
        CommandError: the text is no JSON object that the API server would keep as it is.
    """
    where, text = _read(text)

    def refuse(word: str) -> Any:
        raise CommandError(f"{where} hold {word}, which is no JSON")

    def integer(word: str) -> int:
        if len(word) > 20 or not -MAX_INTEGER <= int(word) < MAX_INTEGER:
            raise CommandError(f"{where} hold {word[:40]}, which has over 64 bits: write it as a text")
        return int(word)

    def real(word: str) -> float:
        if not math.isfinite(float(word)):
            raise CommandError(f"{where} hold {word[:40]}, which is beyond what a number can be: write it as a text")
        return float(word)

    try:
        args = json.loads(text, parse_constant=refuse, parse_int=integer, parse_float=real)
    except RecursionError:
        raise CommandError(f"{where} are nested too deeply: put the data into storage and pass its id") from None
    except ValueError as error:
        raise CommandError(
            f"{where} are no JSON: {error}; a JSON object is needed, such as '{{\"width\": 64}}': {text[:60]!r}"
        ) from None
    if not isinstance(args, dict):
        raise CommandError(f"{where} are {_kind(args)}: a JSON object is needed, with the name of each parameter")
    if nested_too_deeply(args):
        raise CommandError(f"{where} are nested too deeply: put the data into storage and pass its id")
    try:
        size = len(compact(args))
    except UnicodeEncodeError:
        raise CommandError(f"{where} hold a lone surrogate, or bytes that are no UTF-8: that is no text") from None
    if size > ARGS_LIMIT:
        raise CommandError(
            f"{where} are {size:,} bytes of JSON, {ARGS_LIMIT:,} are allowed: put the data into storage and pass its id"
        )
    return args


def _read(text: str) -> tuple[str, str]:
    """What to call the args in a message, and their JSON: given as it is, by @FILE or from the input."""
    where = "the input" if text == "-" else text.removeprefix("@")
    try:
        if text == "-":
            return where, sys.stdin.read()
        if text.startswith("@"):
            return where, Path(where).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the args cannot be read from {where}: {error}") from None
    return "the args", text


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _integer(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise CommandError(f"{flag} is {text!r}: an integer is needed")
    return int(text)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"--run-at is {text!r}: a moment such as 2026-01-31T08:00:00+01:00 is needed") from None


def _backoff(text: str | None) -> Any:
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"--backoff is no JSON: {error}: {text!r}") from None
