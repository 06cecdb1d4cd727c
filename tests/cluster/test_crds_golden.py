"""The CRDs through the real API server: what it takes, what it refuses and in which words, what may change later."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube import QUESTLINE, Answer, Json, Kube

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
VALID = sorted((GOLDEN / "valid").glob("*.yaml"))
INVALID = sorted((GOLDEN / "invalid").glob("*.yaml"))
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
PLURALS = {"Job": "questjobs", "Queue": "questqueues", "Schedule": "questschedules", "Worker": "questworkers"}
CRD_LIMIT = 64 * 1024


def dry_run(kube: Kube, namespace: str, manifest: Json) -> Answer:
    """Create it without storing it; a field that the schema does not have is refused, as kubectl asks for too."""
    path = f"{QUESTLINE}/namespaces/{namespace}/{PLURALS[manifest['kind']]}"
    return kube.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)


def load(path: Path) -> Json:
    manifest: Json = yaml.safe_load(path.read_text())
    return manifest


@pytest.fixture(scope="module")
def answers(kube: Kube, module_namespace: str) -> dict[Path, Answer]:
    """What the API server says to each manifest."""
    with ThreadPoolExecutor(8) as pool:
        said = pool.map(lambda path: dry_run(kube, module_namespace, load(path)), [*VALID, *INVALID])
        return dict(zip([*VALID, *INVALID], said, strict=True))


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_manifest_is_taken_and_nothing_of_it_is_lost(path: Path, answers: dict[Path, Answer]) -> None:
    answer = answers[path]
    assert answer.ok, answer.message
    given = load(path).get("spec", {})
    defaults: dict[str, Json] = {
        "Job": {"queue": "default"},
        "Queue": {"concurrency": 10, "paused": False},
        "Schedule": {"timeZone": "UTC", "overlap": "Allow"},
        "Worker": {},
    }
    expected = {**defaults[answer.body["kind"]], **given}
    if "job" in expected:
        expected["job"] = {**defaults["Job"], **expected["job"]}
    assert answer.body["spec"] == expected


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_manifest_is_refused_by_a_message_that_names_the_field(
    path: Path, answers: dict[Path, Answer]
) -> None:
    words = path.read_text().splitlines()[1].removeprefix("# refused: ")
    answer = answers[path]
    assert answer.status in (400, 422), f"{answer.status} {answer.message}"
    assert words in answer.message


# Updates


@pytest.fixture
def job(kube: Kube, namespace: str) -> Json:
    """A suspended Job with every field set that is immutable; the operator, where it runs, leaves it in peace."""
    quiet = {"task": "tasks:hello", "suspend": True, "ttlSecondsAfterFinished": 3600}
    everything = load(GOLDEN / "valid" / "job-everything.yaml")["spec"]
    answer = kube.create(namespace, "Job", "stored", {**everything, **quiet})
    assert answer.ok, answer.message
    return answer.body


CHANGES: dict[str, Any] = {
    "queue": "other",
    "worker": "other",
    "task": "tasks:other",
    "image": "other",
    "env": [{"name": "MEDIA_DIR", "value": "/other"}, {"name": "EMPTY"}],
    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    "args": {"file_id": "8"},
    "maxAttempts": 99,
    "backoff": {"type": "Fixed", "baseSeconds": 5, "maxSeconds": 5, "jitter": 0.1},
    "timeoutSeconds": 601,
    "key": "other",
    "unique": {"key": "other"},
    "after": [{"job": "first"}],
    "afterPolicy": "Succeeded",
}
"""For each immutable field another value."""


def edit(kube: Kube, job: Json, *operations: Json, subresource: str = "") -> Answer:
    meta = job["metadata"]
    return kube.patch_job(meta["namespace"], meta["name"], list(operations), subresource=subresource)


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_is_neither_changed_nor_removed(kube: Kube, job: Json, field: str) -> None:
    path = f"/spec/{field}"
    changed = edit(kube, job, {"op": "replace", "path": path, "value": CHANGES[field]})
    assert changed.status == 422
    assert f"spec.{field} is immutable" in changed.message
    # Removed by one update, it could be set to anything by the next. (The queue comes back by its default.)
    removed = edit(kube, job, {"op": "remove", "path": path})
    assert removed.status == 422
    assert f"spec.{field} is immutable" in removed.message
    emptied = kube.patch_job(job["metadata"]["namespace"], "stored", {"spec": {field: None}})
    assert emptied.status == 422
    assert f"spec.{field} is immutable" in emptied.message


@pytest.mark.parametrize("field", [name for name in CHANGES if name not in ("task", "queue")])
def test_a_field_that_was_not_given_is_not_added(kube: Kube, namespace: str, field: str) -> None:
    created = kube.create(namespace, "Job", "bare", {"task": "tasks:hello", "suspend": True})
    answer = edit(kube, created.body, {"op": "add", "path": f"/spec/{field}", "value": CHANGES[field]})
    assert answer.status == 422
    assert f"spec.{field} is immutable" in answer.message


def test_a_command_does_not_become_a_task_nor_gets_other_words(kube: Kube, namespace: str) -> None:
    created = kube.create(namespace, "Job", "command", {"command": ["a", "b"], "suspend": True})
    words = {"op": "replace", "path": "/spec/command", "value": ["a", "c"]}
    task = [{"op": "remove", "path": "/spec/command"}, {"op": "add", "path": "/spec/task", "value": "a:b"}]
    for operations in ([words], task):
        answer = edit(kube, created.body, *operations)
        assert answer.status == 422
        assert "spec.command is immutable" in answer.message


def test_a_parent_is_neither_given_nor_changed_later(kube: Kube, job: Json) -> None:
    parent = {"name": "a", "uid": "0" * 36, "attempt": 1, "podUID": "0" * 36, "index": 0}
    answer = edit(kube, job, {"op": "add", "path": "/spec/parent", "value": parent})
    assert answer.status == 422
    assert "spec.parent is immutable" in answer.message


@pytest.mark.parametrize(
    ("field", "value"),
    [("priority", 5), ("suspend", True), ("runAt", "2027-01-01T00:00:00Z"), ("ttlSecondsAfterFinished", 60)],
)
def test_what_may_change_changes_and_goes(kube: Kube, job: Json, field: str, value: Any) -> None:
    answer = edit(kube, job, {"op": "add", "path": f"/spec/{field}", "value": value})
    assert answer.ok, answer.message
    assert answer.body["spec"][field] == value
    assert edit(kube, job, {"op": "remove", "path": f"/spec/{field}"}).ok


def test_a_cancel_is_not_taken_back_alone(kube: Kube, job: Json) -> None:
    assert edit(kube, job, {"op": "replace", "path": "/spec/cancel", "value": True}).ok
    for operation in (
        {"op": "replace", "path": "/spec/cancel", "value": False},
        {"op": "remove", "path": "/spec/cancel"},
    ):
        answer = edit(kube, job, operation)
        assert answer.status == 422
        assert "spec.cancel cannot be taken back" in answer.message


def test_a_cancel_is_taken_back_by_an_update_that_raises_rerun(kube: Kube, namespace: str) -> None:
    job = kube.create(namespace, "Job", "canceled", {"task": "tasks:hello", "suspend": True, "cancel": True}).body
    again = [{"op": "replace", "path": "/spec/cancel", "value": False}]
    assert edit(kube, job, *again, {"op": "add", "path": "/spec/rerun", "value": 0}).status == 422
    answer = edit(kube, job, *again, {"op": "add", "path": "/spec/rerun", "value": 1})
    assert answer.ok, answer.message
    assert edit(kube, job, {"op": "replace", "path": "/spec/cancel", "value": True}).ok
    assert edit(kube, job, *again, {"op": "replace", "path": "/spec/rerun", "value": 1}).status == 422
    gone = {"op": "remove", "path": "/spec/cancel"}
    assert edit(kube, job, gone, {"op": "add", "path": "/spec/rerun", "value": 2}).ok


def test_a_rerun_is_raised_and_never_lowered(kube: Kube, namespace: str) -> None:
    job = kube.create(namespace, "Job", "again", {"task": "tasks:hello", "suspend": True}).body
    for value in (1, 1, 3):
        assert edit(kube, job, {"op": "add", "path": "/spec/rerun", "value": value}).ok
    for operation in (
        {"op": "replace", "path": "/spec/rerun", "value": 2},
        {"op": "remove", "path": "/spec/rerun"},
    ):
        answer = edit(kube, job, operation)
        assert answer.status == 422
        assert "spec.rerun can only be raised" in answer.message


# Status


def test_a_job_shows_a_state_from_its_first_moment(kube: Kube, namespace: str) -> None:
    answer = kube.create(namespace, "Job", "fresh", {"task": "tasks:hello", "suspend": True})
    assert answer.body["status"] == {"state": "Waiting"}


def test_a_status_is_written_by_its_subresource_alone(kube: Kube, namespace: str) -> None:
    body = {
        "apiVersion": "questline.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": "forged"},
        "spec": {"task": "tasks:hello", "suspend": True},
        "status": {"state": "Succeeded", "result": 7},
    }
    path = f"{QUESTLINE}/namespaces/{namespace}/questjobs"
    assert kube.request("POST", path, body).body["status"] == {"state": "Waiting"}
    kube.patch_job(namespace, "forged", {"status": {"result": 7}})
    assert "result" not in kube.job(namespace, "forged")["status"]


@pytest.mark.parametrize("result", [None, {"a": None, "b": [None, {"c": None}]}, [], {}, "", 0, False, 1.5, 2**53])
def test_a_result_is_any_json_and_null_stays_null(kube: Kube, job: Json, result: Any) -> None:
    report = {"v": 1, "attempt": 1, "outcome": "Succeeded", "podUID": "0" * 36, "result": result}
    answer = edit(
        kube,
        job,
        {"op": "add", "path": "/status/result", "value": result},
        {"op": "add", "path": "/status/report", "value": report},
        subresource="status",
    )
    assert answer.ok, answer.message
    status = answer.body["status"]
    assert status["result"] == result
    assert "result" in status
    assert status["report"] == report


def test_every_field_of_the_status_is_kept(kube: Kube, job: Json) -> None:
    status = {
        "state": "Failed",
        "reason": "TaskError",
        "message": "attempt 5 of 5: ValueError: no such file",
        "attempt": 6,
        "failures": 5,
        "disruptions": 1,
        "observedRerun": 0,
        "armed": {"at": "2026-01-01T00:00:00.123456Z", "attempt": 5, "duplicateOf": "first"},
        "upstream": {"name": "other", "uid": "0" * 36, "finishes": 1},
        "epoch": 2**40,
        "nextAttemptAt": "2026-01-01T00:00:00.123456Z",
        "pod": {"name": "stored-12345678-6", "uid": "0" * 36},
        "attempts": [
            {
                "number": 6,
                "podUID": "0" * 36,
                "startedAt": "2026-01-01T00:00:00.000001Z",
                "finishedAt": "2026-01-01T00:00:01Z",
                "outcome": "Disrupted",
                "reason": "Disrupted",
                "exitCode": 137,
                "message": "the pod was deleted",
                "children": {"total": 3, "groups": {"thumbnails": 2}},
            }
        ],
        "succeededAttempts": [3],
        "finishes": 2,
        "result": None,
        "error": {"type": "ValueError", "message": "no such file", "traceback": "Traceback\n"},
        "children": {"total": 3, "groups": {"thumbnails": 2}},
        "root": "root",
        "depth": 2,
        "duplicateOf": "other",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:01.5Z",
        "report": {
            "v": 1,
            "podUID": "0" * 36,
            "attempt": 6,
            "outcome": "Retry",
            "reason": "TaskError",
            "message": "later",
            "result": {"a": None},
            "error": {"type": "ValueError", "message": "no such file", "traceback": "Traceback\n"},
            "delaySeconds": 1.5,
            "children": {"total": 3, "groups": {"thumbnails": 2}},
        },
        "conditions": [
            {
                "type": "Finished",
                "status": "True",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:01Z",
                "reason": "Failed",
                "message": "",
            }
        ],
        "observedGeneration": 1,
    }
    answer = edit(kube, job, {"op": "add", "path": "/status", "value": status}, subresource="status")
    assert answer.ok, answer.message
    assert answer.body["status"] == status
    schema = schemas()["Job"]["properties"]["status"]["properties"]
    assert set(status) == set(schema), "this test writes every field there is"


# What people see


def test_kubectl_shows_what_is_going_on(kube: Kube, job: Json) -> None:
    namespace = job["metadata"]["namespace"]
    kube.create(namespace, "Queue", "media", {})
    kube.create(namespace, "Worker", "media", {"image": "shop/media"})
    lines = kube.kubectl("get", "questline", "-n", namespace).splitlines()
    headers = [line.split() for line in lines if line.startswith("NAME")]
    assert headers == [
        ["NAME", "STATE", "REASON", "QUEUE", "TASK", "ATTEMPT", "AGE"],
        ["NAME", "CONCURRENCY", "RUNNING", "WAITING", "PAUSED", "AGE"],
        ["NAME", "IMAGE", "READY", "AGE"],
    ]
    assert "job.questline.dev/stored" in next(line for line in lines if "tasks:hello" in line)
    assert kube.kubectl("get", "qj,qq,qw", "-n", namespace, "-o", "name").split() == [
        "job.questline.dev/stored",
        "queue.questline.dev/media",
        "worker.questline.dev/media",
    ]


def test_jobs_are_selected_by_queue_and_state(kube: Kube, job: Json) -> None:
    namespace = job["metadata"]["namespace"]
    kube.create(namespace, "Job", "elsewhere", {"task": "tasks:hello", "suspend": True})

    def select(selector: str) -> list[str]:
        return kube.kubectl("get", "qj", "-n", namespace, "-o", "name", "--field-selector", selector).split()

    assert select("spec.queue=media") == ["job.questline.dev/stored"]
    assert select("spec.queue=default,status.state=Waiting") == ["job.questline.dev/elsewhere"]
    assert select("status.state=Succeeded") == []


def test_a_queue_is_scaled_by_kubectl_within_its_bounds(kube: Kube, namespace: str) -> None:
    kube.create(namespace, "Queue", "media", {})
    kube.kubectl("scale", "qq/media", "-n", namespace, "--replicas=20")
    queue = json.loads(kube.kubectl("get", "qq/media", "-n", namespace, "-o", "json"))
    assert queue["spec"]["concurrency"] == 20
    said = kube.kubectl("scale", "qq/media", "-n", namespace, "--replicas=100001", check=False)
    assert "spec.concurrency" in said


def test_kubectl_waits_for_a_condition(kube: Kube, job: Json) -> None:
    done = [{"type": "Succeeded", "status": "True"}]
    edit(kube, job, {"op": "add", "path": "/status/conditions", "value": done}, subresource="status")
    said = kube.kubectl(
        "wait", "--for=condition=Succeeded", "qj/stored", "-n", job["metadata"]["namespace"], "--timeout=5s"
    )
    assert "condition met" in said


# The files


def schemas() -> dict[str, Json]:
    """The schema of each kind."""
    crds = [load(path) for path in CRDS]
    return {crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crds}


def fields(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every named field below, with its path."""
    for name, below in schema.get("properties", {}).items():
        yield f"{path}.{name}", below
        yield from fields(below, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


@pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)
def test_a_crd_stays_small(path: Path) -> None:
    assert len(json.dumps(load(path), separators=(",", ":"))) < CRD_LIMIT


