"""Bad input on the real kubelet: each ends in a state and a line that a person understands (behaviour 10)."""

import re
from typing import Any

import pytest

from questline_operator.core.states import State
from tests.live import Live, a_worker

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a module that cannot be imported": ({"task": "nowhere:work"}, "TaskNotFound", r"nowhere"),
    "a function that does not exist": ({"task": "tasks:nothing"}, "TaskNotFound", r"nothing"),
    "a function that is no task": ({"task": "tasks:not_registered"}, "TaskNotFound", r"not_registered.*@job"),
    "args that do not bind": ({"task": "tasks:two_arguments", "args": {"first": 1}}, "ArgsInvalid", r"second"),
    "args of the wrong type": (
        {"task": "tasks:two_arguments", "args": {"first": "x", "second": "y"}},
        "ArgsInvalid",
        r"first",
    ),
    "args of 200 KiB": (
        {"task": "tasks:work", "args": {"value": "x" * 200 * 1024}},
        "ArgsTooLarge",
        r"spec\.args holds \d+ bytes.*131072",
    ),
    "a result of 1 MiB": ({"task": "tasks:huge_result"}, "ResultInvalid", r"store it"),
    "a result that is not JSON": ({"task": "tasks:no_json"}, "ResultInvalid", r"object"),
    "an exception with a message of 1 MB": ({"task": "tasks:huge_error"}, "TaskError", r"ValueError: x+"),
    "sys.exit(3)": ({"task": "tasks:exits"}, "TaskError", r"SystemExit.*3"),
    "os._exit(0)": ({"task": "tasks:leaves"}, "NoOutcome", r"exited with code 0 without an outcome"),
    "a segfault": ({"task": "tasks:segfaults"}, "NoOutcome", r"SIGSEGV"),
    "out of memory": (
        {"task": "tasks:eats_memory", "resources": {"limits": {"memory": "64Mi"}}},
        "OOMKilled",
        r"memory",
    ),
    "a timeout": ({"task": "tasks:work", "args": {"seconds": 600}, "timeoutSeconds": 3}, "Timeout", r"timeoutSeconds"),
    "a timeout that ignores SIGTERM": (
        {"task": "tasks:ignores_sigterm", "timeoutSeconds": 3},
        "Timeout",
        r"timeoutSeconds",
    ),
    "an image that does not exist": (
        {"image": "questline.dev/none:1", "command": ["x"], "worker": "impatient"},
        "StartTimeout",
        r"not started within 10 s: .*(pull|present)",
    ),
    "an image name that is none": ({"image": "NOT/an image", "command": ["x"]}, "StartTimeout", r"image"),
    "a command that does not exist": (
        {"image": "questline.dev/worker:dev", "command": ["/no/such/program"]},
        "NonZeroExit",
        r"/no/such/program",
    ),
    "a command that fails": (
        {"image": "questline.dev/worker:dev", "command": ["sh", "-c", "echo no such table >&2; exit 3"]},
        "NonZeroExit",
        r"exited with code 3: no such table",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_bad_input_ends_failed_with_a_line_that_says_why(live: Live, case: str) -> None:
    spec, reason, message = CASES[case]
    if spec.get("worker") == "impatient":
        await live.apply(a_worker("impatient", startTimeoutSeconds=10))
    spec = {"maxAttempts": 1, **spec}
    await live.apply({"kind": "Job", "metadata": {"name": "bad"}, "spec": spec})
    (job,) = await live.history.settled("bad", seconds=180)
    text = job.status["message"]
    assert (job.state, job.reason) == (State.FAILED, reason), text
    assert re.search(message, text), text
    assert "\n" not in text
    assert len(text) <= 600


async def test_a_hundred_megabytes_of_output_hurt_nobody(live: Live) -> None:
    await live.job("loud", "tasks:shouts", maxAttempts=1)
    (job,) = await live.history.settled("loud", seconds=180)
    assert (job.state, job.status["result"]) == (State.SUCCEEDED, "done")
