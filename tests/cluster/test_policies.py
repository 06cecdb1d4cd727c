"""The admission policies of the chart, asked by real tokens: what each allows and what it refuses."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kube import APPLY_PATCH, Answer, Json, Kube

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive]

SYSTEM = "questline-system"
OPERATOR = "questline-operator"
NUMBERS = itertools.count()
FENCE = f"/api/v1/namespaces/{SYSTEM}/configmaps/questline-fence"


@pytest.fixture(scope="module", autouse=True)
def _no_operator(kube: Kube) -> Iterator[None]:
    """The tests play the operator's part, so it does not run meanwhile."""
    replicas = kube.kubectl("get", "deployment", OPERATOR, "-n", SYSTEM, "-o", "jsonpath={.spec.replicas}")
    kube.kubectl("scale", "deployment", OPERATOR, "-n", SYSTEM, "--replicas=0")
    kube.kubectl(
        "wait", "--for=delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--timeout=60s"
    )
    yield
    kube.kubectl("scale", "deployment", OPERATOR, "-n", SYSTEM, f"--replicas={replicas}")
    if replicas != "0":
        kube.kubectl("rollout", "status", f"deployment/{OPERATOR}", "-n", SYSTEM, "--timeout=120s")


def a_pod(kube: Kube, namespace: str, name: str, account: str, *, labels: Json | None = None) -> Json:
    """A pod that stays gated from scheduling: it runs nothing, and its tokens are as real as any."""
    container = {"name": "worker", "image": "questline.dev/worker:dev"}
    manifest = {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "serviceAccountName": account,
            "schedulingGates": [{"name": "questline.dev/test"}],
            "containers": [container],
        },
    }
    answer = kube.request("POST", f"/api/v1/namespaces/{namespace}/pods", manifest)
    assert answer.ok, answer.message
    return answer.body


@dataclass
class Attempt:
    """A Job whose attempt runs, and the token that its pod has."""

    kube: Kube
    namespace: str
    job: Json
    pod: Json
    token: str
    number: int

    @property
    def name(self) -> str:
        name: str = self.job["metadata"]["name"]
        return name

    @property
    def parent(self) -> Json:
        """What the SDK writes into spec.parent."""
        return {
            "name": self.name,
            "uid": self.job["metadata"]["uid"],
            "attempt": self.number,
            "podUID": self.pod["metadata"]["uid"],
            "index": 0,
        }

    @property
    def uid8(self) -> str:
        uid: str = self.pod["metadata"]["uid"]
        return uid[:8]

    def enqueue(self, *, name: str | None = None, parent: Json | None = None, **spec: Any) -> Answer:
        """What the SDK sends, as the pod."""
        spec = {"task": "tasks:child", **({"parent": self.parent} if parent is None else parent), **spec}
        return self.kube.create(self.namespace, "Job", name or f"child-{self.uid8}-0", spec, token=self.token)

    @property
    def report(self) -> Json:
        """The report of a success."""
        uid = self.pod["metadata"]["uid"]
        return {"v": 1, "attempt": self.number, "outcome": "Succeeded", "result": {"n": None}, "podUID": uid}

    def send(self, *operations: Json, job: str | None = None, report: Json | None = None) -> Answer:
        """A JSON Patch of the Job's status as the pod: its report, and more ``operations``."""
        patch = [{"op": "add", "path": "/status/report", "value": report or self.report}, *operations]
        return self.kube.patch_job(self.namespace, job or self.name, patch, subresource="status", token=self.token)


def run_attempt(
    kube: Kube,
    namespace: str,
    name: str,
    *,
    number: int = 1,
    account: str = "questline-worker",
    **status: Any,
) -> Attempt:
    """Play the operator: a Job with a claimed attempt, and the attempt's pod."""
    created = kube.create(namespace, "Job", name, {"task": "tasks:parent", "suspend": True})
    assert created.ok, created.message
    claim = {"state": "Running", "attempt": number, "epoch": 3, "failures": number - 1, **status}
    job = kube.patch_job(namespace, name, {"status": claim}, subresource="status")
    assert job.ok, job.message
    uid: str = job.body["metadata"]["uid"]
    pod = a_pod(kube, namespace, f"{name}-{uid[:8]}-{number}", account)
    return Attempt(kube, namespace, job.body, pod, kube.token(namespace, account, pod=pod), number)


