"""List, then watch, for ever: how the store learns of one kind of object."""

import asyncio
import logging
from typing import NoReturn

from questline_operator.shell.api import Api, ApiError, NoAnswerError, Resource
from questline_operator.shell.clock import Clock
from questline_operator.shell.store import Store

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0
SHORT_WATCH_SECONDS = 1.0
"""A server that ends a watch sooner than this is in trouble: no loop without a pause."""


class Reflector:
    """Keeps the store in step with one kind.

    Every list is read consistently, so what it lacks was deleted: a deletion that a broken watch never told is found.
    """

    def __init__(self, api: Api, clock: Clock, store: Store, resource: Resource, *, labels: str = "") -> None:
        self._api = api
        self._clock = clock
        self._store = store
        self._resource = resource
        self._labels = labels
        self.synced = asyncio.Event()
        self.last_activity = clock.monotonic()

    async def run(self) -> NoReturn:
        """Follow the kind until canceled; errors of the API only delay it."""
        version, delay = "", FIRST_DELAY_SECONDS
        while True:
            began = self._clock.monotonic()
            try:
                if not version:
                    version = await self._list()
                async for event in self._api.watch(self._resource, since=version, labels=self._labels):
                    self.last_activity = self._clock.monotonic()
                    delay = FIRST_DELAY_SECONDS
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type == "DELETED":
                        self._store.remove(self._resource, event.object)
                    elif event.type != "BOOKMARK":
                        self._store.apply(self._resource, event.object)
                    self._store.watched(self._resource, int(version))
            except ApiError as error:
                if error.status == 410:
                    version = ""
                logger.warning("watch of %s: %s", self._resource.plural, error)
            except NoAnswerError as error:
                logger.warning("watch of %s broke: %s", self._resource.plural, error)
            else:
                if self._clock.monotonic() - began >= SHORT_WATCH_SECONDS:
                    continue  # the server ends a watch after some minutes: go on from where it was
            await self._clock.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_SECONDS)

    async def _list(self) -> str:
        listing = await self._api.list(self._resource, labels=self._labels)
        self._store.replace(self._resource, listing)
        self._store.watched(self._resource, int(listing.resource_version))
        self.last_activity = self._clock.monotonic()
        self.synced.set()
        return listing.resource_version
