"""The stand-in for the SDK on fake nodes, where no container runs: it plays what a task would have done.

It watches pods with the label questline.dev/job on fake nodes. Once kwok says that such a pod runs, it behaves as
the payload's args say under the key `fake` (see Behaviour; README.md has examples): it waits, creates children as
the pod (with a token bound to it, so that admission policies see what they would see from a real one), writes the
Job's status.report, and ends the pod with the outcome as its termination message.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import random
import re
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import yaml

from devcluster.manifests import FAKE_NODE_PREFIX
from devcluster.paths import DevclusterError

JOB_LABEL, ATTEMPT_LABEL = "questline.dev/job", "questline.dev/attempt"
PAYLOAD_ANNOTATION = "questline.dev/payload"
JOBS = "/apis/questline.dev/v1alpha1/namespaces/{namespace}/questjobs"
ENVELOPE_LIMIT = 4096
"""Bytes of a termination message."""
CONNECTIONS = 64
WATCH_SECONDS = 290
RETRY_SECONDS = 30.0
"""How long a call is tried again while the API server does not answer or answers 429 or 5xx."""
FORBIDDEN_SECONDS = 5.0
"""... or forbids it: one that has just started does until it has read the roles and the policies."""
EXIT_CODES = {"Succeeded": 0, "Failed": 1, "Fatal": 1, "Canceled": 1, "Retry": 75, "Snoozed": 75}

log = logging.getLogger("fakeworker")


@dataclass(frozen=True)
class Behaviour:
    """What args.fake says; every key may be left out."""

    seconds: float = 0.0
    """How long the task runs."""
    outcome: str | None = "Succeeded"
    """An outcome of the envelope; null: the process ends without one."""
    failures: int = 0
    """The first so many attempts end Failed (TaskError), whatever `outcome` says."""
    reason: str = ""
    message: str = ""
    result: Any = None
    delaySeconds: float | None = None  # noqa: N815 - the envelope's own name
    children: int = 0
    child: Mapping[str, Any] = field(default_factory=dict)
    """Spec fields of each child over the default, which is this Job's own task with empty args."""
    group: str | None = None
    """The group that the children are of."""
    then: Mapping[str, Any] | None = None
    """Spec fields of one more child, which comes after that group."""
    staged: bool = True
    report: bool = True
    """False: the outcome is only in the termination message, as when the report was lost."""
    lingerSeconds: float = 0.0  # noqa: N815 - as written in args
    """How long the pod lives on after its report."""
    exitCode: int | None = None  # noqa: N815 - as written in args

    @classmethod
    def parse(cls, args: Mapping[str, Any]) -> Self:
        """Raises ValueError that names the key that is wrong."""
        given = args.get("fake", {})
        if not isinstance(given, dict):
            raise ValueError("args.fake: an object is needed")  # noqa: TRY004 - a value of the user's, not a type of ours
        unknown = given.keys() - {known.name for known in fields(cls)}
        if unknown:
            raise ValueError(f"args.fake.{min(unknown)}: no such key")
        behaviour = cls(**given)
        if behaviour.outcome is not None and behaviour.outcome not in EXIT_CODES:
            raise ValueError(f"args.fake.outcome: {behaviour.outcome!r} is none of {', '.join(EXIT_CODES)}")
        for name in ("seconds", "lingerSeconds", "children", "failures"):
            value = given.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"args.fake.{name}: {value!r} is no number of 0 or more")
        return behaviour


@dataclass(frozen=True)
class Ending:
    """How a played attempt ends."""

    envelope: dict[str, Any] | None
    exit_code: int