@pytest.fixture(scope="module")
def workers(kube: Kube, module_namespace: str) -> str:
    """A namespace with a Worker's ServiceAccount."""
    kube.account(module_namespace, "questline-worker", "questline-worker")
    return module_namespace


@pytest.fixture
def attempt(kube: Kube, workers: str) -> Attempt:
    """Attempt 2 of a Job, running."""
    return run_attempt(kube, workers, f"parent-{next(NUMBERS)}", number=2)


def refused(answer: Answer, policy: str, words: str) -> None:
    """That policy said no, in these words."""
    assert not answer.ok, f"allowed, but should be refused: {words}"
    assert f"ValidatingAdmissionPolicy '{policy}'" in answer.message, answer.message
    assert words in answer.message, answer.message


# (a) lineage


def test_a_pod_enqueues_children_of_its_own_attempt(attempt: Attempt) -> None:
    answer = attempt.enqueue(name=f"generate-thumbnail-{attempt.uid8}-17")
    assert answer.ok, answer.message
    assert attempt.enqueue(name=f"x-{attempt.uid8}-0123456789").ok


def test_a_child_made_twice_is_told_from_a_refusal(attempt: Attempt) -> None:
    assert attempt.enqueue().ok
    assert attempt.enqueue().status == 409


def test_a_pod_makes_no_root_job(attempt: Attempt) -> None:
    refused(attempt.enqueue(parent={}), "questline-lineage", "spec.parent is missing")


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("another attempt", {"attempt": 1}),
        ("another pod", {"podUID": "00000000-0000-0000-0000-000000000000"}),
        ("another Job", {"name": "other"}),
        ("another Job of that name", {"uid": "00000000-0000-0000-0000-000000000000"}),
    ],
)
def test_a_pod_makes_no_child_of_anything_else(attempt: Attempt, what: str, change: Json) -> None:
    answer = attempt.enqueue(parent={"parent": {**attempt.parent, **change}})
    refused(answer, "questline-lineage", "spec.parent must be the attempt whose pod makes this request")


@pytest.mark.parametrize(
    "name",
    [
        "child-{other}-0",
        "child-{uid8}",
        "child-{uid8}-0-1",
        "-{uid8}-0",
        "{uid8}-0",
        "child-{uid8}-01234567890123456",
        "abcdefghijklmnopqrstuvwxy-{uid8}-0",
        "child-{uid8}-a-{other}-0",
    ],
)
def test_a_childs_name_holds_its_own_pods_uid_in_its_place(attempt: Attempt, name: str) -> None:
    name = name.format(uid8=attempt.uid8, other="0badcafe")
    answer = attempt.enqueue(name=name)
    assert not answer.ok
    if not name.startswith("-"):  # no DNS label: the CRD is the first to refuse it
        refused(answer, "questline-lineage", "metadata.name of a child must be")


def test_parents_are_refused_from_whoever_is_no_such_pod(kube: Kube, attempt: Attempt) -> None:
    unbound = kube.token(attempt.namespace, "questline-worker")
    spec = {"task": "tasks:child", "parent": attempt.parent}
    name = f"child-{attempt.uid8}-1"
    for token in (unbound, None):
        refused(
            kube.create(attempt.namespace, "Job", name, spec, token=token),
            "questline-lineage",
            "spec.parent must be the attempt whose pod makes this request",
        )


def test_a_pod_of_another_namespace_is_nobodys_attempt_though_its_name_is_right(kube: Kube, workers: str) -> None:
    elsewhere = kube.new_namespace()
    try:
        kube.account(elsewhere, "foreign")
        subject = f"--serviceaccount={elsewhere}:foreign"
        kube.kubectl("create", "rolebinding", "foreign", "-n", workers, "--clusterrole=questline-worker", subject)
        kube.await_rights(workers, kube.token(elsewhere, "foreign"))
        attempt = run_attempt(kube, workers, "abroad")
        pod = a_pod(kube, elsewhere, attempt.pod["metadata"]["name"], "foreign")
        attempt.pod, attempt.token = pod, kube.token(elsewhere, "foreign", pod=pod)
        refused(attempt.enqueue(), "questline-lineage", "spec.parent must be the attempt whose pod makes this request")
        refused(attempt.send(), "questline-report", "a pod may report on its own attempt alone")
    finally:
        kube.kubectl("delete", "namespace", elsewhere, "--wait=false")


