"""The children of one attempt: who gets which index, and what became of each POST (design 4).

Only accepted children count: an index whose POST was refused is given to the next child. A POST whose fate stays
unknown spoils the attempt, because a child that nobody knows of could run, or one that everybody counts on could not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from questline.errors import EnqueueError, EnqueueFateUnknown, NotInAttempt

MAX_CHILDREN = 10_000
MAX_GROUPS = 16
"""Groups that an attempt can tell the number of; others are not waited for."""


class Pending:
    """A unique child that one thread is creating, and for which others of the same key wait.

    Attributes:
        child: the name that it has, once it exists.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.settled = threading.Event()
        self.child = ""


class Children:
    """What an attempt has enqueued so far. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._free: list[int] = []
        self._in_flight: set[int] = set()
        self._highest_accepted = -1
        self._closed = False
        self._unique: dict[str, Pending] = {}
        self._unknown: str | None = None
        self._in_group: dict[str, int] = {}
        self._told_groups: dict[str, None] = {}
        self._fan_outs = 0

    @property
    def total(self) -> int:
        """The highest accepted index + 1, as the envelope tells it."""
        with self._changed:
            return self._highest_accepted + 1

    @property
    def groups(self) -> dict[str, int]:
        """How many accepted children each group has, of those that were told of."""
        with self._changed:
            return {group: self._in_group.get(group, 0) for group in self._told_groups}

    def tell_groups(self, groups: Iterable[str]) -> None:
        """These groups have been named, or are waited for: the attempt's outcome will say how many each has.

        Raises:
            EnqueueError: there would be more than 16.
        """
        with self._changed:
            told = {**self._told_groups, **dict.fromkeys(groups)}
            if len(told) > MAX_GROUPS:
                raise EnqueueError(
                    f"an attempt may have {MAX_GROUPS} groups of children that are named or waited for, and "
                    f"{list(told)[MAX_GROUPS]!r} would be one more: let each child enqueue a part of them"
                )
            self._told_groups = told

    def group_of_fan_out(self) -> str:
        """The name of a group for a fan-out that was given none; one that the task itself has used is left to it."""
        with self._changed:
            self._fan_outs += 1
            while f"fan-out-{self._fan_outs}" in self._told_groups:
                self._fan_outs += 1
            return f"fan-out-{self._fan_outs}"

    @property
    def unknown(self) -> str | None:
        """What is not known of a child, or None: then the attempt may succeed."""
        with self._changed:
            return self._unknown

    def reserve(self, count: int) -> list[int]:
        """The indices of so many new children, ascending. Each is settled later by one of the three calls below.

        Raises:
            NotInAttempt: the attempt has ended.
            EnqueueError: it would have more than 10,000 children.
            EnqueueFateUnknown: the fate of an earlier child is unknown already.
        """
        with self._changed:
            if self._unknown is not None:
                raise EnqueueFateUnknown(self._unknown)
            if self._closed:
                raise NotInAttempt("the attempt has ended, so it can enqueue no more: enqueue before the task returns")
            if self._next - len(self._free) + count > MAX_CHILDREN:
                raise EnqueueError(
                    f"an attempt may have {MAX_CHILDREN:,} children: {self._next - len(self._free):,} are enqueued and "
                    f"{count:,} more were asked for; let each child enqueue a part of them"
                )
            indices = sorted(self._free)[:count]
            self._free = sorted(self._free)[count:]
            fresh = count - len(indices)
            indices += range(self._next, self._next + fresh)
            self._next += fresh
            self._in_flight.update(indices)
            return indices

    def accept(self, index: int, group: str | None = None) -> None:
        """The child exists, and is of that group."""
        with self._changed:
            if group is not None:
                self._in_group[group] = self._in_group.get(group, 0) + 1
            self._highest_accepted = max(self._highest_accepted, index)
            self._settle(index)

    def release(self, index: int) -> None:
        """The child surely does not exist, or is one that has an index already."""
        with self._changed:
            self._free.append(index)
            self._settle(index)

    def lose(self, index: int, why: str) -> None:
        """Nobody knows whether the child exists."""
        with self._changed:
            self._unknown = self._unknown or why
            self._settle(index)

    def claim_name(self, name: str, key: str) -> tuple[Pending, bool]:
        """Who creates the unique child of that name: the caller (True), or another whom it waits for (False).

        ``key`` is compared by the caller: two keys may share the digest in a name.
        """
        with self._changed:
            pending = self._unique.get(name)
            if pending is not None:
                return pending, False
            self._unique[name] = pending = Pending(key)
            return pending, True

    def settle_name(self, name: str, child: str) -> None:
        """The child that was claimed under that name exists and has this one; "": it does not and may be tried anew."""
        with self._changed:
            pending = self._unique[name]
            if not child:
                del self._unique[name]
        pending.child = child
        pending.settled.set()

    def close(self, seconds: float) -> None:
        """No more children. Waits so long for those that other threads are enqueuing; what is open then is unknown."""
        with self._changed:
            self._closed = True
            if not self._changed.wait_for(lambda: not self._in_flight, timeout=seconds):
                self._unknown = self._unknown or f"{len(self._in_flight)} enqueues were still open when the task ended"

    def _settle(self, index: int) -> None:
        self._in_flight.discard(index)
        self._changed.notify_all()
