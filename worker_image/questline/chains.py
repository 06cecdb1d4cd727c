"""Chains and fan-out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from questline.enqueue import enqueue, fan_out_handles
from questline.errors import DefinitionError
from questline.handle import Handle

if TYPE_CHECKING:
    from questline.task import Call

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class FanOut(Sequence[Handle[R_co]], Generic[R_co]):
    """The children of one `fan_out`, in the order of its calls.

    What runs when all of them have ended, ``then(...)``, is to be a method of this: their group is closed by the
    success of the attempt that enqueued them.
    """

    def __init__(self, handles: Iterable[Handle[R_co]]) -> None:
        self._handles = tuple(handles)

    @overload
    def __getitem__(self, index: int) -> Handle[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Handle[R_co], ...]: ...
    def __getitem__(self, index: int | slice) -> Handle[R_co] | tuple[Handle[R_co], ...]:
        return self._handles[index]

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle[R_co]]:
        return iter(self._handles)

    def __repr__(self) -> str:
        return f"<fan-out of {len(self._handles)} Jobs>"


def fan_out(calls: Iterable[Call[R]]) -> FanOut[R]:
    """Enqueues a child of the running attempt for each call; they run in parallel, as far as their queue allows.

    Raises:
        NotInAttempt: no attempt runs here; `enqueue_many` is for that.
        Besides: see `enqueue_many`.
    """
    return FanOut(fan_out_handles(calls))


def chain(*calls: Call[Any]) -> list[Handle[Any]]:
    """Enqueues the calls so that each starts when the one before it has succeeded.

    When one fails for good, those after it are Skipped (UpstreamFailed). Inside an attempt all of them are its
    children; the first starts when the attempt has succeeded.

    Raises:
        DefinitionError: no call is given.
        EnqueueError: one was refused; those before it are enqueued and those after it are not.
        Besides: see `Task.enqueue`.
    """
    if not calls:
        raise DefinitionError("chain() needs at least one call, such as chain(a.call(x), b.call(y))")
    for call in calls:
        call.spec()  # so that an option that is not supported refuses the whole chain
    handles: list[Handle[Any]] = []
    for call in calls:
        handles.append(enqueue(call, after=[handles[-1].name] if handles else ()))
    return handles
