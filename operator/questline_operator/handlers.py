"""The kopf half: the process's settings and credentials, and three small kinds. Each handler calls a plain function.

Jobs and pods have no handlers here: kopf would cost a PATCH a Job and lose deletions on a relist (docs/decisions.md).
"""

from collections.abc import Callable
from typing import Any

import kopf
from prometheus_client import Counter

from questline_operator.core.records import GROUP, Key
from questline_operator.shell.leader import Leader

VERSION = "v1alpha1"


def registry(
    connect: Callable[[], kopf.ConnectionInfo | None], leader: Callable[[], Leader | None], events: Counter
) -> kopf.OperatorRegistry:
    """The handlers of one process.

    Args:
        connect: reads the process's credentials, again whenever kopf finds them expired.
        leader: what runs while this process leads, else None.
        events: counts what the handlers are called for, by resource.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)

    @kopf.on.login(registry=handlers)
    def _login(**_: Any) -> kopf.ConnectionInfo | None:
        return connect()

    @kopf.on.event(GROUP, VERSION, "questqueues", registry=handlers)
    def _queue_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        events.labels(resource="questqueues").inc()
        queue_changed(leader(), (namespace or "", name or ""))

    @kopf.on.event(GROUP, VERSION, "questworkers", registry=handlers)
    def _worker_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        events.labels(resource="questworkers").inc()
        worker_changed(leader(), (namespace or "", name or ""))

    @kopf.on.event(GROUP, VERSION, "questschedules", registry=handlers)
    def _schedule_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        events.labels(resource="questschedules").inc()
        schedule_changed(leader(), (namespace or "", name or ""))

    return handlers


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf's settings: nothing of its own on users' objects, no Kubernetes Events, no peering."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.server_timeout = 290
    settings.watching.client_timeout = 300
    settings.networking.request_timeout = 10
    settings.queueing.idle_timeout = 0.5
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)


def queue_changed(leader: Leader | None, key: Key) -> None:
    """Have the Queue's counts looked at."""
    if leader is not None:
        leader.controller.changed_queues.add(key)


def worker_changed(leader: Leader | None, key: Key) -> None:
    """Have the Worker checked, if its check is not known."""
    if leader is not None:
        leader.controller.changed_workers.add(key)


def schedule_changed(leader: Leader | None, key: Key) -> None:
    """Have the Schedule looked at: its line may be new, wrong or right again."""
    if leader is not None:
        leader.controller.look_at_schedule(key)
