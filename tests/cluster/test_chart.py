"""The chart: what it renders, what it refuses, what an upgrade and an uninstall do, and which rights it hands out."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kube import Json, Kube

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "questline"
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
SYSTEM = "questline-system"
OPERATOR = f"system:serviceaccount:{SYSTEM}:questline-operator"


def render(kube: Kube, *settings: str, chart: Path = CHART) -> list[Json]:
    """The chart's manifests, hooks included, by `helm template`."""
    said = kube.helm("template", "questline", str(chart), "--namespace", SYSTEM, *settings)
    return [manifest for manifest in yaml.safe_load_all(said) if manifest]


def only(manifests: list[Json], kind: str, name: str) -> Json:
    """The one manifest of that kind and name."""
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def is_hook(manifest: Json) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def test_helm_lint_finds_nothing(kube: Kube) -> None:
    assert "0 chart(s) failed" in kube.helm("lint", "--strict", str(CHART))


def test_the_api_server_takes_every_manifest(kube: Kube, namespace: str) -> None:
    manifests = render(kube, "--set", f"defaultWorker.namespaces={{{namespace}}}")
    kube.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(manifests),
    )
    kube.helm("upgrade", "questline", str(CHART), "--namespace", SYSTEM, "--dry-run=server")


def test_a_package_holds_the_crds(kube: Kube, tmp_path: Path) -> None:
    """The very files of crds/: `make crds` copies them."""
    kube.helm("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for path in CRDS:
            packed = archive.extractfile(f"questline/crds/{path.name}")
            assert packed is not None
            assert packed.read() == path.read_bytes()
    configmap = only(render(kube, chart=package), "ConfigMap", "questline-crds")
    assert configmap["data"] == {path.name: path.read_text() for path in CRDS}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("replicas=two", "/replicas"),
        ("replicas=6", "/replicas"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.tg=1.0", "'tg' not allowed"),
        ("imag.tag=1.0", "'imag' not allowed"),
        ("logLevel=LOUD", "/logLevel"),
        ("maxRunningPods=-1", "/maxRunningPods"),
        ("resources.limits=1Gi", "/resources/limits"),
        ("defaultWorker.namespaces=default", "/defaultWorker/namespaces"),
        ("defaultWorker.namespaces={Not A Name}", "/defaultWorker/namespaces/0"),
        ("defaultWorker.namespace={default}", "'namespace' not allowed"),
        ("defaultWorker.image.tag=", "/defaultWorker/image/tag"),
    ],
)
def test_a_wrong_value_is_refused_by_name(kube: Kube, setting: str, words: str) -> None:
    said = kube.helm("template", "questline", str(CHART), "--set", setting, check=False)
    assert words in said


def test_every_value_is_described_and_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()

    def check(values: Json, schema: Json, path: str) -> None:
        for name, value in values.items():
            where = f"{path}{name}"
            below = schema["properties"][name]
            below = schema_root["definitions"][below["$ref"].rsplit("/", 1)[-1]] if "$ref" in below else below
            if (
                isinstance(value, dict)
                and "properties" in below
                and below.get("properties", {}).keys()
                != {
                    "requests",
                    "limits",
                }
            ):
                check(value, below, f"{where}.")
            else:
                assert f"`{where}`" in readme, f"README.md does not describe {where}"

    schema_root = schema
    check(values, schema, "")


