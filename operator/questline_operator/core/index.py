"""Records' keys by what they have in common, for questions that would else be a search through all records."""

import bisect
from collections import defaultdict
from typing import Any, Generic, TypeVar

from questline_operator.core.records import Key

K = TypeVar("K")


class Index(defaultdict[K, dict[Key, None]], Generic[K]):
    """The members of each key, in the order in which they came; a key that has lost its last member is gone.

    They are dictionaries without values: as sets, but the same history leads to the same steps in every process.
    """

    def __init__(self) -> None:
        super().__init__(dict)

    def add(self, key: K, member: Key) -> None:
        """The member is one of that key."""
        self[key][member] = None

    def discard(self, key: K, member: Key) -> None:
        """It is not, or no more."""
        members = self.get(key)
        if members is not None:
            members.pop(member, None)
            if not members:
                del self[key]


class SortedIndex(defaultdict[K, list[Any]], Generic[K]):
    """The entries of each key, the smallest first; a key that has lost its last entry is gone."""

    def __init__(self) -> None:
        super().__init__(list)

    def add(self, key: K, entry: Any) -> None:
        """The entry is one of that key."""
        bisect.insort(self[key], entry)

    def discard(self, key: K, entry: Any) -> None:
        """It is not, or no more."""
        entries = self.get(key, [])
        place = bisect.bisect_left(entries, entry)
        if place < len(entries) and entries[place] == entry:
            del entries[place]
            if not entries:
                del self[key]