def test_an_enqueuer_and_an_editor_make_root_jobs(kube: Kube, namespace: str) -> None:
    for role in ("questline-enqueuer", "edit", "admin"):
        token = kube.token(namespace, kube.account(namespace, f"user-{role}", role))
        answer = kube.create(namespace, "Job", f"root-{role}", {"task": "tasks:root", "suspend": True}, token=token)
        assert answer.ok, answer.message


def test_a_viewer_makes_nothing(kube: Kube, namespace: str) -> None:
    token = kube.token(namespace, kube.account(namespace, "viewer", "view"))
    assert kube.create(namespace, "Job", "root", {"task": "tasks:root"}, token=token).status == 403
    assert kube.request("GET", f"/apis/questline.dev/v1alpha1/namespaces/{namespace}/questjobs", token=token).ok


# (b) power


POWERS: list[Json] = [
    {"command": ["sh", "-c", "id"]},
    {"task": "tasks:root", "image": "evil"},
    {"task": "tasks:root", "env": [{"name": "PYTHONPATH", "value": "/tmp"}]},
    {"task": "tasks:root", "resources": {"limits": {"cpu": "64"}}},
    {"task": "tasks:root", "worker": "admins"},
]


@pytest.mark.parametrize("spec", POWERS, ids=lambda spec: list(spec)[-1])
def test_what_decides_the_code_needs_the_right_to_create_pods(kube: Kube, namespace: str, spec: Json) -> None:
    enqueuer = kube.token(namespace, kube.account(namespace, "enqueuer", "questline-enqueuer"))
    editor = kube.token(namespace, kube.account(namespace, "editor", "edit"))
    field = list(spec)[-1]
    refused(
        kube.create(namespace, "Job", "powerful", spec, token=enqueuer),
        "questline-power",
        f"to set spec.{field} needs the right to create pods in namespace {namespace}",
    )
    answer = kube.create(namespace, "Job", "powerful", {**spec, "suspend": True}, token=editor)
    assert answer.ok, answer.message


@pytest.mark.parametrize("spec", POWERS[1:], ids=lambda spec: list(spec)[-1])
def test_a_pod_gives_its_children_no_power_either(attempt: Attempt, spec: Json) -> None:
    field = list(spec)[-1]
    refused(attempt.enqueue(**spec), "questline-power", f"to set spec.{field} needs the right to create pods")


def test_a_worker_is_written_by_those_who_may_create_pods(kube: Kube, namespace: str) -> None:
    kube.kubectl(
        "create", "role", "workers", "-n", namespace, "--verb=create,update,patch",
        "--resource=questworkers.questline.dev",
    )  # fmt: skip
    kube.account(namespace, "keeper")
    kube.kubectl(
        "create", "rolebinding", "keeper", "-n", namespace, "--role=workers", f"--serviceaccount={namespace}:keeper"
    )
    keeper = kube.token(namespace, "keeper")
    editor = kube.token(namespace, kube.account(namespace, "editor", "edit"))
    words = f"to set a Worker needs the right to create pods in namespace {namespace}"
    refused(kube.create(namespace, "Worker", "mine", {"image": "x"}, token=keeper), "questline-power", words)
    assert kube.create(namespace, "Worker", "mine", {"image": "x"}, token=editor).ok
    path = f"/apis/questline.dev/v1alpha1/namespaces/{namespace}/questworkers/mine"
    merge = "application/merge-patch+json"
    template = {"spec": {"template": {"spec": {"hostNetwork": True}}}}
    refused(kube.request("PATCH", path, template, token=keeper, content_type=merge), "questline-power", words)
    assert kube.request("PATCH", path, template, token=editor, content_type=merge).ok
    # What the garbage collector does, which may create no pods.
    label = {"metadata": {"labels": {"a": "b"}}}
    assert kube.request("PATCH", path, label, token=keeper, content_type=merge).ok


# (c) report


@pytest.mark.parametrize("state", ["Starting", "Running"])
def test_a_pod_reports_once_on_its_own_attempt(kube: Kube, workers: str, state: str) -> None:
    attempt = run_attempt(
        kube, workers, f"reporter-{state.lower()}", state=state, result=None, error={"type": "ValueError"}
    )
    answer = attempt.send()
    assert answer.ok, answer.message
    status = kube.job(workers, attempt.name)["status"]
    assert status.pop("report") == attempt.report
    assert status == attempt.job["status"]
    second = attempt.send(report={**attempt.report, "outcome": "Failed"})
    refused(second, "questline-report", "exactly one report an attempt, and the first one stands")