def test_every_value_arrives(kube: Kube, tmp_path: Path) -> None:
    values = {
        "image": {"repository": "r.example/operator", "tag": "1.2", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 0,
        "logLevel": "DEBUG",
        "maxRunningPods": 500000,
        "resources": {"limits": {"cpu": "2", "memory": "3Gi"}},
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"e": "f"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "defaultWorker": {
            "namespaces": ["one", "two"],
            "image": {"repository": "r.example/worker", "tag": "3.4", "pullPolicy": "Never"},
            "imagePullSecrets": [{"name": "mine"}],
            "resources": {"limits": {"memory": "1Gi"}},
        },
    }
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    manifests = render(kube, "--values", str(path))
    deployment = only(manifests, "Deployment", "questline-operator")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 0
    assert container["image"] == "r.example/operator:1.2"
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "3Gi"}
    assert {"name": "LOG_LEVEL", "value": "DEBUG"} in container["env"]
    assert container["args"] == ["--max-running-pods", "500000"]
    assert template["metadata"]["annotations"] == {"a": "b"}
    assert template["metadata"]["labels"]["c"] == "d"
    hook = only(manifests, "Job", "questline-crds")["spec"]["template"]["spec"]
    assert hook["containers"][0]["image"] == "r.example/operator:1.2"
    for spec in (template["spec"], hook):
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["nodeSelector"] == {"e": "f"}
        assert spec["tolerations"] == [{"operator": "Exists"}]
        assert spec["affinity"] == {"nodeAffinity": {}}
        assert spec["priorityClassName"] == "high"
    workers = [one for one in manifests if one["kind"] == "Worker"]
    assert [one["metadata"]["namespace"] for one in workers] == ["one", "two"]
    assert workers[0]["spec"] == {
        "image": "r.example/worker:3.4",
        "imagePullPolicy": "Never",
        "imagePullSecrets": [{"name": "mine"}],
        "resources": {"limits": {"memory": "1Gi"}},
        "serviceAccountName": "questline-worker",
    }


def test_no_default_worker_where_none_is_asked_for(kube: Kube) -> None:
    named = {
        (one["kind"], one["metadata"]["name"]) for one in render(kube, "--set-json", "defaultWorker.namespaces=[]")
    }
    assert ("ClusterRole", "questline-worker") in named
    assert not named & {
        ("Worker", "default"),
        ("ServiceAccount", "questline-worker"),
        ("RoleBinding", "questline-worker"),
    }


# Pods


