"""`python -m questline run`: one attempt, from its payload to its outcome."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from questline import attempt as attempts
from questline.attempt import PAYLOAD_ENV, Attempt
from questline.envelope import EXIT_NOT_RUNNABLE, Ending, ending_of_error, ending_of_result, envelope_of, failed, fatal
from questline.errors import ArgsInvalid, ConfigurationError, EnqueueFateUnknown, TaskNotFound
from questline.report import report, say, write_termination_message
from questline.stopping import EXIT_CODE as EXIT_STOPPED
from questline.stopping import Stopping, StopSignal
from questline.task import Task, registry

CLOSE_SECONDS = 35.0
"""How long enqueues of the task's own threads may go on after it has returned: longer than one is tried."""
EXIT_SECONDS = 5.0
"""How long the interpreter may take to end after the outcome, for what the task left running."""


def run() -> int:
    """Runs the attempt that QUESTLINE_PAYLOAD names, tells its outcome, and returns the process's exit code."""
    payload = os.environ.get(PAYLOAD_ENV)
    if not payload:
        say(f"{PAYLOAD_ENV} is not set: `python -m questline run` is what the operator starts in a worker pod")
        return EXIT_NOT_RUNNABLE
    try:
        attempt = Attempt.load(Path(payload))
    except ConfigurationError as error:
        say(str(error))
        return EXIT_NOT_RUNNABLE
    _prepare_process()
    attempts.begin(attempt)
    stop = StopSignal(attempt)
    stop.install()
    try:
        ending, raised = run_task(attempt, ready=_warm_up)
        if not stop.interrupted:
            attempt._children.close(CLOSE_SECONDS)
            stop.disarm()
    except Stopping:
        pass
    if stop.interrupted:
        say("stopped by SIGTERM before the task had ended: no outcome")
        _leave_in_time(EXIT_STOPPED)
        return EXIT_STOPPED
    ending, envelope = concluded(attempt, ending)
    write_termination_message(envelope)
    report(attempt, envelope)
    _log(ending, raised)
    _leave_in_time(ending.exit_code)
    return ending.exit_code


def _prepare_process() -> None:
    """Live logs.

    Lines are written as they are ended: with Python's own buffer, what a task that is killed has printed last would be
    lost; unbuffered, each print would be two writes, and a signal could cut one short.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if sys.stderr is not None:
        faulthandler.enable()  # where a segfault was, in the log


def run_task(
    attempt: Attempt,
    *,
    ready: Callable[[Attempt], None] = lambda attempt: None,
    call: Callable[[Task[..., Any, Any], dict[str, Any]], Any] | None = None,
) -> tuple[Ending, BaseException | None]:
    """How the attempt ends, and the error behind it where the log should have its whole traceback.

    Args:
        ready: called before the task is, once it is found and its args fit.
        call: calls the task, and awaits it where it is async; the runner's own way without.

    Raises:
        Stopping: the pod is to end.
    """
    try:
        task = find_task(attempt.job.task)
    except TaskNotFound as error:
        return fatal("TaskNotFound", error.__cause__ or error, EXIT_NOT_RUNNABLE, message=str(error)), error.__cause__
    except OSError as error:  # a module that reads a file or a socket while it is imported may do better next time
        return failed(error), error
    try:
        arguments = task.signature.decode(attempt.args)
    except ArgsInvalid as error:
        return fatal("ArgsInvalid", error, EXIT_NOT_RUNNABLE), None
    ready(attempt)
    try:
        value = (call or call_task)(task, arguments)
    except Stopping:
        raise
    except BaseException as error:
        return ending_of_error(task, error), error
    return ending_of_result(task, value), None


def concluded(attempt: Attempt, ending: Ending) -> tuple[Ending, dict[str, Any]]:
    """How it ends once no more children can come, and the envelope that says so."""
    unknown = attempt._children.unknown
    if unknown is not None and ending.outcome == "Succeeded":
        ending = failed(EnqueueFateUnknown(unknown))
    return ending, envelope_of(ending, attempt.attempt, attempt._children.total, attempt._children.groups)


def find_task(name: str | None) -> Task[..., Any, Any]:
    """The task of that name, its module imported.

    Raises:
        TaskNotFound: there is none; says what there is. Its cause is what the module raised.
        OSError: what the module raised while it was imported, where that is one.
    """
    module, _, function = (name or "").partition(":")
    if not module or not function:
        raise TaskNotFound(f"{name!r} names no task: package.module:function is needed")
    loaded = _import(module, name or "")
    found = registry.get(f"{module}:{function}") or getattr(loaded, function, None)
    if isinstance(found, Task):
        return found
    tasks = sorted(task.partition(":")[2] for task in registry if task.startswith(f"{module}:"))
    has = f"it has {', '.join(tasks[:10])}{' ...' if len(tasks) > 10 else ''}" if tasks else "it has none"
    if found is not None:
        raise TaskNotFound(f"{name}: {function} is there, but is not registered: decorate it with @job ({has})")
    raise TaskNotFound(f"{name}: module {module} has no task {function!r}; {has}")


def _import(module: str, task: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except (Stopping, OSError):
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            where = os.environ.get("PYTHONPATH") or Path.cwd()
            raise TaskNotFound(
                f"{task}: there is no module {error.name!r} in this image (PYTHONPATH is {where}): "
                "COPY it there, or correct spec.task"
            ) from None
        raise TaskNotFound(f"{task}: module {module} cannot be imported: {error}") from error
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        raise TaskNotFound(f"{task}: module {module} cannot be imported: {said}") from error


def call_task(task: Task[..., Any, Any], arguments: dict[str, Any]) -> Any:
    """What the task returns, awaited in an event loop of its own where it is async."""
    value = task(**arguments)
    if hasattr(value, "__await__"):
        import asyncio

        async def awaited() -> Any:
            return await value

        return asyncio.run(awaited())
    return value


def _warm_up(attempt: Attempt) -> None:
    """Opens the connection for the report while the task runs; without a token there is nothing to open."""
    from questline.client import service_account

    try:
        account = service_account(os.environ)
    except ConfigurationError as error:
        say(str(error))
        return
    if account is not None:
        attempt._transport = account.transport
        account.transport.warm_up()


def _log(ending: Ending, error: BaseException | None) -> None:
    """After the outcome is told, the log has it too: the task's whole traceback, and our one line."""
    if error is not None and ending.outcome in ("Failed", "Fatal"):
        import traceback

        try:
            own = error.__traceback__
            while own is not None and own.tb_frame.f_code.co_filename == __file__:
                own = own.tb_next
            traceback.print_exception(type(error), error, own)
        except Exception:  # an error whose own methods fail
            say(f"the traceback of {type(error).__name__} cannot be printed")
    if ending.outcome != "Succeeded":
        say(f"{ending.outcome}{f' ({ending.reason})' if ending.reason else ''}: {ending.message}")


def _leave_in_time(exit_code: int, exit_now: Callable[[int], Any] = os._exit) -> None:
    """Ends the process some seconds from now, should a thread or an exit handler of the task not let it end."""

    def leave() -> None:
        time.sleep(EXIT_SECONDS)
        say(f"still running {EXIT_SECONDS:g} s after the outcome (a thread, or an exit handler): ended")
        exit_now(exit_code)

    threading.Thread(target=leave, name="questline-exit", daemon=True).start()
