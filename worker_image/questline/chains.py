"""Chains, fan-out and joins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from questline.attempt import current
from questline.enqueue import enqueue, fan_out_handles
from questline.errors import DefinitionError, OptionInvalid
from questline.handle import Handle
from questline.options import Options

if TYPE_CHECKING:
    from questline.task import Call

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Policy = Literal["Succeeded", "Finished"]
MAX_AFTER = 64
"""What one Job may wait for."""


class FanOut(Sequence[Handle[R_co]], Generic[R_co]):
    """The children of one `fan_out`, in the order of its calls.

    Attributes:
        groups: the names of the groups that they are of: one of its own, but for calls that have the option `group`.
    """

    def __init__(self, handles: Iterable[Handle[R_co]], groups: Iterable[str]) -> None:
        self._handles = tuple(handles)
        self.groups = tuple(groups)

    def then(self, call: Call[R], *, policy: Policy = "Succeeded") -> Handle[R]:
        """Enqueues a child that runs once, after all of these; without any, when the attempt has succeeded.

        See `join`, of which this is the short form.
        """
        return join(call, self, policy=policy)

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
    return FanOut(*fan_out_handles(calls))


def join(
    call: Call[R],
    *waited: FanOut[Any] | Handle[Any] | str,
    trees: Iterable[Handle[Any]] = (),
    policy: Policy = "Succeeded",
) -> Handle[R]:
    """Enqueues a call that runs once, after everything given has ended. What that was it finds in `current()`.inputs.

    Args:
        waited: fan-outs, Jobs, and groups by the names that their calls have as option `group`; 64 in all.
        trees: Jobs that are waited for with all their descendants, also those that are enqueued later.
        policy: Succeeded: when each has succeeded; when one does not, the call's Job is Skipped (UpstreamFailed).
            Finished: when each has ended, however.

    Raises:
        DefinitionError: nothing is given to wait for, or more than 64.
        NotInAttempt: a group is given outside an attempt.
        EnqueueError: it was refused, or the attempt has more than 16 groups.
        Besides: see `Task.enqueue`.
    """
    after: list[dict[str, str]] = []
    for one in waited:
        if isinstance(one, Handle):
            after.append({"job": one.name})
        else:
            after += [{"group": group} for group in (one.groups if isinstance(one, FanOut) else (one,))]
    after += [{"tree": handle.name} for handle in trees]
    if not 0 < len(after) <= MAX_AFTER:
        raise DefinitionError(
            f"join() waits for {len(after)} things, 1 to {MAX_AFTER} are allowed: "
            "give a fan-out, Jobs, or the name of a group"
        )
    if policy not in ("Succeeded", "Finished"):
        raise OptionInvalid(f"policy is {policy!r}: Succeeded or Finished is needed")
    groups = [entry["group"] for entry in after if "group" in entry]
    if groups:
        call.spec()  # so that what is refused leaves no group behind
        current()._children.tell_groups(Options().replaced({"group": group}).group or "" for group in groups)
    return enqueue(call, after=after, policy=None if policy == "Succeeded" else policy)


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
        handles.append(enqueue(call, after=[{"job": handles[-1].name}] if handles else ()))
    return handles