def ending(behaviour: Behaviour, attempt: int, children: int, error: str = "") -> Ending:
    """The envelope and exit code of an attempt with so many children; `error` is what went wrong, if something did."""
    outcome = behaviour.outcome
    reason, message = behaviour.reason, behaviour.message
    if error or attempt <= behaviour.failures:
        outcome, reason = "Failed", "TaskError"
        message = error or f"played failure {attempt} of {behaviour.failures}"
    if outcome is None:
        return Ending(None, behaviour.exitCode or 0)
    envelope: dict[str, Any] = {"v": 1, "attempt": attempt, "outcome": outcome}
    default_reason = {"Failed": "TaskError", "Fatal": "Fail", "Canceled": "Raised"}.get(outcome, "")
    if reason or default_reason:
        envelope["reason"] = reason or default_reason
    if message:
        envelope["message"] = message[:512]
    if outcome == "Succeeded":
        envelope["result"] = behaviour.result
    if outcome in {"Retry", "Snoozed"} and behaviour.delaySeconds is not None:
        envelope["delaySeconds"] = behaviour.delaySeconds
    groups = {} if behaviour.group is None else {behaviour.group: min(children, behaviour.children)}
    envelope["children"] = {"total": children, "groups": groups}
    if len(orjson.dumps(envelope)) > ENVELOPE_LIMIT:
        envelope |= {"outcome": "Fatal", "reason": "ResultInvalid", "message": "the result is too large"}
        del envelope["result"]
    code = EXIT_CODES[envelope["outcome"]] if behaviour.exitCode is None else behaviour.exitCode
    return Ending(envelope, code)


def slug(task: str) -> str:
    """The part of a child's name that tells its function: at most 24 characters, a DNS label."""
    name = re.sub(r"[^a-z0-9]+", "-", task.rpartition(":")[2].lower())
    return name.strip("-")[:24].strip("-") or "job"


def child_manifest(payload: Mapping[str, Any], pod_uid: str, index: int, behaviour: Behaviour) -> dict[str, Any]:
    """The Job that the SDK would create as this attempt's child number `index`; the one after all is `then`."""
    job = payload["job"]
    of_group = index < behaviour.children
    spec: dict[str, Any] = {"args": {}, **(behaviour.child if of_group else behaviour.then or {})}
    if not of_group:
        spec.setdefault("after", [{"group": behaviour.group}])
    if "task" not in spec and "command" not in spec:
        spec["task"] = job["task"]
    spec["parent"] = {
        "name": job["name"],
        "uid": job["uid"],
        "attempt": payload["attempt"],
        "podUID": pod_uid,
        "index": index,
    }
    if of_group and behaviour.group is not None:
        spec["parent"]["group"] = behaviour.group
    if not behaviour.staged:
        spec["parent"]["staged"] = False
    name = f"{slug(spec.get('task', 'command'))}-{pod_uid[:8]}-{index}"
    return {
        "apiVersion": "questline.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": job["namespace"]},
        "spec": spec,
    }


def ended_status(pod: Mapping[str, Any], end: Ending, now: datetime) -> dict[str, Any]:
    """The pod's status, for a merge patch, once its container `worker` has ended."""
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    statuses = []
    for container in pod["spec"]["containers"]:
        terminated: dict[str, Any] = {
            "exitCode": end.exit_code,
            "reason": "Completed" if end.exit_code == 0 else "Error",
            "startedAt": pod["status"].get("startTime", moment),
            "finishedAt": moment,
        }
        if container["name"] == "worker" and end.envelope is not None:
            terminated["message"] = orjson.dumps(end.envelope).decode()
        statuses.append(
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": False,
                "started": False,
                "restartCount": 0,
                "state": {"terminated": terminated},
            }
        )
    return {
        "status": {
            "phase": "Succeeded" if end.exit_code == 0 else "Failed",
            "containerStatuses": statuses,
        }
    }