def pods(manifests: list[Json]) -> dict[str, Json]:
    """The pod template of each workload."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests
        if one["kind"] in ("Deployment", "Job")
    }


@pytest.mark.parametrize("name", ["questline-operator", "questline-crds"])
def test_its_pods_pass_pod_security_restricted(kube: Kube, namespace: str, name: str) -> None:
    kube.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    spec = pods(render(kube))[name]
    kube.account(namespace, spec["serviceAccountName"])
    pod = {"metadata": {"name": "probe"}, "spec": {**spec, "restartPolicy": "Never"}}
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    answer = kube.request("POST", path, pod)
    assert answer.ok, answer.message
    security = spec["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    del pod["spec"]["securityContext"]
    assert "violates PodSecurity" in kube.request("POST", path, pod).message


def test_the_operator_is_probed_and_its_successor_stands_by(kube: Kube) -> None:
    deployment = only(render(kube), "Deployment", "questline-operator")["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    assert {item["name"] for item in container["env"]} >= {"POD_NAME", "POD_NAMESPACE", "POD_UID"}
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_two_operators_on_two_nodes_of_which_a_drain_leaves_one(kube: Kube) -> None:
    manifests = render(kube)
    deployment = only(manifests, "Deployment", "questline-operator")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    budget = only(manifests, "PodDisruptionBudget", "questline-operator")["spec"]
    assert budget["maxUnavailable"] == 1
    for selector in (budget["selector"], *(one["labelSelector"] for one in spread), deployment["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    # ... and no pod of the CRD hook.
    hook = only(manifests, "Job", "questline-crds")["spec"]["template"]["metadata"]["labels"]
    assert not budget["selector"]["matchLabels"].items() <= hook.items()


# Rights


def may(kube: Kube, who: str, verb: str, what: str, namespace: str = "default") -> bool:
    """Whether that user may, asked of the API server; ``what`` as ``group/resource/subresource:name``."""
    path, _, name = what.partition(":")
    group, resource, subresource = [*path.split("/"), ""][:3]
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "name": name,
    }
    review = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    groups = ["system:serviceaccounts", "system:authenticated"]
    spec = {"user": who, "groups": groups, "resourceAttributes": attributes}
    answer = kube.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {**review, "spec": spec})
    assert answer.ok, answer.message
    allowed: bool = answer.body["status"]["allowed"]
    return allowed


@pytest.mark.parametrize(
    ("verbs", "what"),
    [
        ("get list watch create createroot delete", "questline.dev/questjobs"),
        ("patch update", "questline.dev/questjobs/status"),
        ("get list watch create", "questline.dev/questqueues"),
        ("patch", "questline.dev/questqueues/status"),
        ("get list watch", "questline.dev/questworkers"),
        ("get list watch", "questline.dev/questschedules"),
        ("patch", "questline.dev/questschedules/status"),
        ("patch", "questline.dev/questworkers/status"),
        ("get list watch create delete", "/pods"),
        ("get list watch", "/namespaces"),
        ("get list watch", "apiextensions.k8s.io/customresourcedefinitions"),
    ],
)
def test_the_operator_may_everywhere_what_it_needs(kube: Kube, verbs: str, what: str) -> None:
    for verb in verbs.split():
        assert may(kube, OPERATOR, verb, what), verb


def test_the_operator_keeps_its_lease_and_its_epoch_at_home(kube: Kube) -> None:
    for verb, what in [
        ("create", "coordination.k8s.io/leases"),
        ("get", "coordination.k8s.io/leases:questline-operator"),
        ("update", "coordination.k8s.io/leases:questline-operator"),
        ("create", "/configmaps"),
        ("get", "/configmaps:questline-fence"),
        ("update", "/configmaps:questline-fence"),
    ]:
        assert may(kube, OPERATOR, verb, what, SYSTEM), what
        assert not may(kube, OPERATOR, verb, what, "default"), what
    assert not may(kube, OPERATOR, "get", "/configmaps:other", SYSTEM)
    assert not may(kube, OPERATOR, "update", "coordination.k8s.io/leases:other", SYSTEM)


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        ("get", "/secrets"),
        ("list", "/secrets"),
        ("create", "/pods/exec"),
        ("update", "/pods"),
        ("patch", "/pods"),
        ("get", "/pods/log"),
        ("create", "questline.dev/questworkers"),
        ("create", "questline.dev/questschedules"),
        ("patch", "questline.dev/questjobs"),
        ("update", "questline.dev/questjobs"),
        ("create", "/events"),
        ("patch", "apiextensions.k8s.io/customresourcedefinitions"),
        ("create", "rbac.authorization.k8s.io/clusterrolebindings"),
        ("impersonate", "/serviceaccounts"),
        ("create", "/serviceaccounts/token"),
    ],
)
def test_the_operator_may_nothing_else(kube: Kube, verb: str, what: str) -> None:
    assert not may(kube, OPERATOR, verb, what)
    assert not may(kube, OPERATOR, verb, what, SYSTEM)


def test_nothing_of_the_crd_hooks_rights_remains(kube: Kube) -> None:
    hooks = [one for one in render(kube) if is_hook(one)]
    assert {one["kind"] for one in hooks} == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Job"}
    for hook in hooks:
        annotations = hook["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    names = [yaml.safe_load(path.read_text())["metadata"]["name"] for path in CRDS]
    create, change = only(hooks, "ClusterRole", "questline-crds")["rules"]
    assert create["verbs"] == ["create"]
    assert change["resourceNames"] == names
    assert change["verbs"] == ["get", "patch"]
    assert not kube.exists("clusterrole/questline-crds", namespace=SYSTEM)
    assert not kube.exists("serviceaccount/questline-crds", namespace=SYSTEM)


# A life of the release: an API server keeps one Questline, so these take the one that is installed through it.


@pytest.fixture
def changed_chart(tmp_path: Path) -> Path:
    """A copy of the chart whose CRD of Queues has one more column."""
    copy = tmp_path / "questline"
    shutil.copytree(CHART, copy)
    path = copy / "crds" / "questqueues.yaml"
    crd = yaml.safe_load(path.read_text())
    column = {"name": "Probe", "type": "string", "jsonPath": ".metadata.uid"}
    crd["spec"]["versions"][0]["additionalPrinterColumns"].append(column)
    path.write_text(yaml.safe_dump(crd))
    return copy


@pytest.fixture
def _put_back(kube: Kube) -> Iterator[None]:
    """Install what the checkout has, with the values that were in force, whatever the test has done."""
    values = json.loads(kube.helm("get", "values", "questline", "--namespace", SYSTEM, "--output", "json")) or {}
    yield
    kube.helm(
        "upgrade", "--install", "questline", str(CHART), "--namespace", SYSTEM, "--create-namespace",
        "--wait", "--timeout", "3m", "--set-json", f"podAnnotations={json.dumps(values.get('podAnnotations', {}))}",
    )  # fmt: skip


def columns(kube: Kube) -> list[str]:
    crd = json.loads(kube.kubectl("get", "crd", "questqueues.questline.dev", "-o", "json"))
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


@pytest.mark.e2e
@pytest.mark.usefixtures("_put_back")
def test_an_upgrade_carries_changes_of_the_crds_and_leaves_the_workers_be(kube: Kube, changed_chart: Path) -> None:
    assert "Probe" not in columns(kube)
    kube.kubectl("annotate", "questworker", "default", "-n", "default", "--overwrite", "mine=kept")
    uid = kube.kubectl("get", "qw/default", "-n", "default", "-o", "jsonpath={.metadata.uid}")
    kube.helm("upgrade", "questline", str(changed_chart), "-n", SYSTEM, "--reuse-values", "--wait", "--timeout", "3m")
    assert "Probe" in columns(kube)
    worker = json.loads(kube.kubectl("get", "qw/default", "-n", "default", "-o", "json"))
    assert worker["metadata"]["uid"] == uid
    assert worker["metadata"]["annotations"]["mine"] == "kept"
    kube.kubectl("annotate", "questworker", "default", "-n", "default", "mine-")


@pytest.mark.e2e
@pytest.mark.usefixtures("_put_back")
def test_an_uninstall_keeps_users_jobs_and_the_next_install_brings_the_crds_up_to_date(
    kube: Kube, namespace: str, changed_chart: Path
) -> None:
    answer = kube.create(namespace, "Job", "mine", {"task": "tasks:hello", "suspend": True})
    assert answer.ok, answer.message
    kube.helm("uninstall", "questline", "--namespace", SYSTEM, "--wait")
    assert kube.job(namespace, "mine")["spec"]["task"] == "tasks:hello"
    left = kube.kubectl(
        "get", "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding",
        "-l", "app.kubernetes.io/part-of=questline", "-o", "name",
    )  # fmt: skip
    # A fence made anew would go by an old epoch for as long as the API server lives (templates/policies.yaml).
    assert left.split() == [
        f"validatingadmissionpolicy{kind}.admissionregistration.k8s.io/questline-fence" for kind in ("", "binding")
    ]
    kube.helm("install", "questline", str(changed_chart), "-n", SYSTEM, "--wait", "--timeout", "3m")
    assert "Probe" in columns(kube)
    assert kube.job(namespace, "mine")["metadata"]["uid"] == answer.body["metadata"]["uid"]
    # The fence follows the epoch that the new leader has raised.
    fence = json.loads(kube.kubectl("get", "configmap", "questline-fence", "-n", SYSTEM, "-o", "json"))
    epoch = int(fence["data"]["epoch"])
    token = kube.token(SYSTEM, "questline-operator")
    for number, allowed in ((epoch - 1, False), (epoch, True)):
        pod = {
            "metadata": {"name": "probe", "annotations": {"questline.dev/epoch": str(number)}},
            "spec": {"containers": [{"name": "worker", "image": "x"}]},
        }
        trial = kube.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod, token=token)
        assert trial.ok == allowed, trial.message
