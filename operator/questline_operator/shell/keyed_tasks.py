"""What a loop has done beside it: one task a key at the most, each guarded against errors that nobody foresaw."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator
from typing import Any, Generic, TypeVar

from questline_operator.shell.actions import Actions
from questline_operator.shell.clock import Clock

K = TypeVar("K", bound=Hashable)
Action = Coroutine[Any, Any, Any]


class KeyedTasks(Generic[K]):
    """The keys that have a task under way. A loop passes over a busy key, and is told when it may look again.

    An error that nobody foresaw costs its key a delay, all others and the operator nothing: one whose writes get no
    answer, or the same error for hours, holds up nobody else. Only an error of `Actions.FATAL` is passed on to the task
    group, and ends it: the process must not write any more.

    Args:
        on_error: logs what an action raised, and returns for how many seconds its key stays busy.
    """

    def __init__(self, clock: Clock, on_error: Callable[[K, Exception], float]) -> None:
        self._clock = clock
        self._on_error = on_error
        self._busy: set[K] = set()

    def start(
        self, tasks: asyncio.TaskGroup, key: K, action: Action, *, then: Callable[[], None] | None = None
    ) -> None:
        """Run the action as a task of the group. The key is busy from now on and must not have been.

        Args:
            then: called when the key is free again, however the action ended; not where the process has to end.
        """
        self._busy.add(key)
        task = tasks.create_task(self._guarded(key, action, then))
        # One that is canceled before its first step has not begun its action, which would be called forgotten.
        task.add_done_callback(lambda done: action.close())

    async def _guarded(self, key: K, action: Action, then: Callable[[], None] | None) -> None:
        try:
            await action
        except Actions.FATAL:
            raise
        except Exception as error:
            await self._clock.sleep(self._on_error(key, error))
        finally:
            self._busy.discard(key)
        if then is not None:
            then()

    def __contains__(self, key: K) -> bool:
        """Whether the key is busy."""
        return key in self._busy

    def __iter__(self) -> Iterator[K]:
        """The busy keys."""
        return iter(self._busy)
