"""Creating Jobs: children of the running attempt, or Jobs of their own from outside one.

A POST is repeated until its fate is known. That is safe because a Job's name is settled before the first try: a
repeated POST that finds the name taken finds its own Job.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from questline import attempt as attempts
from questline.client import (
    Answer,
    ServiceAccount,
    TokenFile,
    Transport,
    UnsettledError,
    persist,
    service_account,
)
from questline.errors import (
    ApiUnavailable,
    ConfigurationError,
    EnqueueFateUnknown,
    EnqueueRefused,
    EnqueueUncertain,
    OptionInvalid,
)
from questline.handle import API_PATH, Handle
from questline.task import compact

if TYPE_CHECKING:
    from questline.attempt import Attempt
    from questline.task import Call

R = TypeVar("R")

ENQUEUE_SECONDS = 30.0
"""How long an enqueue is tried."""
CONNECTIONS = 8
"""How many POSTs of one `enqueue_many` are under way at once."""
MAX_SUFFIX = 16
"""Characters after the pod's UID in the name of a child, at most: the chart's policy questline-lineage."""

NAMESPACE_ENV = "QUESTLINE_NAMESPACE"
_ENQUEUE_ID = "questline.dev/enqueue-id"
"""Annotation by which a Job of a chosen name is known to be ours after a lost answer."""


def enqueue(call: Call[R], *, after: Sequence[Mapping[str, str]] = (), policy: str | None = None) -> Handle[R]:
    """Creates one Job; see `Task.enqueue` for what it raises.

    Args:
        after: what must have ended first, as in spec.after.
        policy: spec.afterPolicy, where it is not to be Succeeded.
    """
    more: dict[str, Any] = {"after": list(after)} if after else {}
    if policy is not None:
        more["afterPolicy"] = policy
    (handle,) = _create_all([call], more)
    return handle


def enqueue_many(calls: Iterable[Call[R]]) -> list[Handle[R]]:
    """Creates many Jobs over a few connections, and returns their handles in the order of the calls.

    All calls are made before the first Job is created, so that bad args create none.

    Raises:
        EnqueueError: one was refused; no more are created then, those before it stay.
        Besides: see `Task.enqueue`.
    """
    return _create_all(list(calls), {})


def fan_out_handles(calls: Iterable[Call[R]]) -> tuple[list[Handle[R]], list[str]]:
    """`enqueue_many`, inside an attempt only, and the groups that the children are of: their own, else a new one.

    Raises:
        NotInAttempt: no attempt runs here.
    """
    children = attempts.current()._children
    all_calls = list(calls)
    group = children.group_of_fan_out()
    groups = list(dict.fromkeys(call.options.group or group for call in all_calls)) or [group]
    return _create_all(all_calls, {}, group=group), groups


class _Creator:
    """Creates Jobs in one namespace. ``places`` are what `reserve` gives: indices of children, or nothing."""

    def reserve(self, count: int) -> list[int]:
        return [0] * count

    def release(self, place: int) -> None:
        """The place was not used."""

    def create(self, call: Call[Any], spec: dict[str, Any], place: int) -> Handle[Any]:
        raise NotImplementedError


class _Children(_Creator):
    """Children of the running attempt."""

    def __init__(self, attempt: Attempt, group: str | None = None) -> None:
        self._attempt, self._group = attempt, group
        self._path = API_PATH.format(namespace=attempt.job.namespace)
        self._transport = transport_of(attempt)
        self._pod_uid = pod_uid_of(attempt)

    def tell_groups(self, groups: Iterable[str]) -> None:
        self._attempt._children.tell_groups(groups)

    def reserve(self, count: int) -> list[int]:
        return self._attempt._children.reserve(count)

    def release(self, place: int) -> None:
        self._attempt._children.release(place)

    def create(self, call: Call[Any], spec: dict[str, Any], place: int) -> Handle[Any]:
        if "unique" not in spec:
            return self._post(call, spec, place, str(place))
        # One key makes one child of an attempt, or of each of its groups: its name is made of the key. In two groups
        # it is two Jobs, of which one runs and the other counts as that one.
        key = call.key if call.key is not None else _canonical_digest(call.args)
        group = self._group_of(call)
        key = key if group is None else f"{key}\0{group}"
        digest = hashlib.sha256(f"{call.task.name}\0{key}".encode()).hexdigest()
        for length in (10, 16):
            name = self._name(call, digest[:length])
            while True:
                pending, mine = self._attempt._children.claim_name(name, key)
                if mine:
                    return self._post_unique(call, spec, place, name, digest[:length])
                if pending.key != key:
                    break  # two keys of one digest: the longer one tells them apart
                pending.settled.wait()
                if pending.child:
                    self.release(place)
                    return self._handle(call, pending.child)
        raise AssertionError("two keys share 64 bits of a SHA-256")

    def _post_unique(self, call: Call[Any], spec: dict[str, Any], index: int, name: str, suffix: str) -> Handle[Any]:
        child = ""
        try:
            handle = self._post(call, spec, index, suffix)
            child = handle.name
        finally:
            self._attempt._children.settle_name(name, child)
        return handle

    def _post(self, call: Call[Any], spec: dict[str, Any], index: int, suffix: str) -> Handle[Any]:
        """Creates the child; under a longer name where another pod, whose UID begins like this one's, has the first."""
        deadline = time.monotonic() + ENQUEUE_SECONDS
        for name in self._names(call, suffix):
            answer, maybe_ours = self._send(call, spec, index, name, deadline - time.monotonic())
            if answer.status != 409 or maybe_ours:
                break
        if maybe_ours and answer.status not in (200, 201, 202, 409):
            # A refusal says nothing of an earlier try, whose answer was lost.
            why = f"whether child {name} of {call.task.name} was created is unknown: {answer.status} {answer.message}"
            self._attempt._children.lose(index, why)
            raise EnqueueFateUnknown(why)
        if answer.status not in (200, 201, 202) and not (answer.status == 409 and maybe_ours):
            self.release(index)
            _raise_refusal(call.task.name, name, answer)
        # AlreadyExists is ours: a lost try of this pod's made it, and a policy keeps all others from such a name.
        self._attempt._children.accept(index, self._group_of(call))
        return self._handle(call, name)

    def _send(
        self, call: Call[Any], spec: dict[str, Any], index: int, name: str, seconds: float
    ) -> tuple[Answer, bool]:
        """One POST, repeated until it is answered; and whether an earlier try may have had its effect."""
        job, children = self._attempt.job, self._attempt._children
        parent = {
            "name": job.name,
            "uid": job.uid,
            "attempt": self._attempt.attempt,
            "podUID": self._pod_uid,
            "index": index,
        }
        group = self._group_of(call)
        if group is not None:
            parent["group"] = group
        if not call.options.stage:
            parent["staged"] = False
        body = _manifest(name, job.namespace, {**spec, "parent": parent})
        try:
            return persist(self._transport, "POST", self._path, body, seconds=max(seconds, 0.1))
        except UnsettledError as error:
            if error.maybe_done:
                why = f"whether child {name} of {call.task.name} was created is unknown: {error}"
                children.lose(index, why)
                raise EnqueueFateUnknown(why) from None
            children.release(index)
            raise ApiUnavailable(f"child {name} of {call.task.name} was not created: {error}") from None
        except BaseException:
            children.lose(index, f"the enqueue of child {name} of {call.task.name} was interrupted")
            raise

    def _group_of(self, call: Call[Any]) -> str | None:
        return call.options.group or self._group

    def _name(self, call: Call[Any], suffix: str) -> str:
        return f"{slug(call.task.__name__)}-{self._pod_uid[:8]}-{suffix}"

    def _names(self, call: Call[Any], suffix: str) -> list[str]:
        """What the child may be called: the second with more of the pod's UID, as far as the lineage policy lets it."""
        room = min(8, MAX_SUFFIX - len(suffix) - 1)
        longer = [f"{suffix}x{self._pod_uid.replace('-', '')[8 : 8 + room]}"] if room > 0 else []
        return [self._name(call, one) for one in (suffix, *longer)]

    def _handle(self, call: Call[Any], name: str) -> Handle[Any]:
        return Handle(call.task, self._attempt.job.namespace, name)


