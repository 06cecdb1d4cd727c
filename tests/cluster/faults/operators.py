"""Operators as processes of this machine, with the rights of the deployed one: to stop, kill and measure as one likes.

The deployed one is scaled to zero meanwhile, so that whoever leads is one of these.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml

from tests.kube import Kube

NAMESPACE = "questline-system"
SAME_POD = {"POD_NAME": "questline-operator-under-test", "POD_UID": "00000000-0000-0000-0000-000000000001"}
"""Environment of operators that follow one another at once, as the containers of one pod do: one identity for all."""
DEPLOYMENT = "deployment/questline-operator"
LEADING = re.compile(r"leading with epoch (\d+)")


@contextlib.contextmanager
def no_deployed_operator(kube: Kube) -> Iterator[None]:
    """The deployed operator is scaled to zero, and back at the end."""
    replicas = kube.kubectl("get", DEPLOYMENT, "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}")
    _scale(kube, "0")
    kube.kubectl(
        *("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator"),
        *("-n", NAMESPACE, "--timeout=60s"),
    )
    try:
        yield
    finally:
        _scale(kube, replicas)
        kube.kubectl("rollout", "status", DEPLOYMENT, "-n", NAMESPACE, "--timeout=120s")


def _scale(kube: Kube, replicas: str) -> None:
    kube.kubectl("scale", DEPLOYMENT, "-n", NAMESPACE, f"--replicas={replicas}")


def operators_kubeconfig(kube: Kube, file: Path, *, server: str | None = None) -> Path:
    """Write a kubeconfig with the deployed operator's own rights, and no more.

    Args:
        server: another address of the API server, such as a proxy's; its certificate is not checked then.
    """
    config = yaml.safe_load(kube.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    config["users"][0]["user"] = {"token": kube.token(NAMESPACE, "questline-operator")}
    if server is not None:
        config["clusters"][0]["cluster"] = {"server": server, "insecure-skip-tls-verify": True}
    file.write_text(yaml.safe_dump(config))
    return file


class OperatorProcess:
    """One process, from `async with` to its end; it is killed there if it still runs.

    Args:
        module: what is run with ``python -m``; tests that make it crash give one of their own.
        log: where its output is kept.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *arguments: str,
        module: str = "questline_operator",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._log = log
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = {**os.environ, **(environment or {}), "KUBECONFIG": str(kubeconfig)}
        self._lines: list[str] = []
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.port = _free_port()

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *(*self._command, "--namespace", NAMESPACE, "--probes-port", str(self.port)),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        await self.ended()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        with self._log.open("a") as log:
            async for line in self.process.stdout:
                text = line.decode(errors="replace")
                log.write(text)
                log.flush()
                self._lines.append(text)
                self._news.set()
        await self.process.wait()
        self._news.set()

    @property
    def output(self) -> str:
        """All that it has said."""
        return "".join(self._lines)

    def send(self, sig: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(sig)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        assert self._reader is not None
        await asyncio.shield(self._reader)  # whoever waits may give up, the output is read on
        return await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.send(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self.ended()

    async def leads(self, *, seconds: float = 40.0) -> int:
        """Its epoch, once it leads.

        Raises:
            AssertionError: it has ended, or does not lead in time; holds what it said.
        """
        try:
            async with asyncio.timeout(seconds):
                while (found := LEADING.search(self.output)) is None:
                    assert self.process.returncode is None, f"the operator has ended:\n{self.output}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"the operator does not lead within {seconds:g} s:\n{self.output}") from None
        return int(found[1])

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def metrics(self) -> dict[str, float]:
        """Its metrics, each by its name with labels."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextlib.asynccontextmanager
async def one_operator(kube: Kube, folder: Path) -> AsyncIterator[OperatorProcess]:
    """A single operator that leads."""
    kubeconfig = operators_kubeconfig(kube, folder / "operator.kubeconfig")
    async with OperatorProcess(kubeconfig, folder / "operator.log") as operator:
        await operator.leads()
        yield operator


@contextlib.asynccontextmanager
async def kept_operator(kubeconfig: Path, log: Path) -> AsyncIterator[Counter[str]]:
    """An operator that leads, and whenever it leaves (it lost its Lease, say), the next one, as the kubelet would do.

    Yields:
        how often one has left.

    Raises:
        AssertionError: one left that should not have: by a signal, or with an error that nobody foresaw.
    """
    left: Counter[str] = Counter()
    leads, stop = asyncio.Event(), asyncio.Event()

    async def keep() -> None:
        while True:
            async with OperatorProcess(kubeconfig, log, environment=SAME_POD) as operator:
                ended, told = asyncio.create_task(operator.ended()), asyncio.create_task(stop.wait())
                with contextlib.suppress(AssertionError):
                    await operator.leads(seconds=60)
                    leads.set()
                await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    told.cancel()
                    assert await operator.terminate() == 0, operator.output
                    return
                left["operator left"] += 1
                assert ended.result() == 1, operator.output
                assert "Traceback" not in operator.output, operator.output

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep())
        await leads.wait()
        yield left
        stop.set()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
