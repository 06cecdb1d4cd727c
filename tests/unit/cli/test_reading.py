"""`get`, `queues` and `why`, and what is said where the cluster says no."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from questline.cli import cluster
from questline.cli.output import duration
from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_get_lists_the_jobs_of_the_contexts_namespace_in_kubectls_columns(server: Server, command: Command) -> None:
    server.job("resize-1", "Running", {"queue": "media", "task": "media.tasks:resize"}, attempt=2)
    server.job("resize-2", "Failed", reason="TaskError", message="no", attempt=5)
    server.job("elsewhere", namespace="other")
    result = command("get")
    assert result.exit_code == 0
    table = words(result.stdout)
    assert table[0] == ["NAME", "STATE", "REASON", "QUEUE", "TASK", "ATTEMPT", "AGE"]
    assert table[1][:5] == ["resize-1", "Running", "media", "media.tasks:resize", "2"]
    assert table[2][:6] == ["resize-2", "Failed", "TaskError", "default", "tasks:work", "5"]
    assert len(table) == 3


def test_get_chooses_by_queue_state_and_label_at_the_server(server: Server, command: Command) -> None:
    server.job("a", "Running", {"queue": "media"}, labels={"app": "shop"})
    server.job("b", "Running", {"queue": "mail"}, labels={"app": "shop"})
    server.job("c", "Waiting", {"queue": "media"})

    def names(*args: str) -> list[str]:
        return [line[0] for line in words(command("get", *args).stdout)[1:]]

    assert names("--queue", "media") == ["a", "c"]
    assert names("--state", "running") == ["a", "b"]
    assert names("-l", "app=shop", "-q", "media") == ["a"]
    assert names("c") == ["c"]


def test_get_reads_all_pages(server: Server, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PAGE", 2)
    for number in range(5):
        server.job(f"job-{number}")
    assert len(words(command("get").stdout)) == 6


def test_get_of_all_namespaces_has_a_column_for_them(server: Server, command: Command) -> None:
    server.job("a")
    server.job("b", namespace="other")
    assert [line[:2] for line in words(command("get", "-A").stdout)] == [
        ["NAMESPACE", "NAME"],
        ["shop", "a"],
        ["other", "b"],
    ]


@pytest.mark.parametrize(("flag", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_output_as_json_or_yaml_is_what_the_api_has(
    server: Server, command: Command, flag: str, parse: Callable[[str], Any]
) -> None:
    server.job("a", result={"text": "ä", "n": [1, None]})
    one = parse(command("get", "a", "-o", flag).stdout)
    assert (one["kind"], one["metadata"]["name"], one["status"]["result"]["text"]) == ("Job", "a", "ä")
    assert "managedFields" not in one["metadata"]
    many = parse(command("get", "-o", flag).stdout)
    assert (many["kind"], [(item["kind"], item["metadata"]["name"]) for item in many["items"]]) == (
        "List",
        [("Job", "a")],
    )
    server.put("questqueues", "media")
    assert parse(command("queues", "media", "-o", flag).stdout)["metadata"]["name"] == "media"


def test_nothing_found_is_said_beside_an_empty_output(server: Server, command: Command) -> None:
    result = command("get")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No Jobs found in namespace shop.\n")
    assert command("queues", "-A").stderr == "No Queues found in any namespace.\n"


def test_queues_shows_what_runs_and_waits(server: Server, command: Command) -> None:
    server.put("questqueues", "media", {"concurrency": 4, "paused": True}, status={"running": 2, "waiting": 17})
    table = words(command("queues").stdout)
    assert table[0] == ["NAME", "CONCURRENCY", "RUNNING", "WAITING", "PAUSED", "AGE"]
    assert table[1][:5] == ["media", "4", "2", "17", "true"]


@pytest.mark.parametrize(
    "place", [("--namespace", "other", "get"), ("get", "-n", "other"), ("get", "--namespace=other")]
)
def test_the_namespace_is_given_before_or_after_the_commands_name(
    server: Server, command: Command, place: tuple[str, ...]
) -> None:
    server.job("b", namespace="other")
    assert words(command(*place).stdout)[1][0] == "b"


def test_a_context_without_a_namespace_means_default(server: Server, command: Command) -> None:
    server.job("d", namespace="default")
    assert words(command("get", "--context", "plain").stdout)[1][0] == "d"
    assert words(command("--context", "plain", "get").stdout)[1][0] == "d"


def test_why_counts_what_is_before_a_job(server: Server, command: Command) -> None:
    server.put("questqueues", "media", {"concurrency": 2})
    ready = [{"type": "Ready", "status": "True", "observedGeneration": 1}]
    server.put("questworkers", "default", {"image": "i"}, status={"conditions": ready})
    for number in range(2):
        server.job(f"run-{number}", "Running", {"queue": "media"}, attempt=1, startedAt="2026-01-31T08:00:00Z")
    for number in range(4):
        server.job(f"wait-{number}", "Waiting", {"queue": "media"})
    result = command("why", "wait-3")
    assert result.stdout == "wait-3 waits for a slot: queue media runs 2 of 2, 3 before it\n"
    said = json.loads(command("why", "wait-3", "-o", "json").stdout)
    assert said == {
        "job": "wait-3",
        "namespace": "shop",
        "state": "Waiting",
        "reason": "AtConcurrencyLimit",
        "sentence": "waits for a slot: queue media runs 2 of 2, 3 before it",
    }


def test_why_says_in_how_long(server: Server, command: Command) -> None:
    server.put("questqueues", "default")
    server.job("later", spec={"runAt": "2998-01-01T00:00:00Z"})
    result = command("why", "later")
    assert result.stdout.startswith("later waits until 2998-01-01T00:00:00.000000Z, its spec.runAt (in ")


def test_why_does_without_pods_where_they_may_not_be_listed(server: Server, command: Command) -> None:
    server.put("questqueues", "default")
    server.job("held", spec={"suspend": True})
    server.refuse = lambda _method, path: (403, "Forbidden", "pods is forbidden") if "/pods" in path else None
    result = command("why", "held")
    assert (result.exit_code, result.stdout) == (0, "held is held: spec.suspend is true\n")
    assert "pods are not looked at: you may not list pods of namespace shop: pods is forbidden" in result.stderr


WHERE = "(context shop of "
FORBIDDEN = (403, "Forbidden", 'User "eve" cannot list resource')
UNKNOWN = (404, "NotFound", "the server could not find the requested resource")


@pytest.mark.parametrize("name", ["get", "why", "tree", "logs", "wait", "cancel"])
def test_a_job_that_does_not_exist_is_named_with_where_it_was_looked_for(
    server: Server, command: Command, name: str
) -> None:
    result = command(name, "x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"questline: there is no Job shop/x {WHERE}")


@pytest.mark.parametrize("name", ["", "my job", "jöb", "a/status", "job.questline.dev/a", "a?watch=1"])
@pytest.mark.parametrize("by", ["get", "why", "tree", "logs", "wait", "cancel", "rerun", "pause", "schedules suspend"])
def test_what_can_be_no_name_is_said_to_be_none(server: Server, command: Command, by: str, name: str) -> None:
    server.job("a", "Running")
    result = command(*by.split(), name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{name!r} is no name of a " in result.stderr
    assert not server.seen


def test_what_can_be_no_namespace_is_said_to_be_none(server: Server, command: Command) -> None:
    result = command("get", "-n", "läden")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("questline: 'läden' is no name of a namespace: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("get",), "has no questjobs: install Questline there (helm install), or give another --context"),
        (("why", "a"), "has no questjobs: install Questline there (helm install), or give another --context"),
        (("wait", "a"), "has no questjobs: install Questline there (helm install), or give another --context"),
        (("pause", "a"), "has no questqueues: install Questline there (helm install), or give another --context"),
        (("enqueue", "tasks:work"), "404 page not found; is Questline installed on this cluster?"),
    ],
)
def test_a_cluster_without_questline_is_told_from_one_without_that_job(
    server: Server, command: Command, args: tuple[str, ...], said: str
) -> None:
    server.refuse = lambda _method, _path: (404, "", "404 page not found")
    result = command(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (FORBIDDEN, 'you may not list questjobs of namespace shop: User "eve" cannot list resource'),
        (UNKNOWN, "has no questjobs: install Questline there (helm install), or give another --context"),
        ((422, "Invalid", "no"), "the API server refused to list questjobs of namespace shop (422 Invalid): no"),
    ],
)
def test_a_refusal_is_said_in_the_api_servers_words(
    server: Server, command: Command, refusal: tuple[int, str, str], said: str
) -> None:
    server.refuse = lambda _method, _path: refusal
    result = command("get")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("questline: ")
    assert said in result.stderr


def test_an_api_server_that_does_not_answer_is_named(
    server: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TRY_SECONDS", 0.3)
    server.refuse = lambda _method, _path: (503, "ServiceUnavailable", "starting")
    result = command("get")
    assert result.exit_code == 2
    assert result.stderr.startswith("questline: the API server of context shop of ")
    assert "does not answer: tried" in result.stderr
    assert "503 starting" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("get", "a", "-q", "media"), "names of Jobs go without --queue, --state, --selector and --all-namespaces"),
        (("queues", "a", "-A"), "names of Queues go without --all-namespaces: leave it out"),
        (("get", "--state", "Done"), "'Done' is no state: there are Waiting, Starting, Running, Succeeded"),
        (("get", "-o", "xml"), "'xml' is not one of 'json', 'yaml'"),
        (("gett",), "No such command 'gett'"),
        (("why",), "Missing argument 'JOB'"),
    ],
)
def test_a_mistake_of_usage_is_said_and_ends_with_2(
    server: Server, command: Command, args: tuple[str, ...], said: str
) -> None:
    result = command(*args)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (119, "119s"), (190, "3m10s"), (7200, "2h"), (7260, "2h1m"), (86_400, "24h"), (273_600, "3d4h")],
)
def test_a_time_span_is_said_as_kubectl_does(seconds: float, said: str) -> None:
    assert duration(seconds) == said
