"""Small scenarios as data, and the task that plays them: in the kit by the SDK, in the simulation by its own.

A node is a Job: what its attempts do, one after the other, and what they enqueue. It knows itself by its label.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypedDict

from questline import Cancel, Fail, Retry, Snooze, current, enqueue_many, job, join
from questline import testing as kit
from questline.task import Call

Step = tuple[str, str]
"""What a person does once all is at rest: cancel, rerun or resume (a Queue), and of what."""


class Node(TypedDict, total=False):
    """A Job of a scenario.

    Attributes:
        label: what it is known by; of a root also its name.
        ends: how its attempts end, the last one for all that follow: ok, fail, fatal, cancel, retry:SECONDS,
            snooze:SECONDS, or takes:SECONDS, which is longer than its timeout.
        options: the SDK's, and the unique ``key``.
        after: the groups that it waits for, of a root the Jobs, under ``policy``.
        children: what each of its attempts enqueues.
        spec: of a root: what else is in its spec.
    """

    label: str
    ends: list[str]
    options: dict[str, Any]
    after: list[str]
    policy: str
    children: list[Node]
    spec: dict[str, Any]


def call_of(node: Mapping[str, Any]) -> Call[Any]:
    """The call that enqueues it, with all its options; retries come at once."""
    options = {"backoff": {"base": 1, "jitter": 0}, "max_attempts": 3, **node.get("options", {})}
    key = options.pop("key", "")
    if key:
        options["unique"] = ("key",)
    plays = {name: node[name] for name in ("ends", "children") if name in node}
    return act.options(**options).call(node["label"], plays, key)


def manifest_of(root: Mapping[str, Any]) -> dict[str, Any]:
    """A root as a manifest."""
    spec = {**call_of(root).spec(), **root.get("spec", {})}
    if root.get("after"):
        spec |= {"after": [{"job": name} for name in root["after"]], "afterPolicy": root.get("policy", "Succeeded")}
    return {"kind": "Job", "metadata": {"name": root["label"], "namespace": "default"}, "spec": spec}


@job
def act(label: str, node: dict[str, Any], key: str = "") -> str:
    """Plays a node."""
    for child in node.get("children", ()):
        if child.get("after"):
            join(call_of(child), *child["after"], policy=child.get("policy", "Succeeded"))
        else:
            enqueue_many([call_of(child)])
    how = end_of(node, current().attempt)
    match how.partition(":"):
        case ("ok", _, _):
            return label
        case ("retry", _, seconds):
            raise Retry(float(seconds), how)
        case ("snooze", _, seconds):
            raise Snooze(float(seconds), how)
        case ("takes", _, seconds):
            kit.advance(float(seconds))
        case ("fatal", _, _):
            raise Fail(how)
        case ("cancel", _, _):
            raise Cancel(how)
    raise ValueError(how)


def end_of(node: Mapping[str, Any], attempt: int) -> str:
    """How that attempt ends."""
    ends: list[str] = node.get("ends") or ["ok"]
    return ends[min(attempt, len(ends)) - 1]


def random_tree(seed: int) -> Node:
    """Some Jobs below each other, with joins among them; no two of which a race could decide between."""
    chance = random.Random(seed)
    numbers = iter(range(1_000))
    ends = ["ok", "ok", "ok", "fail", "fatal", "cancel", "retry:2", "snooze:3"]

    def node(depth: int) -> Node:
        last = chance.choice([end for end in ends if not end.startswith("snooze")])  # or it would go on for ever
        made: Node = {"label": f"n{next(numbers)}", "ends": [chance.choice(ends) for _ in range(chance.randint(0, 2))]}
        made["ends"].append(last)
        if depth < 3 and chance.random() < 0.8:
            children = [node(depth + 1) for _ in range(chance.randint(1, 3))]
            groups = chance.sample(["x", "y"], chance.randint(0, 2))
            for child in children:
                if groups:
                    child["options"] = {"group": chance.choice(groups)}
            for group in groups:
                waiter = node(depth + 1)
                waiter |= {"after": [group], "policy": chance.choice(["Succeeded", "Finished"])}
                children.append(waiter)
            made["children"] = children
        return made

    return node(0)
