"""Install or upgrade the CRDs: server-side apply, which `helm upgrade` does not do for a chart's crds folder."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import kopf
import orjson
import yaml

from questline_operator.shell.api import CRDS, ApiError, NoAnswerError, Object
from questline_operator.shell.clock import Clock, SystemClock
from questline_operator.shell.http_api import HttpApi

logger = logging.getLogger(__name__)

FIELD_MANAGER = "helm"
"""What helm 4 applies a chart's `crds/` as: under another name, an install over kept CRDs would end in a conflict."""
PATIENCE_SECONDS = 60.0
"""How long to wait for the API server to answer, and to serve an applied CRD."""
RETRY_SECONDS = 1.0
POLL_SECONDS = 0.1
"""Between looks at a CRD that was just applied: a real API server serves it within some tens of milliseconds."""

T = TypeVar("T")

_PATH = f"/apis/{CRDS.group}/{CRDS.version}/{CRDS.plural}"
_APPLY = "application/apply-patch+yaml"


class CrdInstallError(Exception):
    """The CRDs are not installed as the folder has them: the message names the file or the CRD, and why."""


async def apply_crds(info: kopf.ConnectionInfo, folder: Path, *, clock: Clock | None = None) -> None:
    """Apply every ``*.yaml`` of the folder and wait until each is Established; one line of progress each.

    Fields that others own are taken over: these CRDs are Questline's.

    Raises:
        CrdInstallError: a file is no CRD, the API server refuses one, or does not serve it within a minute.
    """
    manifests = read_crds(folder)
    async with HttpApi.connect(info) as api:
        for manifest in manifests:
            await _apply(api, manifest, clock or SystemClock())


def read_crds(folder: Path) -> list[Object]:
    """The CRDs of the folder's ``*.yaml`` files, by file name and in order.

    Raises:
        CrdInstallError: there is none, or a file holds something else.
    """
    if not folder.is_dir():
        raise CrdInstallError(f"{folder} is no folder: name the one that holds the CRDs")
    manifests: list[Object] = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            documents = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CrdInstallError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
        for document in documents:
            if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
                raise CrdInstallError(f"{file}: holds something that is no CustomResourceDefinition")
            manifests.append(document)
    if not manifests:
        raise CrdInstallError(f"{folder} holds no *.yaml file: name the folder of the CRDs")
    return manifests


async def _apply(api: HttpApi, manifest: Object, clock: Clock) -> None:
    name, started = manifest["metadata"]["name"], clock.monotonic()
    body = orjson.dumps(manifest)

    async def apply() -> tuple[str, Object]:
        before = await _version(api, name)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return before, await api.request("PATCH", f"{_PATH}/{name}", query=query, body=body, content_type=_APPLY)

    before, applied = await _insist(apply, f"{name} was not applied", clock)
    version = applied["metadata"]["resourceVersion"]
    verb = "created" if not before else "unchanged" if before == version else "updated"
    while not _established(applied):
        if clock.monotonic() >= started + PATIENCE_SECONDS:
            conditions = _conditions(applied) or "it has no conditions"
            raise CrdInstallError(f"{name} is not served {PATIENCE_SECONDS:g} s after it was applied: {conditions}")
        await clock.sleep(POLL_SECONDS)
        applied = await _insist(lambda: api.get(CRDS, "", name), f"{name} was not read", clock)
    logger.info("%s %s (%.1f s)", name, verb, clock.monotonic() - started)


async def _version(api: HttpApi, name: str) -> str:
    """The CRD's resourceVersion, or "" where there is none."""
    try:
        version: str = (await api.get(CRDS, "", name))["metadata"]["resourceVersion"]
    except ApiError as error:
        if error.status != 404:
            raise
        return ""
    return version


async def _insist(call: Callable[[], Awaitable[T]], failure: str, clock: Clock) -> T:
    """Call until there is a definite answer, within `PATIENCE_SECONDS`; every call here may be repeated."""
    deadline, told = clock.monotonic() + PATIENCE_SECONDS, ""
    while True:
        try:
            return await call()
        except (ApiError, NoAnswerError) as error:
            # No new credentials come while this runs, so a 401 is final too.
            final = isinstance(error, ApiError) and (error.definite or error.status == HTTPStatus.UNAUTHORIZED)
            if final or clock.monotonic() >= deadline:
                raise CrdInstallError(f"{failure}: {error}") from None
            if told != str(error):
                told = str(error)
                logger.warning("%s yet: %s", failure, told)
        await clock.sleep(RETRY_SECONDS)


def _established(crd: Object) -> bool:
    conditions = {c["type"]: c["status"] for c in (crd.get("status") or {}).get("conditions") or ()}
    return conditions.get("Established") == "True" and conditions.get("NamesAccepted") == "True"


def _conditions(crd: Object) -> str:
    """What stands in the way, in the API server's words."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return "; ".join(f"{c['type']} {c['status']}: {c.get('message', '')}" for c in conditions)