class RefusedError(Exception):
    """The API server refused a call; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class Server:
    """Calls to one API server, as the kubeconfig's user or with another token."""

    def __init__(self, kubeconfig: Path) -> None:
        try:
            config = yaml.safe_load(kubeconfig.read_text())
            chosen = {item["name"]: item["context"] for item in config["contexts"]}[config["current-context"]]
            cluster = {item["name"]: item["cluster"] for item in config["clusters"]}[chosen["cluster"]]
            user = {item["name"]: item["user"] for item in config["users"]}[chosen["user"]]
            self._base: str = cluster["server"]
            authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise DevclusterError(f"kubeconfig {kubeconfig} cannot be used: {error!r}") from error
        self._own_headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        # A client certificate would win over a pod's token, so pods' calls have a context without one.
        self._own_tls = ssl.create_default_context(cadata=authority)
        self._pod_tls = ssl.create_default_context(cadata=authority)
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile() as pair:
                pair.write(base64.b64decode(user["client-certificate-data"]))
                pair.write(base64.b64decode(user["client-key-data"]))
                pair.flush()
                self._own_tls.load_cert_chain(pair.name)
        self._own: aiohttp.ClientSession
        self._pods: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
        self._own = aiohttp.ClientSession(
            self._base,
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._own_tls),
            headers=self._own_headers,
            timeout=timeout,
        )
        self._pods = aiohttp.ClientSession(
            self._base, connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._pod_tls), timeout=timeout
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._own.close()
        await self._pods.close()

    async def call(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json", token: str = ""
    ) -> Any:
        """One call, tried again while its fate is unknown. Raises RefusedError."""
        session = self._pods if token else self._own
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else orjson.dumps(body)
        loop = asyncio.get_running_loop()
        begun, pause = loop.time(), 0.1
        while True:
            patience = RETRY_SECONDS
            try:
                async with session.request(method, path, data=data, headers=headers) as answer:
                    content = await answer.read()
                    if answer.status < 300:
                        return orjson.loads(content)
                    error: Exception = RefusedError(answer.status, _message(content))
                    again = answer.status in (403, 429) or answer.status >= 500
                    patience = FORBIDDEN_SECONDS if answer.status == 403 else RETRY_SECONDS
            except (aiohttp.ClientError, TimeoutError) as lost:
                error, again = lost, True
            if not again or loop.time() > begun + patience:
                raise error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            pause = min(pause * 2, 5)

    async def watch(self, path: str, selector: str, version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Events (type, object) until the server ends the watch. Raises RefusedError(410) for a lost history."""
        query = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        # Bookmarks come about once a minute, so a longer silence means a dead connection.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
        async with self._own.get(path, params=query, timeout=timeout) as answer:
            if answer.status >= 300:
                raise RefusedError(answer.status, _message(await answer.read()))
            buffered = b""
            async for chunk in answer.content.iter_any():
                *lines, buffered = (buffered + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        raise RefusedError(event["object"].get("code", 500), event["object"].get("message", ""))
                    yield event["type"], event["object"]


def _message(content: bytes) -> str:
    try:
        return str(orjson.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


class FakeWorker:
    """Plays every pod on a fake node, each once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._playing: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Never returns; the API server may go away and come back meanwhile."""
        pause = 0.2
        while True:
            try:
                pods = await self._server.call("GET", f"/api/v1/pods?labelSelector={JOB_LABEL}")
                self._forget_all_but({pod["metadata"]["uid"] for pod in pods["items"]})
                for pod in pods["items"]:
                    self._see("MODIFIED", pod)
                version = pods["metadata"]["resourceVersion"]
                pause = 0.2
                while True:
                    async for kind, seen in self._server.watch("/api/v1/pods", JOB_LABEL, version):
                        version = seen["metadata"]["resourceVersion"]
                        if kind != "BOOKMARK":
                            self._see(kind, seen)
            except (aiohttp.ClientError, TimeoutError, RefusedError) as error:
                log.info("watch: %s; listing again", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5)

    def _forget_all_but(self, uids: set[str]) -> None:
        for uid in self._playing.keys() - uids:
            self._playing.pop(uid).cancel()

    def _see(self, kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            if uid in self._playing:
                self._playing.pop(uid).cancel()
            return
        on_fake_node = pod["spec"].get("nodeName", "").startswith(FAKE_NODE_PREFIX)
        if on_fake_node and pod["status"].get("phase") == "Running" and uid not in self._playing:
            self._playing[uid] = asyncio.create_task(self._play_safely(pod))

    async def _play_safely(self, pod: dict[str, Any]) -> None:
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        try:
            await self._play(pod)
        except (RefusedError, aiohttp.ClientError, TimeoutError) as error:
            log.warning("pod %s: %s", name, error)
        except Exception:
            # One pod that cannot be played must not end the others.
            log.exception("pod %s", name)

    async def _play(self, pod: dict[str, Any]) -> None:
        meta = pod["metadata"]
        text = meta.get("annotations", {}).get(PAYLOAD_ANNOTATION, "")
        try:
            payload = json.loads(text)
            behaviour = Behaviour.parse(payload.get("args") or {})
        except (ValueError, TypeError, AttributeError) as wrong:
            await self._end_pod(pod, ending(Behaviour(), int(meta["labels"][ATTEMPT_LABEL]), 0, str(wrong)))
            return
        await asyncio.sleep(behaviour.seconds)
        children, error = await self._create_children(pod, payload, behaviour)
        end = ending(behaviour, payload["attempt"], children, error)
        if behaviour.report and end.envelope is not None:
            await self._report(pod, payload, end.envelope)
        await asyncio.sleep(behaviour.lingerSeconds)
        await self._end_pod(pod, end)

    async def _create_children(
        self, pod: dict[str, Any], payload: dict[str, Any], behaviour: Behaviour
    ) -> tuple[int, str]:
        """How many children were accepted, and what went wrong."""
        total = behaviour.children + (behaviour.then is not None)
        if not total:
            return 0, ""
        meta = pod["metadata"]
        path = JOBS.format(namespace=meta["namespace"])
        try:
            token = await self._token(pod)
            for start in range(0, total, CONNECTIONS):
                indices = range(start, min(start + CONNECTIONS, total))
                posts = (
                    self._create_child(path, child_manifest(payload, meta["uid"], index, behaviour), token)
                    for index in indices
                )
                await asyncio.gather(*posts)
        except RefusedError as error:
            return 0, f"a child was refused: {error}"
        return total, ""

    async def _create_child(self, path: str, manifest: dict[str, Any], token: str) -> None:
        try:
            await self._server.call("POST", path, manifest, token=token)
        except RefusedError as error:
            # The name holds this pod's UID: a Job that has it already came from a POST whose answer was lost.
            if error.code != 409:
                raise

    async def _token(self, pod: dict[str, Any]) -> str:
        meta, account = pod["metadata"], pod["spec"].get("serviceAccountName", "default")
        answer = await self._server.call(
            "POST",
            f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": [],
                    "expirationSeconds": 3600,
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": meta["name"],
                        "uid": meta["uid"],
                    },
                },
            },
        )
        token: str = answer["status"]["token"]
        return token

    async def _report(self, pod: dict[str, Any], payload: dict[str, Any], envelope: dict[str, Any]) -> None:
        job, meta = payload["job"], pod["metadata"]
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": job["uid"]},
            {"op": "add", "path": "/status/report", "value": {**envelope, "podUID": meta["uid"]}},
        ]
        path = f"{JOBS.format(namespace=meta['namespace'])}/{job['name']}/status"
        try:
            await self._server.call("PATCH", path, patch, kind="application/json-patch+json")
        except RefusedError as error:
            log.info("pod %s/%s: report refused: %s", meta["namespace"], meta["name"], error)

    async def _end_pod(self, pod: dict[str, Any], end: Ending) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        body = ended_status(pod, end, datetime.now(UTC)) | {"metadata": {"uid": meta["uid"]}}
        with contextlib.suppress(RefusedError):  # deleted meanwhile
            await self._server.call("PATCH", path, body, kind="application/merge-patch+json")


async def _run(kubeconfig: Path) -> None:
    loop = asyncio.get_running_loop()
    async with Server(kubeconfig) as server:
        work = asyncio.create_task(FakeWorker(server).run())
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work


def main(kubeconfig: Path) -> None:
    """Runs until SIGINT or SIGTERM. Raises DevclusterError when the kubeconfig cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_run(kubeconfig))
