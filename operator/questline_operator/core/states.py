"""The words of a Job's status: its states and the reasons for being in one (drawn in docs/state_machine.md)."""

from enum import StrEnum


class State(StrEnum):
    """Where a Job is. `TERMINAL` ones are left only by a rerun."""

    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"
    SKIPPED = "Skipped"


ACTIVE = frozenset({State.STARTING, State.RUNNING})
"""An attempt is claimed and its outcome is not written yet."""
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED, State.SKIPPED})


class Reason(StrEnum):
    """Why a Job is in its state."""

    # Waiting
    STAGED = "Staged"
    DEPENDENCY_PENDING = "DependencyPending"
    DEPENDENCY_MISSING = "DependencyMissing"
    NOT_BEFORE = "NotBefore"
    BACKING_OFF = "BackingOff"
    AT_CONCURRENCY_LIMIT = "AtConcurrencyLimit"
    KEY_BUSY = "KeyBusy"
    RATE_LIMITED = "RateLimited"
    QUEUE_PAUSED = "QueuePaused"
    SUSPENDED = "Suspended"
    QUEUE_NOT_FOUND = "QueueNotFound"
    WORKER_NOT_FOUND = "WorkerNotFound"
    WORKER_NOT_READY = "WorkerNotReady"
    POD_REJECTED = "PodRejected"
    # Starting, Running
    CANCELING = "Canceling"
    # Skipped
    DUPLICATE = "Duplicate"
    UPSTREAM_FAILED = "UpstreamFailed"
    PARENT_FAILED = "ParentFailed"
    PARENT_GONE = "ParentGone"
    LATE_CHILD = "LateChild"
    DEPENDENCY_CYCLE = "DependencyCycle"
    QUEUE_NOT_ALLOWED = "QueueNotAllowed"
    WORKER_NOT_ALLOWED = "WorkerNotAllowed"
    UPSTREAM_NOT_ALLOWED = "UpstreamNotAllowed"
    TOO_DEEP = "TooDeep"
    TOO_MANY_CHILDREN = "TooManyChildren"
    # Canceled
    REQUESTED = "Requested"
    ANCESTOR_CANCELED = "AncestorCanceled"
    RAISED = "Raised"
    REPLACED = "Replaced"
    # Failed
    TASK_ERROR = "TaskError"
    TIMEOUT = "Timeout"
    OOM_KILLED = "OOMKilled"
    START_TIMEOUT = "StartTimeout"
    NO_OUTCOME = "NoOutcome"
    NON_ZERO_EXIT = "NonZeroExit"
    TASK_NOT_FOUND = "TaskNotFound"
    ARGS_INVALID = "ArgsInvalid"
    ARGS_TOO_LARGE = "ArgsTooLarge"
    RESULT_INVALID = "ResultInvalid"
    FAIL = "Fail"


WRITTEN_AT_ONCE = frozenset(
    {
        Reason.QUEUE_NOT_FOUND,
        Reason.WORKER_NOT_FOUND,
        Reason.WORKER_NOT_READY,
        Reason.POD_REJECTED,
        Reason.DEPENDENCY_MISSING,
        Reason.SUSPENDED,
    }
)
"""Reasons of Waiting that need a person; the others are written after `REASON_DELAY_SECONDS`."""
REASON_DELAY_SECONDS = 30.0


class OutcomeKind(StrEnum):
    """How an attempt ended: the envelope's outcomes, and the one that only the operator can tell."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    FATAL = "Fatal"
    RETRY = "Retry"
    SNOOZED = "Snoozed"
    CANCELED = "Canceled"
    DISRUPTED = "Disrupted"
