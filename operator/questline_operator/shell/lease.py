"""Who leads: a Lease, renewed by compare-and-set, in the way of client-go's leader election.

No clock is compared with another machine's. A candidate notes on its own monotonic clock when it saw the record change
last, and takes the Lease over once it has not changed for as long as the record says that it holds. The leader trusts
itself for less than that, counted from the moment at which it sent the renewal: so whoever is frozen or cut off stops
trusting itself before another may begin.
"""

import asyncio
import logging
from typing import Any, NoReturn

from questline_operator.core.times import format_time
from questline_operator.shell.api import LEASES, Api, ApiError, NoAnswerError, Object
from questline_operator.shell.clock import Clock

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15
"""How long a record that does not change holds."""
RENEW_DEADLINE_SECONDS = 10.0
"""How long the leader trusts a renewal, from the moment at which it was sent."""
RETRY_SECONDS = 2.0
"""From one renewal to the next, and from an error to the next try."""
LOOK_SECONDS = 0.25
"""From one look at another's record to the next, which is a read and no write: what a released Lease waits for its
successor at most."""
CALL_SECONDS = 4.0
"""How long one call may take, so that a second one on a new connection fits into the deadline."""


class LeadershipLostError(Exception):
    """This process leads no more, or never did: it may write nothing."""