def test_a_null_result_survives_in_a_report(kube: Kube, attempt: Attempt) -> None:
    for result in (None, [None, {"a": None}]):
        assert attempt.send(report={**attempt.report, "result": result}).ok
        report = kube.job(attempt.namespace, attempt.name)["status"]["report"]
        assert "result" in report
        assert report["result"] == result
        kube.patch_job(attempt.namespace, attempt.name, {"status": {"report": None}}, subresource="status")


def test_a_pod_reports_on_no_other_job(kube: Kube, attempt: Attempt) -> None:
    run_attempt(kube, attempt.namespace, "other", number=2)
    refused(attempt.send(job="other"), "questline-report", "a pod may report on its own attempt alone")


def test_a_stale_attempt_reports_no_more(kube: Kube, attempt: Attempt) -> None:
    claim = {"status": {"attempt": attempt.number + 1, "state": "Starting"}}
    assert kube.patch_job(attempt.namespace, attempt.name, claim, subresource="status").ok
    refused(attempt.send(), "questline-report", "a pod may report on its own attempt alone")


@pytest.mark.parametrize("state", ["Waiting", "Succeeded", "Failed", "Canceled", "Skipped"])
def test_nothing_is_reported_once_the_attempt_has_ended(kube: Kube, attempt: Attempt, state: str) -> None:
    kube.patch_job(attempt.namespace, attempt.name, {"status": {"state": state}}, subresource="status")
    refused(attempt.send(), "questline-report", "the attempt has ended, or none has started")


@pytest.mark.parametrize("change", [{"podUID": "00000000-0000-0000-0000-000000000000"}, {"attempt": 1}])
def test_a_report_names_the_pod_and_the_attempt_that_sends_it(attempt: Attempt, change: Json) -> None:
    answer = attempt.send(report={**attempt.report, **change})
    refused(answer, "questline-report", "podUID and attempt must be those of the pod that reports")


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/status/state", "value": "Succeeded"},
        {"op": "replace", "path": "/status/failures", "value": 0},
        {"op": "remove", "path": "/status/failures"},
        {"op": "replace", "path": "/status/epoch", "value": 4},
        {"op": "add", "path": "/status/reason", "value": "Fail"},
        {"op": "add", "path": "/status/result", "value": None},
        {"op": "add", "path": "/status/succeededAttempts", "value": [1, 2]},
        {"op": "add", "path": "/status/attempts", "value": [{"number": 1, "outcome": "Succeeded"}]},
        {"op": "add", "path": "/status/conditions", "value": [{"type": "Succeeded", "status": "True"}]},
        {"op": "add", "path": "/status/children", "value": {"total": 5}},
        {"op": "add", "path": "/status/nextAttemptAt", "value": "2026-01-01T00:00:00.5Z"},
        {"op": "replace", "path": "/status", "value": {"state": "Running", "attempt": 2}},
    ],
    ids=lambda operation: f"{operation['op']} {operation['path']}",
)
def test_a_report_changes_nothing_else_of_the_status(attempt: Attempt, operation: Json) -> None:
    answer = attempt.send(operation)
    if operation["path"] == "/status":
        refused(answer, "questline-report", "exactly one report an attempt")
    else:
        refused(answer, "questline-report", "adds status.report and changes nothing else")


def test_no_form_of_patch_goes_round_the_policy(kube: Kube, attempt: Attempt) -> None:
    words = "exactly one report an attempt"
    merge = kube.patch_job(
        attempt.namespace, attempt.name, {"status": {"state": "Failed"}}, subresource="status", token=attempt.token
    )
    refused(merge, "questline-report", words)
    apply = kube.request(
        "PATCH",
        f"/apis/questline.dev/v1alpha1/namespaces/{attempt.namespace}/questjobs/{attempt.name}/status"
        "?fieldManager=me&force=true",
        {"apiVersion": "questline.dev/v1alpha1", "kind": "Job", "status": {"state": "Failed"}},
        token=attempt.token,
        content_type=APPLY_PATCH,
    )
    refused(apply, "questline-report", words)


