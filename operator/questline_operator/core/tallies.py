"""How many of a group's or a tree's Jobs stand where: kept up to date one Job at a time, so that a join over thousands
of Jobs costs each of their changes one step."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from questline_operator.core.records import Job, Key
from questline_operator.core.states import Reason, State


class Standing(Enum):
    """What a Job means for one that waits for it."""

    PENDING = "it has never ended"
    AGAIN = "it has ended, never succeeded, and is to run again"
    ENDED = "it has ended and never succeeded"
    SUCCEEDED = "an attempt of it has succeeded"


_NEVER_WAS = frozenset({Reason.PARENT_FAILED, Reason.PARENT_GONE, Reason.LATE_CHILD})
"""Skipped for one of these, a child is of an attempt that did not succeed, and what follows the one that did does not
wait for it."""


def standing_of(job: Job) -> Standing:
    """Where it stands, as the record says; a Duplicate's is its original's to say."""
    if job.succeeded_attempts:
        return Standing.SUCCEEDED
    if job.terminal:
        return Standing.ENDED
    return Standing.AGAIN if job.finishes else Standing.PENDING


def counts(job: Job) -> bool:
    """Whether it belongs to what its parent's success has made."""
    return job.state is not State.SKIPPED or job.reason not in _NEVER_WAS


class Tally:
    """The Jobs of one group or tree by where they stand, each in the order in which it came there."""

    def __init__(self) -> None:
        self._standing: dict[Key, Standing] = {}
        self._by: dict[Standing, dict[Key, None]] = {standing: {} for standing in Standing}

    def put(self, key: Key, standing: Standing | None) -> None:
        """Count the Job there and no longer where it stood before; None: count it no more."""
        before = self._standing.get(key)
        if before is standing:
            return
        if before is not None:
            del self._standing[key], self._by[before][key]
        if standing is not None:
            self._standing[key] = standing
            self._by[standing][key] = None

    def count(self, *standings: Standing, without: Key | None = None) -> int:
        """How many stand at any of these, that one left out."""
        number = sum(len(self._by[standing]) for standing in standings)
        return number - (without is not None and self._standing.get(without) in standings)

    def first(self, standing: Standing, *, without: Key | None = None) -> Key | None:
        """The one that has stood there longest, that one left out."""
        return next((key for key in self._by[standing] if key != without), None)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._standing)

    def __len__(self) -> int:
        return len(self._standing)


@dataclass(frozen=True)
class Tree:
    """A Job and its descendants."""

    root: Key
    uid: str
    tally: Tally
    members: set[str]
    """The Jobs' UIDs."""


class Trees:
    """The trees that are counted, because a Job waits for them."""

    def __init__(self) -> None:
        self._trees: dict[str, Tree] = {}
        self._of: defaultdict[str, dict[str, Tree]] = defaultdict(dict)

    def get(self, root_uid: str) -> Tree | None:
        """The tree of that Job, or None where it is not counted."""
        return self._trees.get(root_uid)

    def of(self, job: Job) -> list[Tree]:
        """The trees that it is in."""
        return list(self._of[job.uid].values()) if job.uid in self._of else []

    def plant(self, root: Job, jobs: Iterable[Job], standing: Callable[[Job], Standing | None]) -> Tally:
        """Count the tree of that root, which is of these Jobs, itself among them."""
        tree = self._trees[root.uid] = Tree(root.key, root.uid, Tally(), set())
        for job in jobs:
            self._add(tree, job)
            tree.tally.put(job.key, standing(job))
        return tree.tally

    def fell(self, root_uid: str) -> None:
        """Count it no more."""
        tree = self._trees.pop(root_uid, None)
        for uid in tree.members if tree else ():
            self._of[uid].pop(root_uid, None)
            if not self._of[uid]:
                del self._of[uid]

    def join(self, job: Job) -> list[Tree]:
        """A new Job is of its parent's trees, which are returned; where it stands is for the caller to put there."""
        trees = list(self._of[job.parent.uid].values()) if job.parent and job.parent.uid in self._of else []
        for tree in trees:
            self._add(tree, job)
        return trees

    def leave(self, job: Job) -> list[Tree]:
        """A Job is gone, and its own tree with it; the others that it was in are returned."""
        self.fell(job.uid)
        trees = list(self._of.pop(job.uid, {}).values())
        for tree in trees:
            tree.members.discard(job.uid)
            tree.tally.put(job.key, None)
        return trees

    def __len__(self) -> int:
        return len(self._trees) + len(self._of)

    def _add(self, tree: Tree, job: Job) -> None:
        tree.members.add(job.uid)
        self._of[job.uid][tree.uid] = tree
