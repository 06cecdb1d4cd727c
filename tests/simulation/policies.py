"""The ValidatingAdmissionPolicies of charts/questline, as the in-memory API server applies them (design 8).

    server.store.admission += [lineage, report, immutable, Fence(server, lag=0.004)]

The policy on power is left out: nobody in the simulation asks for it. `tests/cluster/test_policies.py` holds the real
ones.
"""

import re
from typing import Any

from questline_operator.core.records import ANNOTATION_EPOCH
from questline_operator.shell.api import CONFIG_MAPS, JOBS, PODS, ApiError, Object
from questline_operator.shell.epoch import FENCE
from tests.simulation.apiserver import ApiServer
from tests.simulation.store import Change, Review

OPERATOR = "operator-"
POD = "pod/"
"""Clients named so are an operator's process, or a pod's: ``pod/<name>/<uid>``, as its token says it. Everyone else is
an admin."""


def lineage(review: Review) -> None:
    """8a: a pod makes nothing but children of its own attempt, and none but it makes those."""
    new = review.new
    if review.resource != JOBS or review.old is not None or new is None:
        return
    parent, (pod, uid) = new["spec"].get("parent"), _pod_of(review.client)
    if parent is None:
        if pod:
            raise _denied("questline-lineage", "spec.parent is missing")
        return
    if len(uid) < 8 or parent["podUID"] != uid or f"{parent['name']}-{parent['uid'][:8]}-{parent['attempt']}" != pod:
        raise _denied("questline-lineage", "spec.parent must be the attempt whose pod makes this request")
    name = new["metadata"]["name"]
    if not re.fullmatch(rf"[a-z0-9]([a-z0-9-]{{0,22}}[a-z0-9])?-{uid[:8]}-[a-z0-9]{{1,16}}", name):
        raise _denied("questline-lineage", "metadata.name of a child")


def report(review: Review) -> None:
    """8c: a pod adds one report to the Job whose current attempt it is, and changes nothing else."""
    if review.resource != JOBS or review.subresource != "status" or not review.client.startswith(POD):
        return
    assert review.old is not None
    assert review.new is not None
    pod, uid = _pod_of(review.client)
    before: dict[str, Any] = review.old.get("status", {})
    after: dict[str, Any] = review.new.get("status", {})
    meta, attempt = review.old["metadata"], before.get("attempt", 0)
    if pod != f"{meta['name']}-{meta['uid'][:8]}-{attempt}":
        raise _denied("questline-report", "status.report: a pod may report on its own attempt alone")
    if before.get("state") not in ("Starting", "Running"):
        raise _denied("questline-report", "status.report: the attempt has ended, or none has started")
    if "report" in before or "report" not in after:
        raise _denied("questline-report", "status.report: exactly one report an attempt, and the first one stands")
    if after["report"]["podUID"] != uid or after["report"]["attempt"] != attempt:
        raise _denied("questline-report", "status.report: podUID and attempt must be those of the pod that reports")
    if {name: value for name, value in after.items() if name != "report"} != before:
        raise _denied("questline-report", "status: whoever may not update questjobs/status adds status.report")


def immutable(review: Review) -> None:
    """spec.args stays as it was created."""
    if review.resource != JOBS or review.subresource or review.old is None or review.new is None:
        return
    if review.new["spec"].get("args") != review.old["spec"].get("args"):
        raise _denied("questline-immutable", "spec.args is immutable: create another Job")


class Fence:
    """8d: an operator whose epoch is below that of ConfigMap questline-fence makes no pod and no Job, and writes none.

    Args:
        lag: seconds from the write of the ConfigMap to the moment from which the policy goes by it.
    """

    def __init__(self, server: ApiServer, *, namespace: str, lag: float) -> None:
        self._server = server
        self._namespace = namespace
        self._lag = lag
        self._written: list[tuple[float, str]] = [(0.0, "0")]
        self.refused = 0
        """How many writes it kept out."""
        server.store.observers.append(self._see)

    @property
    def epoch(self) -> str:
        """The one in force."""
        now = self._server.clock.monotonic()
        while len(self._written) > 1 and self._written[1][0] + self._lag <= now:
            del self._written[0]
        return self._written[0][1]

    def __call__(self, review: Review) -> None:
        """Refuse a write of an older epoch.

        Raises:
            ApiError: 403.
        """
        new = review.new
        if not review.client.startswith(OPERATOR) or new is None:
            return
        if review.resource in (PODS, JOBS) and review.old is None:
            epoch = str(new["metadata"].get("annotations", {}).get(ANNOTATION_EPOCH, "0"))
        elif review.resource == JOBS and review.subresource == "status":
            epoch = str(new.get("status", {}).get("epoch", 0))
        else:
            return
        in_force = self.epoch
        if not re.fullmatch("[0-9]{1,18}", in_force):
            return
        if not re.fullmatch("[0-9]{1,18}", epoch) or int(epoch) < int(in_force):
            self.refused += 1
            raise _denied(
                "questline-fence",
                f"this operator no longer leads: epoch {epoch} is below {in_force} of ConfigMap questline-fence",
            )

    def _see(self, change: Change) -> None:
        if change.resource == CONFIG_MAPS and change.key == (self._namespace, FENCE):
            data: Object = change.object.get("data") or {}
            self._written.append((self._server.clock.monotonic(), str(data.get("epoch", "0"))))


def _pod_of(client: str) -> tuple[str, str]:
    """The name and the UID of the pod whose token it is; two "" for anybody else."""
    if not client.startswith(POD):
        return "", ""
    name, _, uid = client[len(POD) :].partition("/")
    return name, uid


def _denied(policy: str, why: str) -> ApiError:
    return ApiError(
        403, "Forbidden", f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {why}"
    )
