"""The operator's process: elects itself, leads, and leaves when it may lead no more."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kopf
from prometheus_client import CollectorRegistry

from questline_operator.handlers import registry
from questline_operator.shell.clock import SystemClock
from questline_operator.shell.crd_install import CrdInstallError, apply_crds
from questline_operator.shell.epoch import raise_epoch
from questline_operator.shell.http_api import HttpApi
from questline_operator.shell.leader import Leader
from questline_operator.shell.lease import Elector, LeadershipLostError
from questline_operator.shell.metrics import WorldCollector, count_kopf_events, count_writes, describe_process
from questline_operator.shell.probes import Probes

logger = logging.getLogger("questline_operator")

LEASE = "questline-operator"
PROBES_PORT = 8080
FIRST_CLAIMS_SECONDS = 2.0
"""For so long a new leader acts before kopf starts, which would take the CPU from the first claims: Jobs have waited
for those since the last leader ended. Nothing waits for kopf: our own watches have told already what it will."""
STALE_CONTROLLER_SECONDS = 30.0
STALE_WATCH_SECONDS = 400.0
STALE_LOOK_SECONDS = 30.0


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
        one.add_argument(
            "--max-running-pods",
            type=_limit,
            default=0,
            metavar="N",
            help="how many pods of attempts run at once in all queues together; 0, the default, for any number",
        )
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
    return asyncio.run(
        operate(
            connection,
            namespace=options.namespace,
            probes_port=options.probes_port,
            max_running_pods=options.max_running_pods or None,
        )
    )


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, 0 for no limit")
    return int(text)


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


async def operate(
    connection: kopf.ConnectionInfo, *, namespace: str, probes_port: int, max_running_pods: int | None = None
) -> int:
    """Stand by, lead, and end when told to or when leadership is lost; returns the exit status.

    A standby looks at the Lease and does nothing else: no list, no watch. When any part of a leader dies, the process
    leaves, and its successor starts from nothing.
    """
    clock, metrics = SystemClock(), CollectorRegistry()
    name, told = identity(), asyncio.Event()
    leader: Leader | None = None
    writes, events = count_writes(metrics), count_kopf_events(metrics)
    describe_process(metrics)
    _on_signals(told)
    async with HttpApi.connect(connection) as api:
        elector = Elector(api, clock, namespace, LEASE, name)
        first_claims_made = asyncio.Event()
        metrics.register(
            WorldCollector(
                lambda: leader.world if leader is not None and leader.acting.is_set() else None,
                epoch=lambda: leader.controller.epoch if leader is not None and elector.trusted else 0,
            )
        )

        async def lead() -> None:
            nonlocal leader
            await elector.acquire()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(elector.run())
                epoch = await raise_epoch(api, namespace, elector.check)
                logger.info("leading with epoch %d", epoch)
                leader = Leader(
                    api,
                    clock,
                    epoch=epoch,
                    check_leading=elector.check,
                    writes=writes,
                    max_running_pods=max_running_pods,
                )
                tasks.create_task(leader.run())
                await leader.acting.wait()
                await clock.sleep(FIRST_CLAIMS_SECONDS)
                first_claims_made.set()

        async def watch_small_kinds() -> None:
            await first_claims_made.wait()
            ours = asyncio.all_tasks()
            handlers = registry(connect, lambda: leader, events)
            # kopf would look up the user's name, which an image need not know; its type is not exported.
            theirs = await kopf.spawn_tasks(registry=handlers, clusterwide=True, identity=name)  # type: ignore[arg-type]
            _on_signals(told)  # kopf has put its own handlers there, which would have it end first
            await kopf.run_tasks(theirs, ignored=ours)

        probes = Probes(
            probes_port,
            metrics,
            live=lambda: None if leader is None else stale(leader),
            ready=lambda: unready(elector, leader),
        )
        async with probes:
            leadership = asyncio.create_task(lead())
            small_kinds = asyncio.create_task(watch_small_kinds())
            end = asyncio.create_task(told.wait())
            await asyncio.wait((leadership, small_kinds, end), return_when=asyncio.FIRST_COMPLETED)
            # In this order: nothing more is written, the next one may lead, and only then what may be slow.
            errors = [await _end(leadership)]
            await elector.release()
            errors += [await _end(small_kinds), await _end(end)]
    return _exit_status([error for error in errors if error is not None])


def unready(elector: Elector, leader: Leader | None) -> str | None:
    """Why this process neither leads nor could take over, or None where it does or could."""
    if leader is not None:
        return None if leader.acting.is_set() else "the first lists are being read"
    if elector.seconds_since_answer is None:
        return "the Lease was not read yet"
    if elector.seconds_since_answer > STALE_LOOK_SECONDS:
        return f"the Lease could not be read for {elector.seconds_since_answer:.0f} s"
    return None


def stale(leader: Leader) -> str | None:
    """What of a leader no longer moves, or None where all does."""
    if leader.seconds_since_look > STALE_CONTROLLER_SECONDS:
        return f"the controller has not looked at anything for {leader.seconds_since_look:.0f} s"
    if leader.seconds_since_watch > STALE_WATCH_SECONDS:
        return f"a watch has been silent for {leader.seconds_since_watch:.0f} s"
    return None


def _on_signals(told: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)


async def _end(task: asyncio.Task[Any]) -> BaseException | None:
    """Cancel the task, if it still runs, and wait until it has ended; the error that it died of."""
    task.cancel()
    await asyncio.wait((task,))
    return None if task.cancelled() else task.exception()


def _exit_status(errors: Sequence[BaseException]) -> int:
    """0 for an end that was asked for, 1 for a lost leadership, which is logged.

    Raises:
        BaseExceptionGroup: any other error.
    """
    if not errors:
        return 0
    lost, others = BaseExceptionGroup("the operator has died", errors).split(LeadershipLostError)
    if lost is not None:
        logger.error("leaving: %s", _first(lost))
    if others is not None:
        raise others
    return 1


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of a group that is no group itself."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
