"""An admission webhook that a test steers: it takes a namespace's pods, refuses them, fails, or says nothing in time.

It listens on loopback of the network namespace in which the local cluster's API server runs.
"""

import asyncio
import base64
import ctypes
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path

from aiohttp import web

from devcluster.paths import NETNS_FILE
from tests.kube import Kube

WORDS = "no pods on a Friday"
TIMEOUT_SECONDS = 1
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
PROBE = {"containers": [{"name": "worker", "image": "questline.dev/none:1"}]}
_CLONE_NEWNET = 0x40000000


class Answer(StrEnum):
    """What it does with a pod."""

    TAKES = "takes"
    REFUSES = "refuses"
    FAILS = "answers 500"
    SILENT = "does not answer"


class Webhook:
    """The server.

    Attributes:
        answer: to the next pods.
        asked: how many pods it was asked about.
    """

    def __init__(self) -> None:
        self.answer = Answer.TAKES
        self.asked = 0
        self._news = asyncio.Event()

    async def was_asked(self, times: int, *, seconds: float = 60.0) -> None:
        """Return once it was asked so often.

        Raises:
            TimeoutError: it was not in time.
        """
        async with asyncio.timeout(seconds):
            while self.asked < times:
                self._news.clear()
                await self._news.wait()

    async def review(self, request: web.Request) -> web.Response:
        """Answer the API server."""
        review = await request.json()
        self.asked += 1
        self._news.set()
        if self.answer is Answer.SILENT:
            await asyncio.sleep(2 * TIMEOUT_SECONDS)
        if self.answer is Answer.FAILS:
            return web.Response(status=500, text="the webhook is broken")
        response = {"uid": review["request"]["uid"], "allowed": self.answer is not Answer.REFUSES}
        if not response["allowed"]:
            response["status"] = {"message": WORDS}
        return web.json_response({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response})


@asynccontextmanager
async def webhook(kube: Kube, namespace: str, folder: Path) -> AsyncIterator[Webhook]:
    """One that is asked about every pod of an attempt in the namespace; the API server takes none without it."""
    key, certificate = folder / "webhook.key", folder / "webhook.crt"
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=webhook"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    listener = listening_beside_the_api_server()
    server = Webhook()
    application = web.Application()
    application.router.add_post("/", server.review)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=tls).start()
    port = listener.getsockname()[1]
    authority = base64.b64encode(certificate.read_bytes()).decode()
    name = f"{namespace}.questline.dev"
    body = {
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": name,
                "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": authority},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": {"matchExpressions": [{"key": "questline.dev/job", "operator": "Exists"}]},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT_SECONDS,
                "admissionReviewVersions": ["v1"],
            }
        ],
    }
    made = await asyncio.to_thread(kube.request, "POST", CONFIGURATIONS, body)
    assert made.ok, made.message
    try:
        # The API server learns of it by a watch, as of anything else.
        pod = {"metadata": {"name": "probe", "labels": {"questline.dev/job": "probe"}}, "spec": PROBE}
        pods = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
        while not server.asked:
            await asyncio.to_thread(kube.request, "POST", pods, pod)
        yield server
    finally:
        gone = await asyncio.to_thread(kube.request, "DELETE", f"{CONFIGURATIONS}/{name}")
        await runner.cleanup()
        assert gone.ok, gone.message


def listening_beside_the_api_server() -> socket.socket:
    """A socket on loopback of the cluster's network namespace, where it stays: only its making has to be there."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with NETNS_FILE.open() as network:
            if libc.setns(network.fileno(), _CLONE_NEWNET):  # of this thread alone
                made.append(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(NETNS_FILE)))
                return
        made.append(socket.create_server(("127.0.0.1", 0)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
