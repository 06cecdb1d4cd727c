"""A read that goes on until something is said of the object itself."""

import logging

from questline_operator.shell.api import Api, ApiError, NoAnswerError, Object, Resource
from questline_operator.shell.clock import Clock

logger = logging.getLogger(__name__)

READ_DELAY_SECONDS = 0.5


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