@pytest.mark.parametrize("kind", PLURALS)
def test_every_field_says_what_it_is_and_where_it_ends(kind: str) -> None:
    for path, field in fields(schemas()[kind]):
        if path == ".metadata":
            continue
        assert field.get("description"), f"{path} has no description"
        if path in (".apiVersion", ".kind") or path.startswith(".status"):
            continue
        bounds = {
            "string": field.keys() & {"maxLength", "enum"},
            "integer": {"minimum", "maximum"} <= field.keys() or path.endswith(".tolerationSeconds"),
            "number": {"minimum", "maximum"} <= field.keys(),
            "array": "maxItems" in field,
            "object": field.keys() & {"maxProperties", "properties"},
            "boolean": True,
        }
        assert bounds[field["type"]], f"{path} has no bound"
        if "Seconds" in path.rsplit(".", 1)[-1]:
            assert "second" in field["description"].lower(), f"{path} does not say its unit"


def test_every_field_of_a_spec_is_in_a_valid_manifest_or_refused_where_it_has_no_place() -> None:
    def given(value: Any, path: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for name, below in value.items():
                yield f"{path}.{name}"
                yield from given(below, f"{path}.{name}")
        elif isinstance(value, list):
            for item in value:
                yield from given(item, f"{path}[]")

    seen: set[str] = set()
    for path in [*VALID, *INVALID]:
        manifest = load(path)
        if path in VALID or any(word in path.stem for word in ("parent", "value-from", "after-group")):
            seen |= {f"{manifest['kind']}{name}" for name in given(manifest.get("spec", {}), ".spec")}
    for kind, schema in schemas().items():
        for name, _ in fields(schema["properties"]["spec"], f"{kind}.spec"):
            # A Schedule's job has the schema of a Job's spec (tests/unit/test_crds.py), whose manifests are above.
            if name != "Job.spec.parent.staged" and not name.startswith("Schedule.spec.job."):
                assert name in seen, f"no manifest has {name}"
