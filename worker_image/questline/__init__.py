"""Questline: background jobs as Kubernetes resources.

Decorate a function of a module with `@job` and enqueue it; each attempt of it runs in a pod of its own. The reference
is docs/sdk.md; the errors are drawn in `questline.errors`.

Importing this imports no more than a task's module needs: what talks to the API server comes with the first enqueue.
"""

from typing import TYPE_CHECKING, Any

from questline.errors import (
    ApiRefused,
    ApiUnavailable,
    ArgsInvalid,
    Cancel,
    ConfigurationError,
    DefinitionError,
    EnqueueError,
    EnqueueFateUnknown,
    EnqueueRefused,
    EnqueueUncertain,
    Fail,
    JobGone,
    JobNotSucceeded,
    MissingDependency,
    NotInAttempt,
    OptionInvalid,
    QuestlineError,
    ResultInvalid,
    Retry,
    Signal,
    Snooze,
    TaskNotFound,
    WaitTimeout,
)
from questline.options import Backoff
from questline.task import Call, Task, job

if TYPE_CHECKING:
    from questline.attempt import Attempt, JobInfo, current
    from questline.chains import FanOut, chain, fan_out, join
    from questline.enqueue import enqueue_many
    from questline.handle import Handle
    from questline.schedules import Schedule, schedule
    from questline.stopping import StopRequest

__version__ = "0.1.0"

__all__ = [
    "ApiRefused",
    "ApiUnavailable",
    "ArgsInvalid",
    "Attempt",
    "Backoff",
    "Call",
    "Cancel",
    "ConfigurationError",
    "DefinitionError",
    "EnqueueError",
    "EnqueueFateUnknown",
    "EnqueueRefused",
    "EnqueueUncertain",
    "Fail",
    "FanOut",
    "Handle",
    "JobGone",
    "JobInfo",
    "JobNotSucceeded",
    "MissingDependency",
    "NotInAttempt",
    "OptionInvalid",
    "QuestlineError",
    "ResultInvalid",
    "Retry",
    "Schedule",
    "Signal",
    "Snooze",
    "StopRequest",
    "Task",
    "TaskNotFound",
    "WaitTimeout",
    "__version__",
    "chain",
    "current",
    "enqueue_many",
    "fan_out",
    "job",
    "join",
    "schedule",
]

_LAZY = {
    "Attempt": "attempt",
    "JobInfo": "attempt",
    "current": "attempt",
    "FanOut": "chains",
    "chain": "chains",
    "fan_out": "chains",
    "join": "chains",
    "enqueue_many": "enqueue",
    "Handle": "handle",
    "Schedule": "schedules",
    "schedule": "schedules",
    "StopRequest": "stopping",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"questline.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
