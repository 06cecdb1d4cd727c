"""`schedules`: lists them; its `apply` makes those that a module declares, `suspend` and `resume` hold them."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from questline.cli.app import OutputOption, SchedulesArgument, cluster_command, group_command, schedules_app
from questline.cli.cluster import SCHEDULES, AlreadyThere, Cluster, NotFound
from questline.cli.errors import EXIT_REFUSED, CommandError
from questline.cli.jobs import EverywhereOption
from questline.cli.local import look_here_for_modules
from questline.cli.output import note, note_none_found, print_objects, say, schedule_table
from questline.cli.steer import patch_each
from questline.schedules import Schedule, declared

DECLARED_BY = "questline.dev/declared-by"
"""Annotation: the module whose apply made the Schedule."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SHOWN_CHANGES = 6

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Have the API server check all of it, and say what would change.")
]


@group_command(schedules_app)
def schedules(cluster: Cluster, everywhere: EverywhereOption = False, output: OutputOption = None) -> None:
    """List Schedules, with their last and next tick; `apply` makes those that a Python module declares."""
    found = cluster.listed(SCHEDULES, everywhere=everywhere)
    if output is not None:
        print_objects(found, output)
    elif found:
        schedule_table(found, everywhere=everywhere)
    else:
        note_none_found("Schedules", None if everywhere else cluster.namespace)


@cluster_command(group=schedules_app)
def apply(
    cluster: Cluster,
    module: Annotated[str, typer.Argument(metavar="MODULE", help="package.module, from the current folder on.")],
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete those that an apply of this module made and it no longer declares.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over Schedules that something else made.")] = False,
    dry_run: DryRunOption = False,
    output: OutputOption = None,
) -> int:
    """Make the Schedules that a Python module declares, or change them into that.

    Its module is looked for from the current folder on, and imported. A Schedule of the same name that was not made by
    an apply of this module is left alone. Nothing is deleted when one was refused.
    """
    wanted = schedules_of(module)
    if not wanted and not prune:
        raise CommandError(f"module {module} declares no schedules{_elsewhere(module)}")
    deeds: dict[str, _Deed] = {}

    def carry_out(one: Schedule) -> None:
        deeds[one.name] = _apply(cluster, one, force=force, dry_run=dry_run)

    failures = cluster.together(carry_out, wanted)
    for one, failure in zip(wanted, failures, strict=True):
        if failure is not None:
            note(f"questline: {one.name} not applied: {failure}")
        elif output is None:
            say(deeds[one.name].sentence(dry_run=dry_run))
    if output is not None:
        print_objects([deeds[one.name].result for one in wanted if one.name in deeds], output)
    if any(failures):
        if prune:
            note("questline: nothing is pruned, because not all were applied")
        return EXIT_REFUSED
    return _prune(cluster, module, wanted, dry_run=dry_run, quiet=output is not None) if prune else 0


@cluster_command(group=schedules_app)
def suspend(cluster: Cluster, names: SchedulesArgument) -> int:
    """Have Schedules make no Jobs, and none later for the ticks that pass meanwhile."""
    return patch_each(cluster, SCHEDULES, {name: {"suspend": True} for name in names}, "suspended")


@cluster_command(group=schedules_app)
def resume(cluster: Cluster, names: SchedulesArgument) -> int:
    """Have suspended Schedules make Jobs again, from their next tick on."""
    return patch_each(cluster, SCHEDULES, {name: {"suspend": False} for name in names}, "resumed")


def schedules_of(module: str) -> list[Schedule]:
    """What the module declares, in that order; it is imported for it.

    Raises:
        CommandError: it cannot be imported, or declares two of one name.
    """
    if not _MODULE.fullmatch(module):
        raise CommandError(f"{module!r} names no module: package.module is needed")
    look_here_for_modules()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no part of our output
            importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module == missing or module.startswith(f"{missing}.")):
            raise CommandError(
                f"there is no module {missing!r}: it is looked for from {Path.cwd()} on, and on PYTHONPATH"
            ) from None
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise CommandError(f"module {module} cannot be imported: {said}{_place(error)}") from None
    found = [one for one in declared() if one.module == module]
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            lines = ", ".join(str(one.line) for one in found if one.name == name)
            raise CommandError(f"module {module} declares {name!r} {count} times, in lines {lines}: rename all but one")
    return found