def test_nothing_but_the_status_changes_with_a_report(kube: Kube, attempt: Attempt) -> None:
    before = kube.job(attempt.namespace, attempt.name)
    answer = attempt.send(
        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}},
        {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}},
        {"op": "add", "path": "/metadata/finalizers", "value": ["a.b/c"]},
        {
            "op": "add",
            "path": "/metadata/ownerReferences",
            "value": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}],
        },
        {"op": "add", "path": "/spec/cancel", "value": True},
    )
    assert answer.ok, answer.message
    after = kube.job(attempt.namespace, attempt.name)
    moving = ("managedFields", "resourceVersion")
    assert {k: v for k, v in after["metadata"].items() if k not in moving} == {
        k: v for k, v in before["metadata"].items() if k not in moving
    }
    assert after["spec"] == before["spec"]


def test_a_pod_runs_no_job_again(kube: Kube, attempt: Attempt) -> None:
    """Its rights end at status: neither its own Job nor another, and nothing of a rerun in the status either."""
    other = kube.create(attempt.namespace, "Job", f"ended-{attempt.name}", {"task": "tasks:root", "suspend": True})
    for name in (attempt.name, other.body["metadata"]["name"]):
        for subresource in ("", "status"):
            raised = kube.patch_job(
                attempt.namespace, name, {"spec": {"rerun": 1}}, subresource=subresource, token=attempt.token
            )
            assert raised.status in (403, 422), raised.message
        assert "rerun" not in kube.job(attempt.namespace, name)["spec"]
    armed = {"op": "add", "path": "/status/armed", "value": {"attempt": 2}}
    refused(attempt.send(armed), "questline-report", "adds status.report and changes nothing else")


def test_a_report_is_bounded(attempt: Attempt) -> None:
    answer = attempt.send(report={**attempt.report, "result": ["x" * 66_000]})
    refused(answer, "questline-report", "at most 4096 bytes of JSON")
    for field, value in {"message": "x" * 513, "reason": "not a word", "error": {"traceback": "x" * 1_537}}.items():
        answer = attempt.send(report={**attempt.report, field: value})
        assert f"status.report.{field}" in answer.message


@pytest.mark.parametrize(
    "result", ["ä\n" * 768, [1e20] * 600, [1.5] * 700, [[]] * 1000, '"\\' * 760, {"a": [None] * 600}]
)
def test_the_largest_result_fits_into_a_report(attempt: Attempt, result: Any) -> None:
    answer = attempt.send(report={**attempt.report, "result": result, "message": "ü" * 256})
    assert answer.ok, answer.message


def test_of_many_reports_at_one_moment_one_is_accepted(attempt: Attempt) -> None:
    reports = [{**attempt.report, "result": number} for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda report: attempt.send(report=report), reports))
    assert [answer.ok for answer in answers].count(True) == 1


def test_whoever_may_update_the_status_is_not_held(kube: Kube, workers: str) -> None:
    kube.create(workers, "Job", "free", {"task": "tasks:root", "suspend": True})
    kube.kubectl(
        "create", "role", "writer", "-n", workers, "--verb=update,patch", "--resource=questjobs.questline.dev/status"
    )
    kube.account(workers, "writer")
    kube.kubectl(
        "create", "rolebinding", "writer", "-n", workers, "--role=writer", f"--serviceaccount={workers}:writer"
    )
    change = {"status": {"state": "Skipped", "reason": "Duplicate"}}
    token = kube.token(workers, "writer")
    answer = kube.patch_job(workers, "free", change, subresource="status", token=token)
    assert answer.ok, answer.message


# The worker's rights, beside the policies


def test_a_worker_may_create_and_report_and_nothing_else(kube: Kube, attempt: Attempt) -> None:
    base = f"/apis/questline.dev/v1alpha1/namespaces/{attempt.namespace}/questjobs"
    me = f"{base}/{attempt.name}"
    core = f"/api/v1/namespaces/{attempt.namespace}"
    forbidden: list[tuple[str, str]] = [
        ("GET", base),
        ("GET", me),
        ("GET", f"{me}/status"),
        ("DELETE", me),
        ("PATCH", me),
        ("PUT", f"{me}/status"),
        ("GET", f"{core}/pods"),
        ("POST", f"{core}/pods"),
        ("GET", f"{core}/secrets"),
        ("POST", f"/apis/questline.dev/v1alpha1/namespaces/{attempt.namespace}/questqueues"),
        ("POST", f"/apis/questline.dev/v1alpha1/namespaces/{attempt.namespace}/questworkers"),
    ]
    for method, path in forbidden:
        body = None if method in ("GET", "DELETE") else kube.job(attempt.namespace, attempt.name)
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = kube.request(method, path, body, token=attempt.token, content_type=content)
        assert answer.status == 403, f"{method} {path}: {answer.status} {answer.message}"


