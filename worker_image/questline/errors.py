"""Every error of Questline's SDK.

::

    QuestlineError
    ├── DefinitionError          @job cannot register this function
    ├── OptionInvalid            an option's value is not allowed (also a ValueError)
    ├── ArgsInvalid              the args are no args of the task
    ├── ResultInvalid            what a task returned cannot be kept
    ├── TaskNotFound             there is no such task in this image
    ├── NotInAttempt             this needs a running attempt, or may not be done in one
    ├── EnqueueError             the Job was not created ...
    │   ├── EnqueueRefused       ... the API server said no, and why
    │   ├── ApiUnavailable       ... it could not be reached, or was too busy, for as long as was tried
    │   └── EnqueueUncertain     ... or it was: no answer came (outside an attempt)
    ├── ApiRefused               the API server refused to show a Job
    ├── JobNotSucceeded          `.result()` of a Job that ended otherwise
    ├── JobGone                  the Job that was waited for does not exist
    ├── WaitTimeout              it did not end in time (also a TimeoutError)
    ├── ConfigurationError       it is not known which cluster is meant
    │   └── MissingDependency    ... without an extra that is not installed (also an ImportError)
    └── Signal                   raised by a task, to end its attempt in another way than with an error
        ├── Retry                again later; counts as a failure
        ├── Snooze               again later; counts as nothing
        ├── Fail                 failed, and no further attempt
        └── Cancel               no longer wanted

    EnqueueFateUnknown           a BaseException: ends the attempt, whatever the task catches

An error names the thing it is about and says what to do. The classes that a task raises are read by
`questline.envelope`, which makes an outcome of each.
"""

# Names without the suffix "Error" are the outcomes and reasons of the API.
# ruff: noqa: N818

from questline.durations import Duration, seconds_of


class QuestlineError(Exception):
    """The base of all errors of Questline but `EnqueueFateUnknown`."""


class DefinitionError(QuestlineError):
    """A function, its parameters or its annotations cannot be a task; raised where it is decorated."""


class OptionInvalid(QuestlineError, ValueError):
    """An option has a value that is not allowed; the message names the option, the value and what is."""


class ArgsInvalid(QuestlineError):
    """Args that do not bind, are of another type than annotated, are no JSON, or are too large."""


class ResultInvalid(QuestlineError):
    """A result that is no JSON or over 3,072 bytes of it."""


class TaskNotFound(QuestlineError):
    """No function of that name is registered with @job, or its module cannot be imported."""


class NotInAttempt(QuestlineError):
    """The call needs a running attempt, or cannot be made inside one."""


class EnqueueError(QuestlineError):
    """A Job could not be created."""


class EnqueueRefused(EnqueueError):
    """The API server refused the Job.

    Attributes:
        status: the HTTP status code.
        reason: the API's word for it, such as ``Forbidden`` or ``Invalid``.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ApiUnavailable(EnqueueError):
    """The API server did not take the Job for as long as it was tried, and surely has none."""


class EnqueueUncertain(EnqueueError):
    """No answer came, so the Job may exist or not. Outside an attempt only."""


class EnqueueFateUnknown(BaseException):
    """Nobody knows whether a child was created, so the attempt cannot succeed.

    A BaseException, so that no ``except Exception`` of a task goes on as if the child existed or not. The attempt is
    reported Failed even if the task returns.
    """


class ApiRefused(QuestlineError):
    """The API server refused a request that only reads.

    Attributes:
        status: the HTTP status code.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class JobNotSucceeded(QuestlineError):
    """The Job ended, but not Succeeded.

    Attributes:
        state: Failed, Canceled or Skipped.
        reason: the Job's ``status.reason``.
    """

    def __init__(self, message: str, *, state: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.state = state
        self.reason = reason


class JobGone(QuestlineError):
    """The Job does not exist, or was deleted while it was waited for."""


class WaitTimeout(QuestlineError, TimeoutError):
    """The Job did not end within the timeout; it goes on."""


class ConfigurationError(QuestlineError):
    """Neither a pod's service account nor a kubeconfig says which cluster is meant, or what they say is broken."""


class MissingDependency(ConfigurationError, ImportError):
    """A library of an extra is not installed."""


MAX_DELAY_SECONDS = 366 * 86_400
"""The longest delay of a Retry or a Snooze, which the operator holds to as well."""


class Signal(QuestlineError):
    """Base of what a task raises to end its attempt in a way of its own."""


class Retry(Signal):
    """Run the task again; counts as a failure, so that it ends at maxAttempts.

    Args:
        delay: how long to wait, instead of the backoff: seconds, "1h30m" or a timedelta, at most 366 days.
        message: why, for people.

    Raises:
        OptionInvalid: the delay is none.
    """

    def __init__(self, delay: Duration | None = None, message: str = "") -> None:
        super().__init__(message or "the task asked to be retried")
        self.delay_seconds = None if delay is None else seconds_of(delay, "Retry(delay)", maximum=MAX_DELAY_SECONDS)


class Snooze(Signal):
    """Not yet: run the task again later. Counts as no failure, so that it may go on for ever.

    Args:
        delay: how long to wait: seconds, "1h30m" or a timedelta, at most 366 days; 0 runs it again at once.
        message: why, for people.

    Raises:
        OptionInvalid: the delay is none.
    """

    def __init__(self, delay: Duration, message: str = "") -> None:
        super().__init__(message or "the task snoozed")
        self.delay_seconds = seconds_of(delay, "Snooze(delay)", maximum=MAX_DELAY_SECONDS)


class Fail(Signal):
    """The Job failed and no further attempt would help."""


class Cancel(Signal):
    """The Job is no longer wanted: it ends Canceled, and so do its descendants."""
