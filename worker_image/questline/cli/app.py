"""The command's frame: its flags for the cluster on every command, its errors as one message, its exit statuses."""

from __future__ import annotations

import inspect
import os
import sys
import typing
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from typing import Annotated, Any

import typer

from questline import __version__
from questline.cli.cluster import JOBS, QUEUES, SCHEDULES, Cluster
from questline.cli.errors import EXIT_REFUSED, CommandError
from questline.cli.kubeconfig import find_target
from questline.cli.output import Output
from questline.errors import QuestlineError

KubeconfigOption = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="The kubeconfig.", rich_help_panel="Cluster")
]
ContextOption = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Its context.", rich_help_panel="Cluster")
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="The namespace.", rich_help_panel="Cluster"),
]
OutputOption = Annotated[Output | None, typer.Option("--output", "-o", help="Print this instead.")]

SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(
    name="questline",
    help="Background jobs as Kubernetes resources: enqueue them, follow them, steer them.",
    no_args_is_help=True,
    **SETTINGS,
)
schedules_app = typer.Typer(name="schedules", **SETTINGS)
app.add_typer(schedules_app)


def _version(asked: bool) -> None:
    if asked:
        print(f"questline {__version__}")
        raise typer.Exit(0)


@app.callback()
def questline(
    context: typer.Context,
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = None,
    namespace: NamespaceOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and nothing else.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Background jobs as Kubernetes resources: enqueue them, follow them, steer them."""
    context.obj = {"kubeconfig": kubeconfig, "kube_context": kube_context, "namespace": namespace}


def cluster_command(
    name: str | None = None, *, epilog: str | None = None, group: typer.Typer = app
) -> Callable[[Callable[..., Any]], Any]:
    """A command whose first parameter is the `Cluster`; it takes the flags for that in kubectl's places: before its
    own name and after. What it returns is the exit status."""
    return _cluster_command(group.command(name, epilog=epilog))


def group_command(group: typer.Typer) -> Callable[[Callable[..., Any]], Any]:
    """What a group's own name does when no command follows it. With one, the flags for the cluster that stand between
    the two are that one's; others may not stand there."""
    return _cluster_command(group.callback(invoke_without_command=True))


def _cluster_command(register: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Any]:
    """A command with the flags for the cluster, registered so."""

    def decorate(function: Callable[..., int | None]) -> Any:
        @wraps(function)
        def command(
            context: typer.Context,
            *,
            kubeconfig: str | None,
            kube_context: str | None,
            namespace: str | None,
            **values: Any,
        ) -> None:
            flags = {"kubeconfig": kubeconfig, "kube_context": kube_context, "namespace": namespace}

            def act() -> int | None:
                if context.invoked_subcommand is not None:
                    _hand_down(context, flags, values)
                    return None
                with closing(cluster_of(context, flags)) as cluster:
                    return function(cluster, **values)

            _run(act)

        _declare(command, function, drop=1, extra=(KubeconfigOption, ContextOption, NamespaceOption))
        register(command)
        return function

    return decorate


def _hand_down(context: typer.Context, flags: dict[str, str | None], others: dict[str, Any]) -> None:
    """What a group was given is its command's, as far as it is about the cluster."""
    if any(others.values()):
        raise CommandError(
            f"ahead of {context.invoked_subcommand} only --kubeconfig, --context and --namespace may stand: put the "
            "others behind it"
        )
    context.obj = {**(context.obj or {}), **{name: value for name, value in flags.items() if value is not None}}


def plain_command(name: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """A command that needs no cluster."""

    def decorate(function: Callable[..., int | None]) -> Any:
        @wraps(function)
        def command(context: typer.Context, **values: Any) -> None:
            _run(lambda: function(**values))

        _declare(command, function, drop=0, extra=())
        app.command(name)(command)
        return function

    return decorate


def cluster_of(context: typer.Context, flags: dict[str, str | None]) -> Cluster:
    """The cluster and namespace that the flags mean, those after the command's name before those ahead of it."""
    given = context.obj or {}
    found = {name: value if value is not None else given.get(name) for name, value in flags.items()}
    return Cluster(find_target(found["kubeconfig"], found["kube_context"], found["namespace"]))


def complete_jobs(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the namespace's Jobs, for the shell."""
    return _names(context, JOBS, incomplete)


def complete_queues(context: typer.Context, incomplete: str) -> list[str]:
    """The names of its Queues."""
    return _names(context, QUEUES, incomplete)


def complete_schedules(context: typer.Context, incomplete: str) -> list[str]:
    """The names of its Schedules."""
    return _names(context, SCHEDULES, incomplete)


JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A Job's name.", autocompletion=complete_jobs)]
JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB", help="Names of Jobs.", autocompletion=complete_jobs)]
QueuesArgument = Annotated[
    list[str], typer.Argument(metavar="QUEUE", help="Names of Queues.", autocompletion=complete_queues)
]
SchedulesArgument = Annotated[
    list[str], typer.Argument(metavar="SCHEDULE", help="Names of Schedules.", autocompletion=complete_schedules)
]


def _names(context: typer.Context, plural: str, incomplete: str) -> list[str]:
    flags: dict[str, str | None] = dict.fromkeys(("kubeconfig", "kube_context", "namespace"))
    place: Any = context
    while place is not None:  # those of the command go before those of what stands ahead of it
        flags = {name: value or place.params.get(name) for name, value in flags.items()}
        place = place.parent
    try:
        with closing(cluster_of(context, flags)) as cluster:
            names = [item["metadata"]["name"] for item in cluster.listed(plural)]
    except QuestlineError:
        return []  # a shell that waits for completions has no place for messages
    return [name for name in names if name.startswith(incomplete)]


def _declare(command: Any, function: Callable[..., Any], *, drop: int, extra: tuple[Any, ...]) -> None:
    """Gives the command the signature that Typer reads: the function's, and the flags for the cluster."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[drop:]
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    parameters += [one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    for name, option in zip(("kubeconfig", "kube_context", "namespace"), extra, strict=False):
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    del command.__wrapped__


def _run(function: Callable[[], int | None]) -> None:
    try:
        status = function()
        sys.stdout.flush()  # here, and not as the interpreter ends: the reader may be gone
    except CommandError as error:
        status = _refused(str(error))
    except QuestlineError as error:
        status = _refused("; ".join([str(error), *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    if status is not None:
        raise typer.Exit(status)


def _refused(message: str) -> int:
    print(f"questline: {message}", file=sys.stderr)
    return EXIT_REFUSED
