"""The operator's process: elects itself, leads, and leaves when it may lead no more."""

import argparse
import asyncio
import logging
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import kopf
from prometheus_client import CollectorRegistry

from questline_operator.handlers import registry
from questline_operator.shell.clock import SystemClock
from questline_operator.shell.crd_install import CrdInstallError, apply_crds
from questline_operator.shell.epoch import raise_epoch
from questline_operator.shell.http_api import HttpApi
from questline_operator.shell.leader import Leader
from questline_operator.shell.lease import Elector, LeadershipLostError
from questline_operator.shell.metrics import WorldCollector, count_writes
from questline_operator.shell.probes import Probes

logger = logging.getLogger("questline_operator")

LEASE = "questline-operator"
PROBES_PORT = 8080
STALE_PASS_SECONDS = 30.0
STALE_WATCH_SECONDS = 400.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator, or install the CRDs; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m questline_operator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", help="run the operator (the default)")
    for one in (parser, run):
        one.add_argument(
            "--namespace", default=os.environ.get("POD_NAMESPACE", "questline-system"), help="of its Lease"
        )
        one.add_argument("--probes-port", type=int, default=PROBES_PORT, help="of /livez, /readyz and /metrics")
    install = commands.add_parser("apply-crds", help="apply every CRD of a folder, server-side")
    install.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # kopf reads Workers with the standard library's json, which would fail on a template nested a thousand levels deep.
    sys.setrecursionlimit(20_000)
    connection = connect()
    if connection is None:
        logger.error("no credentials: run in a pod with a service account, or with a kubeconfig (KUBECONFIG)")
        return 1
    if options.command == "apply-crds":
        try:
            asyncio.run(apply_crds(connection, options.folder))
        except CrdInstallError as error:
            logger.error("%s", error)
            return 1
        return 0
    return asyncio.run(operate(connection, namespace=options.namespace, probes_port=options.probes_port))


def connect() -> kopf.ConnectionInfo | None:
    """The credentials of this process: its service account's, else those of the kubeconfig; None without either."""
    settings = kopf.OperatorSettings()
    in_cluster = kopf.login_with_service_account(logger=logger, settings=settings)
    try:
        return in_cluster or kopf.login_with_kubeconfig(logger=logger, settings=settings)
    except OSError as error:
        logger.error("the kubeconfig cannot be read: %s", error)
        return None


def identity() -> str:
    """What the Lease names this process by: its pod, so that a container restarted in it goes on at once."""
    name, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    return f"{name}_{uid}" if name and uid else f"{socket.gethostname()}_{uuid.uuid4()}"


async def operate(connection: kopf.ConnectionInfo, *, namespace: str, probes_port: int) -> int:
    """Stand by, lead, and end when told to or when leadership is lost; returns the exit status.

    Every part runs in one TaskGroup: when any of them dies, the process leaves, and its successor starts from nothing.
    """
    clock, metrics = SystemClock(), CollectorRegistry()
    name = identity()
    leader: Leader | None = None
    status = 0
    metrics.register(WorldCollector(lambda: leader.world if leader is not None and leader.synced else None))
    writes = count_writes(metrics)
    async with HttpApi.connect(connection) as api:
        elector = Elector(api, clock, namespace, LEASE, name)

        async def lead() -> None:
            nonlocal leader
            await elector.acquire()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(elector.run())
                epoch = await raise_epoch(api, namespace)
                logger.info("leading with epoch %d", epoch)
                leader = Leader(api, clock, epoch=epoch, check_leading=elector.check, writes=writes)
                tasks.create_task(leader.run())

        probes = Probes(
            probes_port,
            metrics,
            live=lambda: None if leader is None else stale(leader),
            ready=lambda: None if leader is None or leader.synced else "the first lists are being read",
        )
        try:
            async with probes:
                handlers = registry(connect, lambda: leader)
                small_kinds = kopf.operator(
                    registry=handlers,
                    clusterwide=True,
                    # kopf would look up the user's name, which an image need not know; its type is not exported.
                    identity=name,  # type: ignore[arg-type]
                )
                await _until_told(lead(), small_kinds)
        except* LeadershipLostError as lost:
            logger.error("leaving: %s", lost.exceptions[0])
            status = 1
        finally:
            await elector.release()
    return status


def stale(leader: Leader) -> str | None:
    """What of a leader no longer moves, or None where all does."""
    if leader.seconds_since_pass > STALE_PASS_SECONDS:
        return f"the controller has not looked at anything for {leader.seconds_since_pass:.0f} s"
    if leader.seconds_since_watch > STALE_WATCH_SECONDS:
        return f"a watch has been silent for {leader.seconds_since_watch:.0f} s"
    return None


async def _until_told(*parts: "asyncio._CoroutineLike[None]") -> None:
    """Run the parts until one of them ends: kopf's ends on SIGTERM, and any other only by its failure."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