# Immutable args


def test_a_key_of_args_cannot_be_renamed(kube: Kube, namespace: str) -> None:
    kube.create(namespace, "Job", "args", {"task": "tasks:root", "suspend": True, "args": {"a": 1, "b": None}})
    renamed = kube.patch_job(namespace, "args", [{"op": "move", "from": "/spec/args/a", "path": "/spec/args/c"}])
    refused(renamed, "questline-immutable", "spec.args is immutable")
    assert kube.patch_job(namespace, "args", {"spec": {"priority": 5}}).ok


# (d) fence


@pytest.fixture
def epoch(kube: Kube) -> Iterator[int]:
    """The epoch in force, raised by one for the test as a new leader does."""
    found = kube.request("GET", FENCE)
    if not found.ok:
        manifest = {"metadata": {"name": "questline-fence"}, "data": {"epoch": "0"}}
        found = kube.request("POST", f"/api/v1/namespaces/{SYSTEM}/configmaps", manifest)
    epoch = int(found.body["data"]["epoch"]) + 1
    set_epoch(kube, str(epoch))
    yield epoch
    set_epoch(kube, str(epoch + 1))  # a number again, and none that a test has passed


def set_epoch(kube: Kube, epoch: str) -> None:
    """Write it, and wait until the policy knows it: the API server's informer is some milliseconds behind."""
    change = {"data": {"epoch": epoch}}
    answer = kube.request("PATCH", FENCE, change, content_type="application/merge-patch+json")
    assert answer.ok, answer.message
    if epoch.isdigit():
        token, limit = kube.token(SYSTEM, OPERATOR), 200
        while "operator no longer leads" not in operator_pod(kube, token, "default", int(epoch) - 1).message:
            limit -= 1
            assert limit, "the policy does not see the epoch"


def operator_pod(kube: Kube, token: str, namespace: str, epoch: int) -> Answer:
    """The operator's request for a pod, as a dry run."""
    manifest = {
        "metadata": {"generateName": "fenced-", "annotations": {"questline.dev/epoch": str(epoch)}},
        "spec": {"containers": [{"name": "worker", "image": "x"}]},
    }
    return kube.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", manifest, token=token)


def test_an_operator_of_an_older_epoch_starts_and_writes_nothing(kube: Kube, namespace: str, epoch: int) -> None:
    token = kube.token(SYSTEM, OPERATOR)
    words = f"this operator no longer leads: epoch {epoch - 1} is below {epoch}"
    refused(operator_pod(kube, token, namespace, epoch - 1), "questline-fence", words)
    assert operator_pod(kube, token, namespace, epoch).ok
    kube.create(namespace, "Job", "claimed", {"task": "tasks:root", "suspend": True})

    def write(state: str, by: int | None) -> Answer:
        change = {"status": {"state": state, "epoch": by}}
        return kube.patch_job(namespace, "claimed", change, subresource="status", token=token)

    refused(write("Starting", epoch - 1), "questline-fence", words)
    refused(write("Starting", None), "questline-fence", "this operator no longer leads: epoch 0 is below")
    assert write("Starting", epoch).ok
    set_epoch(kube, str(epoch + 1))
    refused(write("Waiting", epoch), "questline-fence", "this operator no longer leads")
    assert write("Waiting", epoch + 1).ok


def test_an_epoch_that_is_no_number_holds_nobody(kube: Kube, namespace: str, epoch: int) -> None:
    set_epoch(kube, "garbage")
    token, limit = kube.token(SYSTEM, OPERATOR), 200
    while not operator_pod(kube, token, namespace, 1).ok:
        limit -= 1
        assert limit, "still refused"


def test_other_peoples_pods_are_not_fenced(kube: Kube, namespace: str, epoch: int) -> None:
    editor = kube.token(namespace, kube.account(namespace, "editor", "edit"))
    assert operator_pod(kube, editor, namespace, 0).ok


def test_the_policies_are_type_checked_without_a_warning(kube: Kube) -> None:
    jsonpath = "jsonpath={range .items[*]}{.metadata.name} {.status.typeChecking.expressionWarnings}{'\\n'}{end}"
    said = kube.kubectl(
        "get", "validatingadmissionpolicies", "-l", "app.kubernetes.io/part-of=questline", "-o", jsonpath
    )
    names = ["fence", "immutable", "lineage", "power", "report", "schedule"]
    assert sorted(said.split()) == [f"questline-{name}" for name in names]
