"""`schedules`, and its `apply`, `suspend` and `resume`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server

TASKS = """
from questline import job, schedule

@job(queue="reports", max_attempts=3)
def write_report(kind: str, rows: int = 10) -> None: ...
"""
NIGHTLY = """
nightly = schedule("nightly", cron="30 2 * * *", time_zone="Europe/Berlin", overlap="Forbid", catch_up="1h",
                   job=write_report.call("nightly"))
"""
WEEKLY = """
schedules = [schedule("weekly", cron="0 9 * * MON", job=write_report.call("weekly", rows=50))]
"""
DECLARED_BY = "questline.dev/declared-by"
Write = Callable[..., str]
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module into the current folder, anew under a name of its own or another version of one; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("questline.schedules._declared", [])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def module(*parts: str, name: str = "") -> str:
        name = name or f"declares_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text("".join(parts))
        # Each apply is a process of its own; here they share one.
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr("questline.schedules._declared", [])
        return name

    return module


def spec_of(server: Server, name: str) -> dict[str, Any]:
    return dict(server.objects["questschedules", "shop", name]["spec"])


def names(server: Server) -> list[str]:
    return sorted(name for plural, _, name in server.objects if plural == "questschedules")


def writes(server: Server) -> list[str]:
    return [method for method, _, _ in server.seen if method != "GET"]


def test_apply_makes_what_the_module_declares_and_marks_it_as_its_own(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY, WEEKLY)
    result = command("schedules", "apply", module)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "nightly created\nweekly created\n", "")
    assert spec_of(server, "nightly") == {
        "cron": "30 2 * * *",
        "timeZone": "Europe/Berlin",
        "overlap": "Forbid",
        "catchUpSeconds": 3_600,
        "job": {"task": f"{module}:write_report", "queue": "reports", "maxAttempts": 3, "args": {"kind": "nightly"}},
    }
    made = server.objects["questschedules", "shop", "nightly"]["metadata"]
    assert made["annotations"] == {DECLARED_BY: module}


def test_apply_again_changes_what_is_declared_otherwise_and_says_what(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY, WEEKLY)
    command("schedules", "apply", module)
    assert command("schedules", "apply", module).stdout == "nightly unchanged\nweekly unchanged\n"
    write(TASKS, NIGHTLY, WEEKLY.replace("0 9 *", "0 8 *").replace("rows=50", "rows=60"), name=module)
    changed = command("schedules", "apply", module)
    assert changed.stdout == "nightly unchanged\nweekly configured (cron, job.args.rows)\n"
    assert spec_of(server, "weekly")["job"]["args"] == {"kind": "weekly", "rows": 60}


def test_what_somebody_added_to_the_job_goes_and_a_suspension_stays(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY)
    command("schedules", "apply", module)
    found = server.objects["questschedules", "shop", "nightly"]
    found["spec"] |= {"suspend": True, "job": {**found["spec"]["job"], "priority": 9}}
    found["metadata"]["annotations"]["team"] = "a"
    assert command("schedules", "apply", module).stdout == "nightly configured (job.priority)\n"
    assert "priority" not in spec_of(server, "nightly")["job"]
    assert spec_of(server, "nightly")["suspend"] is True
    annotations = server.objects["questschedules", "shop", "nightly"]["metadata"]["annotations"]
    assert annotations == {DECLARED_BY: module, "team": "a"}
    write(TASKS, NIGHTLY.replace("overlap", "suspend=False, overlap"), name=module)
    assert command("schedules", "apply", module).stdout == "nightly configured (suspend)\n"


def test_dry_run_has_the_server_check_all_of_it_and_keeps_nothing(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY, WEEKLY)
    command("schedules", "apply", module)
    write(TASKS, NIGHTLY.replace("30 2", "0 3"), NIGHTLY.replace('"nightly"', '"new"'), name=module)
    before = json.dumps(sorted(server.objects.items()))
    result = command("schedules", "apply", module, "--prune", "--dry-run")
    assert result.stdout == ("nightly would be configured (cron)\nnew would be created\nweekly would be deleted\n"), (
        result.stderr
    )
    assert json.dumps(sorted(server.objects.items())) == before
    assert writes(server)[-3:].count("DELETE") == 1, "the server was asked"


def test_prune_deletes_what_an_apply_of_this_module_made_and_nothing_else(
    server: Server, command: Command, write: Write
) -> None:
    other = write(TASKS, WEEKLY.replace("weekly", "of-another-module"))
    command("schedules", "apply", other)
    server.put("questschedules", "by-hand", {"cron": "* * * * *", "job": {"task": "a:b"}})
    module = write(TASKS, NIGHTLY, WEEKLY)
    server.put(
        "questschedules", "elsewhere", {"cron": "* * * * *"}, namespace="other", annotations={DECLARED_BY: module}
    )
    command("schedules", "apply", module)
    write(TASKS, NIGHTLY, name=module)
    assert command("schedules", "apply", module).stdout == "nightly unchanged\n"
    assert "weekly" in names(server), "without --prune nothing is deleted"
    assert command("schedules", "apply", module, "--prune").stdout == "nightly unchanged\nweekly deleted\n"
    assert names(server) == ["by-hand", "elsewhere", "nightly", "of-another-module"]


def test_prune_of_a_module_that_declares_none_any_more_deletes_its_last(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY)
    command("schedules", "apply", module)
    write(TASKS, name=module)
    assert command("schedules", "apply", module, "--prune").stdout == "nightly deleted\n"
    result = command("schedules", "apply", module, "--prune")
    said = f"Module {module} declares no schedules, and there is none of an earlier apply.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", said)


@pytest.mark.parametrize("annotations", [None, {DECLARED_BY: "jobs.other"}, {"team": "a"}])
def test_what_somebody_else_made_is_taken_over_by_force_only(
    server: Server, command: Command, write: Write, annotations: dict[str, str] | None
) -> None:
    theirs = {"cron": "* * * * *", "job": {"command": ["backup"]}}
    server.put("questschedules", "nightly", theirs, annotations=annotations)
    module = write(TASKS, NIGHTLY, WEEKLY)
    refused = command("schedules", "apply", module, "--prune")
    owned = annotations is not None and DECLARED_BY in annotations
    made_by = "an apply of module jobs.other" if owned else "something else than an apply"
    assert (refused.exit_code, refused.stdout) == (2, "weekly created\n")
    assert refused.stderr == (
        f"questline: nightly not applied: there is one that {made_by} made: choose another name, or take it over "
        "with --force\nquestline: nothing is pruned, because not all were applied\n"
    )
    assert spec_of(server, "nightly") == theirs
    forced = command("schedules", "apply", module, "--force").stdout.splitlines()[0]
    source = "module jobs.other" if owned else "something else"
    assert forced.startswith(f"nightly configured (taken over from {source}, cron, ")
    assert set(spec_of(server, "nightly")["job"]) == {"task", "queue", "maxAttempts", "args"}
    assert command("schedules", "apply", module).stdout == "nightly unchanged\nweekly unchanged\n"


def test_an_annotation_that_somebody_adds_meanwhile_is_not_lost(server: Server, command: Command, write: Write) -> None:
    theirs = {"cron": "* * * * *", "job": {"command": ["backup"]}}
    server.put("questschedules", "nightly", theirs)
    module = write(TASKS, NIGHTLY)

    def annotate(method: str, _path: str) -> None:
        if method == "PATCH":
            server.put("questschedules", "nightly", theirs, annotations={"team": "a"})

    server.refuse = annotate
    assert command("schedules", "apply", module, "--force").exit_code == 2
    server.refuse = lambda _method, _path: None
    assert command("schedules", "apply", module, "--force").exit_code == 0
    (schedule,) = server.objects.values()
    assert schedule["metadata"]["annotations"] == {"team": "a", DECLARED_BY: module}


def test_a_refusal_is_a_line_with_the_servers_words_and_the_others_are_applied(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY, WEEKLY)
    command("schedules", "apply", module)
    server.refuse = lambda method, path: (
        (422, "Invalid", "spec.cron: 22-4 is no hour") if method == "PATCH" and "/nightly" in path else None
    )
    result = command("schedules", "apply", module)
    assert (result.exit_code, result.stdout) == (2, "weekly unchanged\n")
    assert result.stderr == (
        "questline: nightly not applied: the API server refused to patch Schedule shop/nightly (422 Invalid): "
        "spec.cron: 22-4 is no hour\n"
    )


def test_rights_that_are_missing_and_a_namespace_that_is_are_said(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY)
    server.refuse = lambda method, _path: (403, "Forbidden", "cannot create") if method == "POST" else None
    said = command("schedules", "apply", module).stderr
    assert said == "questline: nightly not applied: you may not create Schedule shop/nightly: cannot create\n"
    gone = (404, "NotFound", 'namespaces "shop" not found')
    server.refuse = lambda method, _path: gone if method == "POST" else None
    said = command("schedules", "apply", module).stderr
    assert 'refused to create Schedule shop/nightly (404 NotFound): namespaces "shop" not found' in said


def test_one_that_comes_while_it_is_made_is_looked_at_again(server: Server, command: Command, write: Write) -> None:
    """Made by a try of ours whose answer was lost, or by somebody else: whose it is says which."""
    module = write(TASKS, NIGHTLY)

    def comes(owner: str) -> None:
        def refuse(method: str, _path: str) -> None:
            if method == "POST":
                annotations = {DECLARED_BY: owner}
                server.put("questschedules", "nightly", {"cron": "* * * * *"}, annotations=annotations)

        server.refuse = refuse

    comes("jobs.other")
    assert "nightly not applied: there is one that an apply of" in command("schedules", "apply", module).stderr
    server.remove("questschedules", "nightly")
    comes(module)
    assert command("schedules", "apply", module).stdout.startswith("nightly configured (")


def test_one_that_takes_the_place_of_what_was_looked_at_is_left_alone(
    server: Server, command: Command, write: Write
) -> None:
    module = write(TASKS, NIGHTLY)
    command("schedules", "apply", module)

    def replaced(method: str, _path: str) -> None:
        if method == "PATCH":
            server.put("questschedules", "nightly", {"cron": "* * * * *"})["metadata"]["uid"] = "another"

    server.refuse = replaced
    result = command("schedules", "apply", module)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nightly not applied: the API server refused to patch Schedule shop/nightly (422 Invalid)" in result.stderr
    assert spec_of(server, "nightly") == {"cron": "* * * * *"}


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_output_is_what_the_api_has_and_what_a_module_prints_is_no_part_of_it(
    server: Server, command: Command, write: Write, dry_run: tuple[str, ...]
) -> None:
    module = write(TASKS, NIGHTLY, WEEKLY, "print('imported')\n")
    result = command("schedules", "apply", module, "-o", "json", *dry_run)
    listed = json.loads(result.stdout)
    assert [one["metadata"]["name"] for one in listed["items"]] == ["nightly", "weekly"]
    assert listed["items"][0]["spec"]["timeZone"] == "Europe/Berlin"
    assert result.stderr == "imported\n"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([TASKS], "module {m} declares no schedules"),
        ([TASKS, NIGHTLY, NIGHTLY], "module {m} declares 'nightly' 2 times, in lines 7, 10: rename all but one"),
        (["import no_such_module\n"], "module {m} cannot be imported: ModuleNotFoundError: No module named"),
        (["x = 1\nx.y\n"], "module {m} cannot be imported: AttributeError: 'int' object has no attribute 'y' ("),
        (["def f(:\n"], "module {m} cannot be imported: SyntaxError: invalid syntax"),
        (["import sys; sys.exit(3)\n"], "module {m} cannot be imported: SystemExit: 3"),
        (["open('/no/such')\n"], "module {m} cannot be imported: FileNotFoundError: [Errno 2] No such file"),
        (
            [TASKS, NIGHTLY.replace("30 2 * * *", "* * *")],
            "module {m} cannot be imported: OptionInvalid: schedule nightly: cron is '* * *': five fields are needed",
        ),
    ],
)
def test_what_is_wrong_with_the_module_is_one_line(
    server: Server, command: Command, write: Write, parts: list[str], said: str
) -> None:
    module = write(*parts)
    result = command("schedules", "apply", module)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"questline: {said.replace('{m}', module)}")
    assert result.stderr.count("\n") == 1
    assert writes(server) == []


def test_an_error_of_the_module_is_told_with_its_place(server: Server, command: Command, write: Write) -> None:
    helper = write("\ndef fails() -> None:\n    raise ValueError('two\\nlines')\n")
    module = write(f"from {helper} import fails\nfails()\n")
    place = f"({Path.cwd() / helper}.py, line 3)"
    said = f"questline: module {module} cannot be imported: ValueError: two lines {place}\n"
    assert command("schedules", "apply", module).stderr == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "there is no module 'nowhere': it is looked for from /"),
        ("nowhere.at.all", "there is no module 'nowhere': it is looked for from /"),
        ("jobs/nightly.py", "'jobs/nightly.py' names no module: package.module is needed"),
        ("jobs:nightly", "'jobs:nightly' names no module: package.module is needed"),
        ("", "'' names no module: package.module is needed"),
    ],
)
def test_a_module_that_is_none_is_said(server: Server, command: Command, write: Write, name: str, said: str) -> None:
    result = command("schedules", "apply", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"questline: {said}")


def test_a_module_that_only_imports_declarations_points_to_theirs(
    server: Server, command: Command, write: Write
) -> None:
    declares = write(TASKS, NIGHTLY)
    (Path.cwd() / "imports_it.py").write_text(f"from {declares} import nightly\n")
    said = command("schedules", "apply", "imports_it").stderr
    assert said == f"questline: module imports_it declares no schedules; {declares} does: name that one\n"
    sys.modules.pop("imports_it")


# The list, suspend and resume


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def ready(status: str, message: str = "") -> list[dict[str, Any]]:
    return [{"type": "Ready", "status": status, "message": message}]


def test_schedules_lists_them_with_their_last_and_next_tick(server: Server, command: Command) -> None:
    status = {"conditions": ready("True"), "lastTick": "2026-01-30T01:30:00Z", "nextTick": "2026-01-31T01:30:00Z"}
    spec = {"cron": "@", "timeZone": "Europe/Berlin"}
    server.put("questschedules", "nightly", spec, status=status)
    server.put("questschedules", "new", {"cron": "@", "suspend": True}, namespace="other")
    table = words(command("schedules").stdout)
    assert table[0] == ["NAME", "CRON", "ZONE", "SUSPEND", "READY", "LAST", "NEXT", "AGE"]
    name, cron, zone, suspend, is_ready, _, following, _ = table[1]
    assert (name, cron, zone, suspend, is_ready) == ("nightly", "@", "Europe/Berlin", "false", "True")
    assert following == "2026-01-31T01:30:00Z"
    everywhere = words(command("schedules", "-A").stdout)
    assert [row[:2] for row in everywhere] == [["NAMESPACE", "NAME"], ["shop", "nightly"], ["other", "new"]]
    assert everywhere[2][2:5] == ["@", "UTC", "true"]


def test_schedules_says_why_one_is_not_ready(server: Server, command: Command) -> None:
    message = "spec.cron '0 0 31 2 *' has no tick"
    server.put("questschedules", "never", {"cron": "@"}, status={"conditions": ready("False", message)})
    lines = command("schedules").stdout.splitlines()
    assert lines[0].endswith("MESSAGE")
    assert lines[1].endswith(message)


def test_schedules_as_json_is_what_the_api_has(server: Server, command: Command) -> None:
    server.put("questschedules", "nightly", {"cron": "* * * * *"})
    listed = json.loads(command("schedules", "-o", "json").stdout)
    assert [(one["kind"], one["metadata"]["name"]) for one in listed["items"]] == [("Schedule", "nightly")]


def test_no_schedules_are_said_beside_an_empty_output(server: Server, command: Command) -> None:
    result = command("schedules")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No Schedules found in namespace shop.\n")


def test_suspend_and_resume_set_the_field(server: Server, command: Command) -> None:
    for name in ("a", "b"):
        server.put("questschedules", name, {"cron": "* * * * *"})
    assert command("schedules", "suspend", "a", "b").stdout == "a suspended\nb suspended\n"
    assert command("schedules", "resume", "a").stdout == "a resumed\n"
    first, second, last = server.patches()
    assert sorted([first, second], key=str) == [(name, {"spec": {"suspend": True}}) for name in ("a", "b")]
    assert last == ("a", {"spec": {"suspend": False}})


def test_a_schedule_that_does_not_exist_is_named_and_the_others_are_suspended(server: Server, command: Command) -> None:
    server.put("questschedules", "a", {"cron": "* * * * *"})
    missing = command("schedules", "suspend", "c", "a")
    assert (missing.exit_code, missing.stdout) == (2, "a suspended\n")
    assert missing.stderr.startswith("questline: c not suspended: there is no Schedule shop/c (")


@pytest.mark.parametrize(
    "line",
    [
        ("-n", "other", "schedules", "suspend", "a"),
        ("schedules", "-n", "other", "suspend", "a"),
        ("schedules", "suspend", "a", "-n", "other"),
        ("-n", "first", "schedules", "-n", "second", "suspend", "-n", "other", "a"),
    ],
)
def test_the_namespace_is_given_in_any_place_the_last_one_counts(
    server: Server, command: Command, line: tuple[str, ...]
) -> None:
    server.put("questschedules", "a", {"cron": "* * * * *"}, namespace="other")
    assert command(*line).stdout == "a suspended\n"


def test_what_is_for_the_list_is_refused_before_another_command(server: Server, command: Command) -> None:
    result = command("schedules", "-A", "-o", "json", "suspend", "a")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "questline: ahead of suspend only --kubeconfig, --context and --namespace may stand: put the others behind it\n"
    )
