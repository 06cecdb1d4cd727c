"""`enqueue`: the Job that it makes, and what it says of each bad value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from questline.cli.enqueue import spec_of
from questline.options import Options
from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server

TASK = "media.tasks:resize"


def created(server: Server) -> dict[str, Any]:
    (body,) = [body for method, _, body in server.seen if method == "POST"]
    return dict(body)


def test_a_job_is_made_in_the_contexts_namespace_and_its_name_is_printed(server: Server, command: Command) -> None:
    result = command("enqueue", TASK, '{"picture": "p1", "width": 64}')
    assert result.exit_code == 0
    job = created(server)
    assert job["spec"] == {"task": TASK, "queue": "default", "args": {"picture": "p1", "width": 64}}
    assert (job["metadata"]["namespace"], result.stdout) == ("shop", f"{job['metadata']['name']}\n")
    assert job["metadata"]["name"].startswith("resize-")


def test_the_options_are_the_sdks(server: Server, command: Command) -> None:
    options = (
        "--queue media --worker big --image registry/app:1 --max-attempts 3 --backoff 30s --timeout 10m "
        "--run-at 2998-01-31T08:00:00+01:00 --priority -5 --ttl 1h --unique --window 1d --concurrency-key p1 "
        "--name resize-p1"
    )
    assert command("enqueue", TASK, *options.split()).stdout == "resize-p1\n"
    assert created(server)["metadata"]["name"] == "resize-p1"
    assert created(server)["spec"] == {
        "task": TASK,
        "queue": "media",
        "worker": "big",
        "image": "registry/app:1",
        "maxAttempts": 3,
        "backoff": {"baseSeconds": 30},
        "timeoutSeconds": 600,
        "runAt": "2998-01-31T07:00:00.000000Z",
        "priority": -5,
        "ttlSecondsAfterFinished": 3600,
        "unique": {"scope": "Window", "windowSeconds": 86_400},
        "key": "p1",
    }


def test_a_backoff_may_say_all_of_it(server: Server, command: Command) -> None:
    command("enqueue", TASK, "--backoff", '{"base": "30s", "max": "10m", "jitter": 0, "type": "Fixed"}')
    backoff = {"type": "Fixed", "baseSeconds": 30, "maxSeconds": 600, "jitter": 0}
    assert created(server)["spec"]["backoff"] == backoff


def test_unique_by_makes_the_key_that_the_sdk_makes(server: Server, command: Command) -> None:
    args = {"message": "m:1", "recipient": 2.0, "body": "b"}
    command("enqueue", TASK, json.dumps(args), "--unique-by", "message", "--unique-by", "recipient")
    assert created(server)["spec"]["unique"] == {"key": "m\\:1:2"}


def test_args_come_from_a_file_or_from_the_input(server: Server, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_text('{"from": "file"}')
    command("enqueue", TASK, f"@{file}", "--name", "a")
    command("enqueue", TASK, "-", "--name", "b", stdin='{"from": "input"}')
    args = [body["spec"]["args"] for method, _, body in server.seen if method == "POST"]
    assert args == [{"from": "file"}, {"from": "input"}]


def test_the_job_is_printed_as_the_api_has_it(server: Server, command: Command) -> None:
    job = json.loads(command("enqueue", TASK, "-o", "json").stdout)
    assert (job["kind"], job["spec"]["task"]) == ("Job", TASK)
    assert job["metadata"]["uid"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["resize"], "'resize' names no task: package.module:function is needed"),
        (["media/tasks.py:resize"], "'media/tasks.py:resize' names no task: package.module:function is needed"),
        ([TASK, "{width: 64}"], "the args are no JSON: Expecting property name enclosed in double quotes"),
        ([TASK, "[1]"], "the args are a list: a JSON object is needed, with the name of each parameter"),
        ([TASK, '"p1"'], "the args are a text: a JSON object is needed"),
        ([TASK, "3"], "the args are a number: a JSON object is needed"),
        ([TASK, "true"], "the args are true or false: a JSON object is needed"),
        ([TASK, "null"], "the args are null: a JSON object is needed"),
        ([TASK, '{"a": NaN}'], "the args hold NaN, which is no JSON"),
        ([TASK, '{"a": 1e999}'], "the args hold 1e999, which is beyond what a number can be"),
        ([TASK, '{"a": 9223372036854775808}'], "the args hold 9223372036854775808, which has over 64 bits"),
        ([TASK, '{"a":' * 2000 + "1" + "}" * 2000], "the args are nested too deeply"),
        ([TASK, json.dumps({"a": "x" * 131_072})], "the args are 131,080 bytes of JSON, 131,072 are allowed"),
        ([TASK, "@/no/such/file"], "the args cannot be read from /no/such/file: "),
        ([TASK, "--queue", "Media"], "queue is 'Media': a name of a-z, 0-9 and '-' is needed"),
        ([TASK, "--worker", "Big"], "worker is 'Big': the name of a Worker is needed"),
        ([TASK, "--image", "a b"], "image is 'a b': the name of a container image is needed"),
        ([TASK, "--max-attempts", "0"], "max_attempts is 0: an integer from 1 to 100 is needed"),
        ([TASK, "--max-attempts", "two"], "--max-attempts is 'two': an integer is needed"),
        ([TASK, "--priority", "1001"], "priority is 1001: an integer from -1000 to 1000 is needed"),
        ([TASK, "--priority", "1.5"], "--priority is '1.5': an integer is needed"),
        ([TASK, "--timeout", "soon"], "timeout is 'soon': give seconds, a text like \"1h30m\""),
        ([TASK, "--timeout", "1.5s"], "timeout is '1.5s': it counts whole seconds"),
        ([TASK, "--delay", "400d"], "delay is '400d': 0 to 31,622,400 seconds are allowed"),
        ([TASK, "--ttl", "-1"], "ttl is '-1': give seconds"),
        (
            [TASK, "--run-at", "tomorrow"],
            "--run-at is 'tomorrow': a moment such as 2026-01-31T08:00:00+01:00",
        ),
        ([TASK, "--run-at", "2998-01-31T08:00:00"], "it has no time zone"),
        ([TASK, "--delay", "1s", "--run-at", "2998-01-31T08:00:00Z"], "delay and run_at are both given"),
        ([TASK, "--backoff", "{"], "--backoff is no JSON: "),
        ([TASK, "--backoff", '{"bas": 1}'], "backoff.bas is 1: there is no such field"),
        ([TASK, "--window", "1d"], "window is 86400 seconds: it needs unique"),
        ([TASK, "--unique", "--unique-by", "a"], "--unique and --unique-by are both given"),
        ([TASK, '{"b": 1}', "--unique-by", "a"], "--unique-by names 'a', which is not among the args (b)"),
        (
            [TASK, json.dumps({"a": "x" * 1025}), "--unique-by", "a"],
            "--unique-by: the key has 1,025 characters, 1,024 are allowed",
        ),
        ([TASK, "--name", "A"], "name is 'A': a name of a-z, 0-9 and '-' is needed, at most 50 characters"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed_and_no_job_is_made(
    server: Server, command: Command, args: list[str], said: str
) -> None:
    result = command("enqueue", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("questline: ")
    assert said in result.stderr
    assert not [method for method, _, _ in server.seen if method == "POST"]


def test_a_name_that_is_taken_and_a_refusal_are_said(server: Server, command: Command) -> None:
    server.job("taken")
    result = command("enqueue", TASK, "--name", "taken")
    assert (result.exit_code, result.stderr) == (
        2,
        "questline: there is a Job shop/taken already: choose another name, or leave it out\n",
    )
    server.refuse = lambda _method, _path: (403, "Forbidden", "you may not create root Jobs")
    said = command("enqueue", TASK, "--name", "a").stderr
    assert said.startswith(
        f"questline: the API server refused Job a of {TASK} (403 Forbidden): you may not create root"
    )


def test_no_args_are_left_out_of_the_spec() -> None:
    assert spec_of(TASK, "{}", Options()) == {"task": TASK, "queue": "default"}


@pytest.mark.parametrize(
    "args",
    [
        ('{"a": "\\ud800"}',),
        ('{"\\ud800": 1}',),
        ('{"a": "\udcff"}',),
        ("{}", "--concurrency-key", "\udcff"),
        ('{"a": "\\ud800"}', "--unique-by", "a"),
    ],
)
def test_what_is_no_text_in_utf8_is_a_mistake_and_no_traceback(
    server: Server, command: Command, args: tuple[str, ...]
) -> None:
    result = command("enqueue", "tasks:work", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert not server.seen


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_input_that_is_no_utf8_is_a_mistake_and_no_traceback(server: Server, kubeconfig: Path, locale: str) -> None:
    code = "from questline.cli.main import main; main()"
    environ = {"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), "LC_ALL": locale}
    command = [sys.executable, "-c", code, "enqueue", "tasks:work", "-"]
    done = subprocess.run(command, input=b'{"a": "\xff"}', env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stdout, b"Traceback" in done.stderr) == (2, b"", False)


def test_args_that_the_operator_would_refuse_for_their_nesting_are_refused_here(
    server: Server, command: Command
) -> None:
    result = command("enqueue", "tasks:work", '{"a": ' + "[" * 150 + "]" * 150 + "}")
    assert (result.exit_code, "nested too deeply" in result.stderr) == (2, True)
    assert not server.seen