class Elector:
    """One candidate.

    Args:
        namespace, name: the Lease's.
        identity: what the record names this process by. One that a record names already is its leader at once: give the
            pod's name and UID, since of the containers of a pod only one lives at a time.
    """

    def __init__(self, api: Api, clock: Clock, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease: Object | None = None
        self._observed: Any = None
        self._observed_at = 0.0
        self._trusted_until: float | None = None
        self._answered_at: float | None = None
        self._complaint = ""

    @property
    def seconds_since_answer(self) -> float | None:
        """How long ago the API server last told of the Lease, or took it from us; None where it never did."""
        return None if self._answered_at is None else self._clock.monotonic() - self._answered_at

    @property
    def trusted(self) -> bool:
        """Whether this process leads now, by its own clock and without asking anyone."""
        return self._trusted_until is not None and self._clock.monotonic() < self._trusted_until

    def check(self) -> None:
        """Do nothing where this process leads: to be called before each write.

        Raises:
            LeadershipLostError: it does not.
        """
        if not self.trusted:
            raise LeadershipLostError(f"{self._title} is not held by this process ({self._identity})")

    async def acquire(self) -> None:
        """Return once this process leads, however long that takes; errors of the API only delay it."""
        holder = self._identity
        while True:
            if await self._try(CALL_SECONDS) and self.trusted:
                logger.info("acquired %s as %s", self._title, self._identity)
                return
            if self._holder() not in ("", holder):
                holder = self._holder()
                logger.info("standing by: %s is held by %s", self._title, holder)
            await self._clock.sleep(RETRY_SECONDS if self._complaint else self._until_next_look())

    async def run(self) -> NoReturn:
        """Renew until the leadership is lost.

        Raises:
            LeadershipLostError: another holds the Lease, or no renewal succeeded in time.
        """
        while self.trusted:
            await self._clock.sleep(min(RETRY_SECONDS, self._remaining()))
            if not self.trusted:
                break
            if not await self._try(min(CALL_SECONDS, self._remaining())) and self._holder() not in ("", self._identity):
                self._trusted_until = None
                raise LeadershipLostError(f"{self._title} is held by {self._holder()} now")
        self._trusted_until = None
        why = f": {self._complaint}" if self._complaint else ""
        raise LeadershipLostError(f"{self._title} was not renewed within {RENEW_DEADLINE_SECONDS:g} s{why}")

    async def release(self) -> None:
        """Give the Lease back, if it is ours, so that the next need not wait; trust ends before anything is sent."""
        self._trusted_until = None
        try:
            async with asyncio.timeout(CALL_SECONDS):
                # A renewal that was cut off may be applied between our read and our write: once more then.
                while not await self._given_back():
                    pass
        except (ApiError, NoAnswerError, TimeoutError) as error:
            why = str(error) or f"no answer within {CALL_SECONDS:g} s"
            logger.warning("%s was not released, so the next leader waits %d s: %s", self._title, LEASE_SECONDS, why)

    async def _given_back(self) -> bool:
        """Whether the Lease is not ours now; False where its record changed meanwhile."""
        lease = await self._api.get(LEASES, self._namespace, self._name)
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") != self._identity:
            return True
        spec = {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": format_time(self._clock.now())}
        try:
            await self._api.replace(LEASES, self._namespace, self._name, {**lease, "spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        logger.info("released %s", self._title)
        return True

    def _until_next_look(self) -> float:
        """Seconds, such that no look is later than the moment at which the other's record ends to hold."""
        remaining = self._takeable_at() - self._clock.monotonic()
        return min(LOOK_SECONDS, remaining) if remaining > 0 else LOOK_SECONDS

    def _remaining(self) -> float:
        """Seconds of trust that are left."""
        return max(0.0, (self._trusted_until or 0.0) - self._clock.monotonic())

    async def _try(self, seconds: float) -> bool:
        """One attempt to take or renew the Lease within that time: whether it is ours, from the attempt's start on."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(seconds):
                lease = await self._write()
        except TimeoutError:
            self._complain(f"no answer within {seconds:.1f} s")
            return False
        except NoAnswerError as error:
            self._complain(str(error))
            return False
        except ApiError as error:
            self._lease = None
            self._complain(str(error))
            return False
        self._complaint = ""
        self._answered_at = self._clock.monotonic()
        if lease is None:
            return False
        self._lease = lease
        # A process that was stopped in here finds its trust over, whatever the answer says.
        self._trusted_until = started + RENEW_DEADLINE_SECONDS
        return True

    async def _write(self) -> Object | None:
        """The Lease in our name, or None where another's record holds."""
        if self._lease is not None and self._holder() == self._identity:
            try:
                return await self._replace(self._lease)
            except ApiError as error:
                # A conflict may be with our own renewal, whose answer was lost: the record tells.
                if error.status not in (404, 409):
                    raise
        try:
            self._lease = await self._api.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if error.status != 404:
                raise
            return await self._create()
        self._observe(self._lease.get("spec") or {})
        return await self._replace(self._lease) if self._may_take() else None

    async def _create(self) -> Object:
        now = format_time(self._clock.now())
        return await self._api.create(
            LEASES,
            self._namespace,
            {
                "apiVersion": LEASES.api_version,
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": self._record({"acquireTime": now, "leaseTransitions": 0}),
            },
        )

    async def _replace(self, lease: Object) -> Object:
        """PUT our record over the one that was read: refused where another wrote meanwhile."""
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") != self._identity:
            now = format_time(self._clock.now())
            spec = {**spec, "acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", 0) + 1}
        return await self._api.replace(LEASES, self._namespace, self._name, {**lease, "spec": self._record(spec)})

    def _record(self, spec: Object) -> Object:
        return {
            **spec,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": format_time(self._clock.now()),
        }

    def _observe(self, spec: Object) -> None:
        if spec != self._observed:
            self._observed, self._observed_at = spec, self._clock.monotonic()

    def _may_take(self) -> bool:
        if self._holder() in ("", self._identity):
            return True
        return self._clock.monotonic() >= self._takeable_at()

    def _takeable_at(self) -> float:
        """When another's record, as it was observed, ends to hold, in monotonic seconds."""
        return self._observed_at + float((self._observed or {}).get("leaseDurationSeconds") or LEASE_SECONDS)

    def _holder(self) -> str:
        """Whom the record names that was read or written last, or "" where it names nobody."""
        spec = (self._lease or {}).get("spec") or {}
        return spec.get("holderIdentity") or ""

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            logger.warning("%s: %s", self._title, complaint)
        self._complaint = complaint

    @property
    def _title(self) -> str:
        return f"Lease {self._namespace}/{self._name}"
