"""The number of this leadership: raised by each new leader, carried by all that it writes (design 7)."""

import asyncio
import logging
from collections.abc import Callable

from questline_operator.shell.api import CONFIG_MAPS, Api, ApiError, NoAnswerError, Object

logger = logging.getLogger(__name__)

FENCE = "questline-fence"
KEY = "epoch"
FENCED_OFF = "ValidatingAdmissionPolicy 'questline-fence'"
"""In the API server's message where it refuses a write for its epoch; no object's name can look like it."""
RETRY_SECONDS = 0.5
IN_FORCE_SECONDS = 0.25
"""From the write of an epoch to the moment at which every API server's fence goes by it: 3 to 5 ms were measured."""


async def raise_epoch(api: Api, namespace: str, check_leading: Callable[[], None]) -> int:
    """Raise the epoch in ConfigMap ``questline-fence`` by compare-and-set; the new one, once it is written.

    `IN_FORCE_SECONDS` later it is in force: no write of an older epoch follows on what is read from then on. A list of
    Jobs that was read before could lack a claim that the former leader had under way, and its slot would be given away
    twice. `Leader.run` waits for it.

    It is one more than the last. Where that is not known, since the ConfigMap is new or holds no number, it is the
    ConfigMap's resourceVersion, which is higher than any epoch that the cluster has seen: each was a write. (A
    reinstall that began with 1 again would take claims of the former epoch 1 for its own.)

    Args:
        check_leading: raises LeadershipLostError where this process may no longer write. Who was stopped in here until
            another led must not raise the epoch over the other's, which would fence the leader out.

    Raises:
        ApiError: the API server refuses, as 403 without the right to.
        LeadershipLostError: ``check_leading`` said so.
    """
    while True:
        try:
            epoch = await _raised(api, namespace, check_leading)
        except ApiError as error:
            if error.definite and error.reason not in ("Conflict", "AlreadyExists"):
                raise
            logger.info("ConfigMap %s/%s: once more: %s", namespace, FENCE, error)
        except NoAnswerError as error:
            logger.warning("ConfigMap %s/%s: once more: %s", namespace, FENCE, error)
        else:
            return epoch
        await asyncio.sleep(RETRY_SECONDS)


async def _raised(api: Api, namespace: str, check_leading: Callable[[], None]) -> int:
    fence = await _fence(api, namespace)
    text = (fence.get("data") or {}).get(KEY, "")
    last = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
    if text and last is None:
        logger.error(
            "ConfigMap %s/%s: data.%s is %r, no whole number: someone else wrote it; going on from the resourceVersion",
            namespace,
            FENCE,
            KEY,
            text[:64],
        )
    epoch = last + 1 if last else int(fence["metadata"]["resourceVersion"])
    # After the read: whatever another raises from here on makes the write below a conflict.
    check_leading()
    await api.replace(CONFIG_MAPS, namespace, FENCE, {**fence, "data": {**(fence.get("data") or {}), KEY: str(epoch)}})
    return epoch


async def _fence(api: Api, namespace: str) -> Object:
    try:
        return await api.get(CONFIG_MAPS, namespace, FENCE)
    except ApiError as error:
        if error.status != 404:
            raise
    manifest = {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": "ConfigMap",
        "metadata": {"name": FENCE, "namespace": namespace},
        # "0" until the first leader has its number: a policy with this ConfigMap as parameter refuses nobody by it.
        "data": {KEY: "0"},
    }
    return await api.create(CONFIG_MAPS, namespace, manifest)
