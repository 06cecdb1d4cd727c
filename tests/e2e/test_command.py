"""The command `questline` against a real cluster, in processes of its own."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from questline_operator.core.states import State
from tests.live import Live, a_queue

TASKS = Path(__file__).parent
N = "$QUESTLINE_ATTEMPT"
COUNTS = ["sh", "-c", f"echo attempt {N}; sleep 1; echo end of {N}; [ {N} -ge 3 ]"]


class Command:
    """Runs it in one namespace.

    Attributes:
        program: what is run; `kubectl questline` where a test says so.
    """

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig, self.namespace = kubeconfig, namespace
        self.program = [sys.executable, "-m", "questline.cli.main"]

    async def __call__(self, *args: str, status: int = 0) -> tuple[str, str]:
        """What it prints to its output and to standard error; it has to end with this exit status."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = await asyncio.create_subprocess_exec(
            *self.program,
            *args,
            "--namespace",
            self.namespace,
            env={**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig), "PYTHONPATH": str(TASKS)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == status, (args, process.returncode, out.decode(), err.decode())
        assert b"Traceback" not in out + err
        return out.decode(), err.decode()


@pytest.fixture
def command(live: Live, installed: Path) -> Command:
    return Command(installed, live.namespace)


async def test_a_job_is_enqueued_waited_for_and_read(live: Live, command: Command) -> None:
    args = {"seconds": 0.1, "value": {"a": [1, None]}}
    name = (await command("enqueue", "tasks:work", json.dumps(args)))[0].strip()
    assert (await command("wait", name, "--timeout", "1m"))[0] == f"{name} Succeeded\n"
    job = json.loads((await command("get", name, "-o", "json"))[0])
    assert (job["kind"], job["status"]["result"]) == ("Job", {"a": [1, None]})
    out, _ = await command("get", "--state", "Succeeded")
    assert out.splitlines()[1].split()[:2] == [name, "Succeeded"]
    assert (await command("why", name))[0].startswith(f"{name} succeeded at ")
    command.program = ["kubectl", "questline"]
    # What a Queue's status counts may be two seconds old.
    assert (await command("queues"))[0].splitlines()[1].split()[:2] == ["default", "10"]


async def test_the_exit_status_of_wait_is_the_jobs_end(live: Live, command: Command) -> None:
    key = {"key": "one"}
    await live.job("fails", "tasks:steers", args={"how": "Fail"})
    await live.job("cancels", "tasks:steers", args={"how": "Cancel"})
    await live.job("first", unique=key, args={"seconds": 3})
    await live.history.until(lambda: live.history.has("first") and live.history.job("first").attempt == 1)
    await live.job("second", unique=key)
    await live.job("slow", args={"seconds": 60})
    out, _ = await command("wait", "fails", status=1)
    assert out == "fails Failed (Fail): no further attempt would help\n"
    assert (await command("wait", "cancels", status=3))[0] == "cancels Canceled (Raised): no longer wanted\n"
    await command("wait", "second", status=4)
    assert "slow has not ended in 1 s: it is" in (await command("wait", "slow", "--timeout", "1s", status=124))[1]
    await command("wait", "nothing", status=2)


async def test_a_job_that_failed_is_rerun(live: Live, command: Command) -> None:
    await live.job("again", "tasks:steers", maxAttempts=1, args={"how": "Retry", "times": 1})
    await command("wait", "again", status=1)
    assert (await command("rerun", "--all", "--dry-run"))[0] == "again (Failed, queue default) would be run again\n"
    assert (await command("rerun", "again"))[0] == "again run again\n"
    await live.history.until(lambda: live.history.job("again").state is not State.FAILED)
    await command("wait", "again")
    assert live.history.job("again").attempt == 2


async def test_tree_follows_a_fan_out_to_its_end(live: Live, command: Command) -> None:
    await live.job("root", "tasks:fans_out", args={"children": 4, "seconds": 0.5})
    out, _ = await command("tree", "root", "--follow")
    lines = out.splitlines()
    assert lines[-1] == "5 of 5 ended, 5 Succeeded"
    assert lines[-6].split()[:2] == ["root", "Succeeded"]
    assert sum(line.startswith(("├── work-", "└── work-")) for line in lines) == 4
    once, _ = await command("tree", "root", "--once")
    assert once.splitlines() == lines[-6:]