@dataclass(frozen=True)
class _Deed:
    """What became of one declared schedule: ``verb`` is created, configured or unchanged."""

    name: str
    verb: str
    result: dict[str, Any]
    changes: tuple[str, ...] = ()

    def sentence(self, *, dry_run: bool) -> str:
        """For people."""
        shown = ", ".join(self.changes[:_SHOWN_CHANGES]) + (" ..." if len(self.changes) > _SHOWN_CHANGES else "")
        verb = f"would be {self.verb}" if dry_run and self.verb != "unchanged" else self.verb
        return f"{self.name} {verb}" + (f" ({shown})" if shown else "")


def _apply(cluster: Cluster, wanted: Schedule, *, force: bool, dry_run: bool) -> _Deed:
    """Makes or changes one. A lost answer does no harm: what a repeat finds is ours, and as it should be."""
    try:
        before = cluster.get(SCHEDULES, wanted.name)
    except NotFound:
        manifest = {
            "apiVersion": "questline.dev/v1alpha1",
            "kind": "Schedule",
            "metadata": {
                "name": wanted.name,
                "namespace": cluster.namespace,
                "annotations": {DECLARED_BY: wanted.module},
            },
            "spec": wanted.spec,
        }
        try:
            made = cluster.create(SCHEDULES, manifest, dry_run=dry_run)
        except AlreadyThere:
            before = cluster.get(SCHEDULES, wanted.name)  # made just now, by somebody or by our own lost try
        else:
            return _Deed(wanted.name, "created", made)
    owner = _owner(before)
    if owner != wanted.module and not force:
        made_by = f"an apply of module {owner}" if owner else "something else than an apply"
        raise CommandError(f"there is one that {made_by} made: choose another name, or take it over with --force")
    # Each field as a whole: nothing that somebody has added to the Job's spec stays, and what is not declared, does.
    operations: list[dict[str, Any]] = [
        {"op": "add", "path": f"/spec/{name}", "value": value} for name, value in wanted.spec.items()
    ]
    if before["metadata"].get("annotations") is None:
        # An annotation that somebody adds meanwhile would be lost: then the change is refused.
        operations.append(
            {"op": "test", "path": "/metadata/resourceVersion", "value": before["metadata"]["resourceVersion"]}
        )
        operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    path = f"/metadata/annotations/{DECLARED_BY.replace('/', '~1')}"
    operations.append({"op": "add", "path": path, "value": wanted.module})
    after = cluster.change(SCHEDULES, before, operations, dry_run=dry_run)
    changes = _changes(before["spec"], after["spec"])
    if owner != wanted.module:
        changes.insert(0, f"taken over from {f'module {owner}' if owner else 'something else'}")
    return _Deed(wanted.name, "configured" if changes else "unchanged", after, tuple(changes))


def _prune(cluster: Cluster, module: str, wanted: list[Schedule], *, dry_run: bool, quiet: bool) -> int:
    """Deletes what is of the module and no longer declared; the exit status."""
    names = {one.name for one in wanted}
    gone = [one for one in cluster.listed(SCHEDULES) if _owner(one) == module and one["metadata"]["name"] not in names]
    if not wanted and not gone:
        note(f"Module {module} declares no schedules{_elsewhere(module)}, and there is none of an earlier apply.")
    failures = cluster.together(lambda one: cluster.delete(SCHEDULES, one, dry_run=dry_run), gone)
    for one, failure in zip(gone, failures, strict=True):
        name = one["metadata"]["name"]
        if failure is not None:
            note(f"questline: {name} not deleted: {failure}")
        else:
            (note if quiet else say)(f"{name} {'would be deleted' if dry_run else 'deleted'}")
    return EXIT_REFUSED if any(failures) else 0


def _owner(schedule: dict[str, Any]) -> str | None:
    """The module whose apply made it."""
    owner = (schedule["metadata"].get("annotations") or {}).get(DECLARED_BY)
    return None if owner is None else str(owner)


def _elsewhere(module: str) -> str:
    """Which other modules do, of those that it imports."""
    others = sorted({one.module for one in declared()} - {module})
    return f"; {', '.join(others)} {'does' if len(others) == 1 else 'do'}: name that one" if others else ""


def _changes(before: Any, after: Any, path: str = "") -> list[str]:
    """The paths of what differs, the innermost ones."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*after, *(name for name in before if name not in after)]
        missing = object()
        return [
            one
            for name in names
            for one in _changes(before.get(name, missing), after.get(name, missing), f"{path}.{name}" if path else name)
        ]
    return [] if before == after and type(before) is type(after) else [path]


def _place(error: BaseException) -> str:
    """Where in the module, or in what it imports, that happened."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})" if error.lineno is not None else ""
    own = str(Path(__file__).parents[1])
    place = None
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((own, "<")) and file != importlib.__file__:
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place or ""