class Roots(_Creator):
    """Jobs without a parent, from a program that is no attempt.

    Args:
        suffix: makes the end of a made-up name.
    """

    def __init__(self, transport: Transport, namespace: str, *, suffix: Callable[[], str] | None = None) -> None:
        self._transport, self._namespace = transport, namespace
        self._suffix = suffix or _random_suffix
        self._path = API_PATH.format(namespace=namespace)

    def create(self, call: Call[Any], spec: dict[str, Any], place: int) -> Handle[Any]:
        name = self.post(call.task.name, spec, call.options.name)["metadata"]["name"]
        return Handle(call.task, self._namespace, name, lambda: self._transport)

    def post(self, task: str, spec: dict[str, Any], chosen: str | None) -> dict[str, Any]:
        """Creates a Job of that spec, under the chosen name or a made-up one, and returns it as it is then."""
        import secrets

        while True:
            name = chosen or f"{slug(task.rpartition(':')[2])}-{self._suffix()}"
            enqueue_id = secrets.token_hex(16)
            body = _manifest(name, self._namespace, spec, {_ENQUEUE_ID: enqueue_id} if chosen else None)
            try:
                answer, maybe_ours = persist(self._transport, "POST", self._path, body, seconds=ENQUEUE_SECONDS)
            except UnsettledError as error:
                if error.maybe_done:
                    raise EnqueueUncertain(
                        f"whether Job {self._namespace}/{name} of {task} was created is unknown: {error}; "
                        "look for it before you enqueue it again"
                    ) from None
                raise ApiUnavailable(f"Job {name} of {task} was not created: {error}") from None
            if answer.status in (200, 201, 202):
                return answer.json() or json.loads(body)
            if answer.status != 409 and maybe_ours:
                raise EnqueueUncertain(
                    f"whether Job {self._namespace}/{name} of {task} was created is unknown: {answer.status} "
                    f"{answer.message}; look for it before you enqueue it again"
                )
            if answer.status != 409:
                _raise_refusal(task, name, answer)
            if maybe_ours and (not chosen or self._is_ours(name, enqueue_id)):
                return json.loads(body)  # type: ignore[no-any-return]
            if chosen:
                raise EnqueueRefused(
                    f"there is a Job {self._namespace}/{name} already: choose another name, or leave it out",
                    status=409,
                    reason="AlreadyExists",
                )

    def close(self) -> None:
        self._transport.close()

    def _is_ours(self, name: str, enqueue_id: str) -> bool:
        try:
            answer, _ = persist(self._transport, "GET", f"{self._path}/{name}", None, seconds=ENQUEUE_SECONDS)
        except UnsettledError as error:
            raise EnqueueUncertain(f"Job {self._namespace}/{name} exists, whether it is ours: {error}") from None
        if answer.status != 200:
            raise EnqueueUncertain(f"Job {self._namespace}/{name} exists, whether it is ours: {answer.message}")
        annotations = answer.json().get("metadata", {}).get("annotations") or {}
        return bool(annotations.get(_ENQUEUE_ID) == enqueue_id)


