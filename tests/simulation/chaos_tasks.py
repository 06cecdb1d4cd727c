"""What the code of attempts does in a life: the scripts of its plan, played through the simulation's SDK."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from questline_operator.shell.api import ApiError
from tests.simulation.chaos_scene import Scene
from tests.simulation.plan import Ask, Child, MakeSchedule, Script
from tests.simulation.sdk import (
    Attempt,
    Ended,
    FateUnknownError,
    canceled,
    exits,
    failed,
    fatal,
    retry,
    snoozed,
    succeeded,
)

CHILDREN = (3, 1)
"""So many children an attempt enqueues at most, by its Job's depth."""
LAST_SCRIPTED_ATTEMPT = 12
"""Later ones succeed: a script that always snoozes would never end."""
_ENDS: dict[str, Callable[[], Ended]] = {
    "failed": failed,
    "crashed": lambda: exits(3),
    "fatal": fatal,
    "canceled": canceled,
}


class Tasks:
    """Runs each attempt by the script of its Job and number.

    Attributes:
        told: how the code of each pod ended by itself, by the pod's UID.
        scripts_of: the scripts of Jobs that have no args, by name.
    """

    def __init__(self, scene: Scene) -> None:
        self.told: dict[str, str] = {}
        self.scripts_of: dict[str, Sequence[int]] = {}
        self._scene = scene

    async def work(self, attempt: Attempt) -> Ended:
        """A behaviour, see `sdk.Behaviour`."""
        numbers = self.scripts_of.get(attempt.job) or attempt.args.get("scripts") or (0,)
        scripts = self._scene.plan.scripts
        script = scripts[numbers[(attempt.number - 1) % len(numbers)] % len(scripts)]
        attempt.handles_sigterm = script.deaf or script.obeys
        self._scene.judge.see_inputs(attempt.payload["job"]["uid"], attempt.inputs)
        if script.obeys:
            with suppress(TimeoutError):
                await asyncio.wait_for(attempt.stopping.wait(), script.work)
        else:
            await attempt.work(script.work)
        if script.obeys and attempt.stopping.is_set():
            return exits(0)
        try:
            await self._enqueue_children(attempt, script)
        except (ApiError, FateUnknownError) as error:
            self.told[attempt.pod_uid] = "Failed"
            return failed(str(error), error=type(error).__name__) if attempt.task else exits(1)
        if not attempt.task:
            code = 0 if script.end == "succeeded" or attempt.number > LAST_SCRIPTED_ATTEMPT else 3
            self.told[attempt.pod_uid] = "Failed" if code else "Succeeded"
            return exits(code, '{"rows": 3}')
        return self._end(attempt, script)

    async def _enqueue_children(self, attempt: Attempt, script: Script) -> None:
        depth = attempt.payload["job"]["depth"]
        if depth >= len(CHILDREN):
            return
        last = attempt.job
        for child in script.children[: CHILDREN[depth]]:
            last = await self._enqueue(attempt, child, last)
        if script.stray and attempt.task:
            attempt.enqueue_unseen("tasks:work", args={"scripts": [0]})

    async def _enqueue(self, attempt: Attempt, child: Child, last: str) -> str:
        await attempt.work(child.pause)
        spec = limits(child) if child.key is None else {**limits(child), "key": child.key}
        if child.after:
            spec["after"] = [_dependency(one, attempt, last) for one in child.after]
            spec["afterPolicy"] = "Finished" if child.finished else "Succeeded"
        return await attempt.enqueue(
            "tasks:work",
            unique=unique(child.unique),
            staged=child.staged,
            group=child.group,
            queue=child.queue,
            args={"scripts": list(child.scripts)},
            **spec,
        )

    def _end(self, attempt: Attempt, script: Script) -> Ended:
        if script.end == "succeeded" or attempt.number > LAST_SCRIPTED_ATTEMPT:
            ended = succeeded({"by": attempt.pod_uid})
        elif script.end == "retry":
            ended = retry(script.delay)
        elif script.end == "snoozed":
            ended = snoozed(2.0 if script.delay is None else script.delay)
        else:
            ended = _ENDS[script.end]()
        self.told[attempt.pod_uid] = str(ended.outcome["outcome"]) if ended.outcome else "Failed"
        if ended.outcome is not None:
            self._scene.judge.delays[attempt.pod_uid] = ended.outcome.get("delaySeconds")
        return replace(ended, reports=script.reports, lingers=script.lingers)


def _dependency(text: str, attempt: Attempt, last: str) -> dict[str, str]:
    """An entry of `after`, see `plan.Child`."""
    kind, _, which = text.partition(":")
    names = {"last": last, "parent": attempt.job, "root": attempt.payload["job"]["root"], "other": "job-00"}
    return {kind: which if kind == "group" else names[which]}


def limits(job: Ask | Child | MakeSchedule) -> dict[str, Any]:
    """What a spec says of how long a Job may take, how long it is kept, and how often it is tried."""
    said = {
        "timeoutSeconds": job.timeout,
        "ttlSecondsAfterFinished": job.ttl,
        "maxAttempts": None if isinstance(job, MakeSchedule) else job.max_attempts,
    }
    return {field: value for field, value in said.items() if value is not None}


def unique(key: str | None) -> dict[str, Any] | None:
    """spec.unique: None for none, "" for the key of its args."""
    return None if key is None else {"key": key} if key else {}
