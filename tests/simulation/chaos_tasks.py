"""What the code of attempts does in a life: the scripts of its plan, played through the simulation's SDK."""

from collections.abc import Callable, Sequence
from typing import Any

from questline_operator.shell.api import ApiError
from tests.simulation.chaos_scene import Scene
from tests.simulation.plan import Child, Script
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
        attempt.handles_sigterm = script.deaf
        self._scene.judge.see_inputs(attempt.payload["job"]["uid"], attempt.inputs)
        await attempt.work(script.work)
        if not attempt.task:
            code = 0 if script.end == "succeeded" or attempt.number > LAST_SCRIPTED_ATTEMPT else 3
            self.told[attempt.pod_uid] = "Failed" if code else "Succeeded"
            return exits(code, '{"rows": 3}')
        depth = attempt.payload["job"]["depth"]
        if depth < len(CHILDREN):
            try:
                last = attempt.job
                for child in script.children[: CHILDREN[depth]]:
                    last = await self._enqueue(attempt, child, last)
            except (ApiError, FateUnknownError) as error:
                self.told[attempt.pod_uid] = "Failed"
                return failed(str(error), error=type(error).__name__)
            if script.stray:
                attempt.enqueue_unseen("tasks:work", args={"scripts": [0]})
        return self._end(attempt, script)

    async def _enqueue(self, attempt: Attempt, child: Child, last: str) -> str:
        await attempt.work(child.pause)
        spec: dict[str, Any] = {} if child.key is None else {"key": child.key}
        if child.after:
            spec["after"] = [_dependency(one, attempt, last) for one in child.after]
            spec["afterPolicy"] = "Finished" if child.finished else "Succeeded"
        if child.ttl is not None:
            spec["ttlSecondsAfterFinished"] = child.ttl
        return await attempt.enqueue(
            "tasks:work",
            unique=unique(child.unique),
            staged=child.staged,
            group=child.group,
            queue=child.queue,
            maxAttempts=child.max_attempts,
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
        return ended if script.reports else ended.unreported()


def _dependency(text: str, attempt: Attempt, last: str) -> dict[str, str]:
    """An entry of `after`, see `plan.Child`."""
    kind, _, which = text.partition(":")
    names = {"last": last, "parent": attempt.job, "root": attempt.payload["job"]["root"], "other": "job-00"}
    return {kind: which if kind == "group" else names[which]}


def unique(key: str | None) -> dict[str, Any] | None:
    """spec.unique: None for none, "" for the key of its args."""
    return None if key is None else {"key": key} if key else {}
