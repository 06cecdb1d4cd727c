"""A read that goes on until something is said of the object itself."""

import asyncio
import logging

from questline_operator.core.records import Key
from questline_operator.shell.api import Api, ApiError, NoAnswerError, Object, Resource
from questline_operator.shell.clock import Clock

logger = logging.getLogger(__name__)

READ_DELAY_SECONDS = 0.5
READS_AT_ONCE = 16
"""Of those that decisions wait for: thousands may ask at the same moment, and the Lease's calls go beside them."""


async def read_until_known(api: Api, clock: Clock, resource: Resource, namespace: str, name: str) -> Object | None:
    """The object, or None where there is none of that name. No answer is none, and a 403 neither: an API server that
    starts may not have read its roles yet."""
    while True:
        try:
            return await api.get(resource, namespace, name)
        except NoAnswerError:
            pass
        except ApiError as error:
            if error.status == 404:
                return None
            logger.warning("%s %s/%s is not read yet: %s", resource.plural, namespace, name, error)
        await clock.sleep(READ_DELAY_SECONDS)


class SharedReads:
    """Reads that decisions wait for, a few at a time; who asks for an object that is being read takes that answer."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._lane = asyncio.Semaphore(READS_AT_ONCE)
        self._under_way: dict[tuple[Resource, Key], asyncio.Future[Object | None]] = {}

    async def read(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object, or None where there is none of that name."""
        what = (resource, (namespace, name))
        if what in self._under_way:
            return await asyncio.shield(self._under_way[what])
        answer = self._under_way[what] = asyncio.get_running_loop().create_future()
        try:
            async with self._lane:
                found = await read_until_known(self._api, self._clock, resource, namespace, name)
            answer.set_result(found)
        except BaseException as error:
            answer.set_exception(error)
            answer.exception()  # is looked at, though nobody else may have asked
            raise
        finally:
            del self._under_way[what]
        return found