def _create_all(calls: list[Call[Any]], more: Mapping[str, Any], *, group: str | None = None) -> list[Handle[Any]]:
    specs = [{**call.spec(), **more} for call in calls]
    creator = _creator(group)
    named = [call.options.group for call in calls if call.options.group is not None]
    if isinstance(creator, _Children):
        creator.tell_groups(named)
    elif named:
        raise OptionInvalid(f"group is {named[0]!r}: groups are of an attempt's children; leave it out here")
    for call in calls:
        if isinstance(creator, _Children) and call.options.name is not None:
            raise OptionInvalid(
                f"name is {call.options.name!r}: inside an attempt Questline names the Jobs, so that a repeated "
                "enqueue finds its own; leave name out"
            )
    places = creator.reserve(len(calls))
    if len(calls) == 1:
        return [creator.create(calls[0], specs[0], places[0])]
    return _Batch(creator, calls, specs, places).run()


class _Batch:
    """Many creations by a few threads, in the order of the calls as far as threads keep one."""

    def __init__(
        self, creator: _Creator, calls: list[Call[Any]], specs: list[dict[str, Any]], places: list[int]
    ) -> None:
        self._creator, self._calls, self._specs, self._places = creator, calls, specs, places
        self._handles: list[Handle[Any] | None] = [None] * len(calls)
        self._positions = iter(range(len(calls)))
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []
        self._stopped = False

    def run(self) -> list[Handle[Any]]:
        count = min(CONNECTIONS, len(self._calls))
        threads = [threading.Thread(target=self._work, name="questline-enqueue", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self._stopped = True
            for position in self._positions:  # what no thread has taken
                self._creator.release(self._places[position])
        if self._errors:
            done = sum(handle is not None for handle in self._handles)
            # What a task cannot catch goes before what it can.
            error = min(self._errors, key=lambda error: isinstance(error, Exception))
            error.add_note(f"{done:,} of {len(self._calls):,} Jobs were enqueued before")
            raise error
        return [handle for handle in self._handles if handle is not None]

    def _work(self) -> None:
        while not self._stopped:
            with self._lock:
                position = next(self._positions, None)
            if position is None:
                return
            try:
                handle = self._creator.create(self._calls[position], self._specs[position], self._places[position])
                self._handles[position] = handle
            except BaseException as error:  # raised again by run()
                self._errors.append(error)
                self._stopped = True


def transport_of(attempt: Attempt) -> Transport:
    """How the attempt reaches the API server.

    Raises:
        EnqueueRefused: its pod has no token.
    """
    if attempt._transport is None:
        account = service_account(os.environ)
        if account is None:
            raise EnqueueRefused(
                f"Job {attempt.job.name} cannot enqueue: its pod has no token. Set serviceAccountName in Worker "
                f"{attempt.job.worker or 'default'} (the chart makes questline-worker for that)"
            )
        attempt._transport = account.transport
    return attempt._transport


def pod_uid_of(attempt: Attempt) -> str:
    """The UID of the attempt's pod: from the environment, else from the token's own claim.

    Raises:
        ConfigurationError: neither says it.
    """
    if attempt._pod_uid is None:
        uid = os.environ.get(attempts.POD_UID_ENV, "")
        if not uid:
            account = service_account(os.environ)
            uid = _pod_uid_claim(account.token) if account else ""
        if not re.fullmatch(r"[0-9a-f][0-9a-f-]{7,63}", uid):
            raise ConfigurationError(
                f"the pod's UID is unknown: {attempts.POD_UID_ENV} is {uid!r}, and the token has none"
            )
        attempt._pod_uid = uid
    return attempt._pod_uid


def _pod_uid_claim(token: TokenFile) -> str:
    from base64 import urlsafe_b64decode

    try:
        claims = token.read().split(".")[1]
        decoded = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return str(decoded["kubernetes.io"]["pod"]["uid"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


_outside: Roots | None = None
_outside_lock = threading.Lock()


def _creator(group: str | None) -> _Creator:
    global _outside
    attempt = attempts.active()
    if attempt is not None:
        return _Children(attempt, group)
    with _outside_lock:
        if _outside is None:
            _outside = Roots(*_connect())
        return _outside


def _connect() -> tuple[Transport, str]:
    """From outside an attempt: a pod's service account, else the kubeconfig."""
    namespace = os.environ.get(NAMESPACE_ENV)
    account: ServiceAccount | None = service_account(os.environ)
    if account is not None:
        return account.transport, namespace or account.namespace
    from questline.kubeconfig import connect

    transport, of_context = connect()
    return transport, namespace or of_context


def forget_connection() -> None:
    """The next enqueue from outside an attempt looks anew for the cluster that is meant."""
    global _outside
    with _outside_lock:
        if _outside is not None:
            _outside.close()
        _outside = None


@contextmanager
def connected_to(roots: Roots) -> Iterator[None]:
    """Jobs enqueued outside an attempt are created by these, meanwhile, one after the other: for the test kit."""
    global _outside, CONNECTIONS
    with _outside_lock:
        former, _outside = (_outside, CONNECTIONS), roots
        CONNECTIONS = 1
    try:
        yield
    finally:
        with _outside_lock:
            _outside, CONNECTIONS = former


def slug(function: str) -> str:
    """A task's function as the beginning of a Job's name: a DNS label of at most 24 characters."""
    return function.lower().replace("_", "-").strip("-")[:24].strip("-") or "job"


def _random_suffix() -> str:
    import secrets

    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(10))


def _manifest(name: str, namespace: str, spec: dict[str, Any], annotations: dict[str, str] | None = None) -> bytes:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if annotations:
        metadata["annotations"] = annotations
    return compact({"apiVersion": "questline.dev/v1alpha1", "kind": "Job", "metadata": metadata, "spec": spec})


def _canonical_digest(args: dict[str, Any]) -> str:
    from questline_operator.core.canonical import canonical_digest

    return canonical_digest(args)


def _raise_refusal(task: str, name: str, answer: Answer) -> NoReturn:
    raise EnqueueRefused(
        f"the API server refused Job {name} of {task} ({answer.status} {answer.reason}): {answer.message}"
        + ("; is Questline installed on this cluster?" if answer.is_of_unknown_kind else ""),
        status=answer.status,
        reason=answer.reason,
    )
