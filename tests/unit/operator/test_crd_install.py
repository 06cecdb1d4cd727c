"""`apply-crds` against a server on loopback: what it applies, how long it waits, and what it says when it cannot."""

from pathlib import Path
from typing import Any

import kopf
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from questline_operator.shell.crd_install import CrdInstallError, apply_crds, read_crds

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %s}
spec: {group: questline.dev}
"""
SERVED = [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]
PENDING = [{"type": "Established", "status": "False", "message": "not all names are accepted"}]


class Clock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Cluster:
    """The CRDs of an API server that takes ``looks`` reads until it serves one."""

    def __init__(self, *, looks: int = 0, refusals: list[int] | None = None) -> None:
        self.crds: dict[str, dict[str, Any]] = {}
        self.queries: list[dict[str, str]] = []
        self.looks = looks
        self.refusals = refusals or []
        self.clock = Clock()

    async def get(self, request: web.Request) -> web.Response:
        crd = self.crds.get(request.match_info["name"])
        if crd is None:
            return status(404, "NotFound", "not found")
        self.looks -= 1
        if self.looks <= 0:
            crd["status"] = {"conditions": SERVED}
        return web.json_response(crd)

    async def patch(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/apply-patch+yaml"
        self.queries.append(dict(request.query))
        if self.refusals:
            return status(self.refusals.pop(0), "Reason", "spec.group: may not change")
        name, body = request.match_info["name"], orjson.loads(await request.read())
        known = self.crds.get(name)
        if known is None or known.get("x-more") != body.get("x-more"):
            version = str(int(known["metadata"]["resourceVersion"]) + 1) if known else "1"
            body["metadata"]["resourceVersion"] = version
            body["status"] = {"conditions": PENDING if self.looks > 0 else SERVED}
            self.crds[name] = body
        return web.json_response(self.crds[name])

    async def apply(self, folder: Path) -> None:
        application = web.Application()
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        application.router.add_get(path, self.get)
        application.router.add_patch(path, self.patch)
        async with TestServer(application, host="127.0.0.1") as server:
            await apply_crds(kopf.ConnectionInfo(server=str(server.make_url("/"))), folder, clock=self.clock)


def status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("questqueues", "questjobs"):
        (tmp_path / f"{name}.yaml").write_text(CRD % f"{name}.questline.dev")
    (tmp_path / "README.md").write_text("not a CRD")
    return tmp_path


async def test_every_crd_is_applied_server_side_and_told_in_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "questline_operator")
    cluster = Cluster()
    await cluster.apply(folder)
    assert cluster.queries == [{"fieldManager": "helm", "force": "true"}] * 2
    assert caplog.messages == ["questjobs.questline.dev created (0.0 s)", "questqueues.questline.dev created (0.0 s)"]


async def test_a_second_run_says_what_changed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    await cluster.apply(folder)
    (folder / "questjobs.yaml").write_text(CRD % "questjobs.questline.dev" + "x-more: 1\n")
    caplog.set_level("INFO", "questline_operator")
    await cluster.apply(folder)
    assert caplog.messages == ["questjobs.questline.dev updated (0.0 s)", "questqueues.questline.dev unchanged (0.0 s)"]


async def test_it_returns_once_the_crd_is_served(folder: Path) -> None:
    cluster = Cluster(looks=20)
    await cluster.apply(folder)
    assert [crd["status"]["conditions"] for crd in cluster.crds.values()] == [SERVED, SERVED]


async def test_a_crd_that_is_never_served_is_an_error_in_the_servers_words(folder: Path) -> None:
    with pytest.raises(CrdInstallError, match=r"questjobs.questline.dev is not served 60 s after .*names are accepted"):
        await Cluster(looks=10**6).apply(folder)


@pytest.mark.parametrize("code", [401, 403, 422])
async def test_a_refusal_is_told_at_once_with_the_crd_and_the_reason(folder: Path, code: int) -> None:
    cluster = Cluster(refusals=[code])
    message = f"^questjobs.questline.dev was not applied: {code} Reason: spec.group: may not change$"
    with pytest.raises(CrdInstallError, match=message):
        await cluster.apply(folder)
    assert cluster.clock.time == 0.0


async def test_an_error_that_may_pass_is_waited_out(folder: Path) -> None:
    cluster = Cluster(refusals=[503, 503, 429])
    await cluster.apply(folder)
    assert len(cluster.crds) == 2


async def test_an_api_server_that_stays_broken_is_an_error(folder: Path) -> None:
    cluster = Cluster(refusals=[500] * 1000)
    with pytest.raises(CrdInstallError, match="500 Reason"):
        await cluster.apply(folder)
    assert 60 <= cluster.clock.time < 65


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("kind: Deployment", "holds something that is no CustomResourceDefinition"),
        ("- just\n- a list", "holds something that is no CustomResourceDefinition"),
        ("a: [1", "not YAML"),
    ],
)
def test_a_file_that_is_no_crd_is_named(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(CrdInstallError, match=f"bad.yaml: {why}"):
        read_crds(tmp_path)


def test_a_folder_without_crds_is_an_error_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(CrdInstallError, match="name the folder of the CRDs"):
        read_crds(tmp_path)
    with pytest.raises(CrdInstallError, match="is no folder"):
        read_crds(tmp_path / "missing")


def test_the_projects_own_crds_are_read() -> None:
    names = [crd["metadata"]["name"] for crd in read_crds(Path(__file__).parents[3] / "crds")]
    plurals = ("questjobs", "questqueues", "questschedules", "questworkers")
    assert names == [f"{plural}.questline.dev" for plural in plurals]
