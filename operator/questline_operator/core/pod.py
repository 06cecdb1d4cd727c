"""What the core knows of a pod: whose attempt it runs, and how far its container `worker` has come."""

from dataclasses import dataclass
from typing import Self

from questline_operator.core.records import (
    ANNOTATION_EPOCH,
    ANNOTATION_KEY,
    CONTAINER,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_QUEUE,
    Json,
    Key,
    pod_name,
)
from questline_operator.core.times import optional_time, parse_time


@dataclass(frozen=True)
class Pod:
    """The pod of an attempt, or one that claims by its labels to be. ``gone``: it was seen, and is no more."""

    namespace: str
    name: str
    uid: str
    resource_version: int
    created_at: float
    job: str
    queue: str
    attempt: int
    owner_uid: str
    epoch: int
    deleting: bool
    phase: str
    phase_reason: str
    phase_message: str
    start_time: float | None
    disruption: str
    waiting_reason: str
    waiting_message: str
    started_at: float | None
    finished_at: float | None
    exit_code: int | None
    signal: int
    end_reason: str
    termination_message: str
    scheduling_message: str
    init_failure: str = ""
    deadline_seconds: int | None = None
    deletion_requested_at: float | None = None
    concurrency_key: str = ""
    gone: bool = False

    @classmethod
    def parse(cls, raw: Json) -> Self:
        """A record of the API's JSON of a pod that has the label ``questline.dev/job``."""
        meta, status = raw["metadata"], raw.get("status", {})
        labels, annotations = meta.get("labels", {}), meta.get("annotations", {})
        owner: Json = next((o for o in meta.get("ownerReferences", ()) if o.get("controller")), {})
        conditions = {c["type"]: c for c in status.get("conditions", ())}
        disruption = conditions.get("DisruptionTarget", {})
        scheduled = conditions.get("PodScheduled", {})
        container: Json = next((c for c in status.get("containerStatuses", ()) if c["name"] == CONTAINER), {})
        state = container.get("state", {})
        running, ended, waiting = state.get("running"), state.get("terminated"), state.get("waiting", {})
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=int(meta["resourceVersion"]),
            created_at=parse_time(meta["creationTimestamp"]),
            job=labels.get(LABEL_JOB, ""),
            queue=labels.get(LABEL_QUEUE, ""),
            attempt=_number(labels.get(LABEL_ATTEMPT)),
            owner_uid=owner.get("uid", "") if owner.get("kind") == "Job" else "",
            epoch=_number(annotations.get(ANNOTATION_EPOCH)),
            deleting="deletionTimestamp" in meta,
            phase=status.get("phase", "Pending"),
            phase_reason=status.get("reason", ""),
            phase_message=status.get("message", ""),
            start_time=optional_time(status.get("startTime")),
            disruption=disruption.get("reason", "") if disruption.get("status") == "True" else "",
            waiting_reason=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
            started_at=optional_time((running or ended or {}).get("startedAt")),
            finished_at=optional_time(ended.get("finishedAt")) if ended else None,
            exit_code=ended.get("exitCode") if ended else None,
            signal=ended.get("signal", 0) if ended else 0,
            end_reason=ended.get("reason", "") if ended else "",
            termination_message=ended.get("message", "") if ended else "",
            scheduling_message=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
            init_failure=_init_failure(status),
            deadline_seconds=raw.get("spec", {}).get("activeDeadlineSeconds"),
            deletion_requested_at=parse_time(meta["deletionTimestamp"]) - meta.get("deletionGracePeriodSeconds", 0)
            if "deletionTimestamp" in meta
            else None,
            concurrency_key=annotations.get(ANNOTATION_KEY, ""),
        )

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name

    def may_be_of(self, job_uid: str) -> bool:
        """Whether it is that Job's; one that has lost its owner has still the name of an attempt: labels are copied,
        by `kubectl debug --keep-labels` for one."""
        if self.owner_uid:
            return self.owner_uid == job_uid
        return self.name == pod_name(self.job, job_uid, self.attempt)

    @property
    def named_as_attempt(self) -> bool:
        """Whether the operator made it: labels can be forged, so a pod of another name is nobody's to delete."""
        return self.epoch > 0 and self.name.startswith(f"{self.job}-") and self.name.endswith(f"-{self.attempt}")

    @property
    def started(self) -> bool:
        """Whether the container ``worker`` has run."""
        return self.started_at is not None

    @property
    def ended(self) -> bool:
        """Whether the container ``worker`` runs no more, or never will: what frees the slot."""
        if self.gone or self.exit_code is not None:
            return True
        return self.phase in ("Succeeded", "Failed") and not self.started

    @property
    def ended_by_deletion(self) -> bool:
        """Whether the container ended only after its pod was to go: a clean exit on SIGTERM finishes no work."""
        requested = self.deletion_requested_at
        return requested is not None and (self.finished_at is None or self.finished_at >= requested)

    @property
    def live(self) -> bool:
        """Whether its container may run, so that it holds a slot."""
        return not self.ended

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more, sidecars included: what the next attempt's pod waits for."""
        return self.gone or (self.ended and self.phase in ("Succeeded", "Failed"))


def _init_failure(status: Json) -> str:
    """Which init container of the template failed, with its own words; "" where none did."""
    for container in status.get("initContainerStatuses", ()):
        ended = container.get("state", {}).get("terminated", {})
        if ended.get("exitCode", 0) != 0:
            words = ended.get("message", "").strip()
            what = f"init container {container['name']} failed with exit code {ended['exitCode']}"
            return f"{what}: {words}" if words else what
    return ""


def _number(text: str | None) -> int:
    """A label's number, or 0: labels can be forged and hold anything."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else 0