async def test_logs_follows_from_one_attempt_to_the_next(live: Live, command: Command) -> None:
    backoff = {"type": "Fixed", "baseSeconds": 0, "maxSeconds": 1, "jitter": 0}
    await live.job("counts", command=COUNTS, backoff=backoff)
    out, err = await command("logs", "counts", "--follow")
    assert out.splitlines() == [line for n in (1, 2, 3) for line in (f"attempt {n}", f"end of {n}")]
    assert err.count("--- attempt ") == 2
    assert live.history.job("counts").attempt == 3
    again, _ = await command("logs", "counts")
    assert again == out
    assert (await command("logs", "counts", "--attempt", "2"))[0] == "attempt 2\nend of 2\n"


async def test_why_says_what_holds_a_job_up_and_what_runs(live: Live, command: Command) -> None:
    await live.apply(a_queue("narrow", concurrency=1))
    for number in range(3):
        await live.job(f"job-{number}", queue="narrow", args={"seconds": 60})
        await live.history.until(lambda number=number: live.history.has(f"job-{number}"))  # type: ignore[misc]
    await live.job("pulls", image="questline.dev/does-not-exist:1", command=["true"])
    await live.job("held", suspend=True)
    await live.history.until(lambda: any(pod.started for pod in live.history.pods()))
    await live.history.until(
        lambda: any(pod.job == "pulls" and "Image" in pod.waiting_reason for pod in live.history.pods())
    )
    waiting = [job.name for job in live.history.jobs() if job.queue == "narrow" and not job.attempt]
    said = sorted([(await command("why", name))[0].partition(" ")[2] for name in waiting])
    assert said == [f"waits for a slot: queue narrow runs 1 of 1, {before} before it\n" for before in range(2)]
    (running,) = (job.name for job in live.history.jobs() if job.queue == "narrow" and job.attempt)
    out, _ = await command("why", running)
    assert out.startswith(f"{running} runs its attempt 1 for ")
    assert out.endswith("of Worker default, 0 of 5 failures so far\n")
    assert "cannot start its attempt 1 yet: " in (await command("why", "pulls"))[0]
    assert (await command("why", "held"))[0] == "held is held: spec.suspend is true\n"
    await command("pause", "narrow")
    assert "is paused: 1 of its Jobs run on, 2 wait" in (await command("why", waiting[0]))[0]
    out, _ = await command("cancel", "--queue", "narrow", "--dry-run")
    assert len(out.splitlines()) == 3
    assert not any(job.spec.get("cancel") for job in live.history.jobs())
    await command("cancel", "--all")
    jobs = await live.history.settled()
    assert {job.state for job in jobs} == {State.CANCELED}


async def test_a_viewer_may_ask_why_and_is_told_what_else_it_may_not(
    live: Live, command: Command, tmp_path: Path
) -> None:
    await live.job("held", suspend=True)
    command.kubeconfig = await viewer(live, command.kubeconfig, tmp_path)
    assert (await command("why", "held"))[0] == "held is held: spec.suspend is true\n"
    _, err = await command("cancel", "held", status=2)
    assert err.startswith(f"questline: held not canceled: you may not patch Job {live.namespace}/held: ")
    assert "cannot patch resource" in err
    _, err = await command("enqueue", "tasks:work", status=2)
    assert "the API server refused Job work-" in err
    assert "403 Forbidden" in err


async def viewer(live: Live, admin: Path, folder: Path) -> Path:
    """A kubeconfig of a service account with the ClusterRole `view` in the namespace."""

    async def kubectl(*args: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "kubectl", f"--kubeconfig={admin}", f"--namespace={live.namespace}", *args, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().strip()

    await kubectl("create", "serviceaccount", "viewer")
    account = f"--serviceaccount={live.namespace}:viewer"
    await kubectl("create", "rolebinding", "viewer", "--clusterrole=view", account)
    check = ("auth", "can-i", "list", "questjobs.questline.dev", f"--as=system:serviceaccount:{live.namespace}:viewer")
    async with asyncio.timeout(20):  # the authorizer reads a new binding a moment later
        while await kubectl_says_no(admin, live.namespace, *check):
            pass
    config = yaml.safe_load(await kubectl("config", "view", "--raw"))
    token = await kubectl("create", "token", "viewer")
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    file = folder / "viewer"
    file.write_text(yaml.safe_dump(config))
    return file


async def kubectl_says_no(admin: Path, namespace: str, *args: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        "kubectl", f"--kubeconfig={admin}", f"--namespace={namespace}", *args, stdout=asyncio.subprocess.PIPE
    )
    await process.communicate()
    return process.returncode != 0
