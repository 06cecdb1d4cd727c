"""The command line of devcluster."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from devcluster import gobuild, host, images, lifecycle
from devcluster.paths import DevclusterError, Paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m devcluster",
        description="A real Kubernetes cluster on this machine, kept below .cluster/ of the folder it is run from.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the cluster, or heal it; a second `up` changes nothing")
    up.add_argument("--durable", action="store_true", help="etcd flushes every write to the disk")
    up.add_argument("--kwok-nodes", type=_count, metavar="N", help="have N fake nodes, which run no containers")
    commands.add_parser("down", help="end the cluster; nothing is left but its logs")
    commands.add_parser("status", help="what runs; exit status 0 when everything does, else 3")
    commands.add_parser("build", help="build the binaries and the base image, start nothing")
    image = commands.add_parser("image", help="build an image with buildah")
    image.add_argument("-t", "--tag", required=True, help="the image's name")
    image.add_argument("-f", "--file", required=True, type=Path, help="the Dockerfile")
    image.add_argument("context", type=Path, help="the build context, a folder")
    load = commands.add_parser("load", help="bring images to the cluster's node")
    load.add_argument("image", nargs="+", help="a name in buildah's storage, or the path of a docker-archive")
    fake = commands.add_parser("fakeworker", help="play the SDK for pods on fake nodes until interrupted")
    fake.add_argument("--kubeconfig", type=Path, help="default: .cluster/kubeconfig")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and 1000")
    return number


def _say(text: str) -> None:
    # On a terminal, a line of progress may stand where this one goes.
    clear = "\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}devcluster {time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Exit status: 0, 1 for an error told in words, 3 for `status` when not all is well."""
    options = _parser().parse_args(arguments)
    paths = Paths(Path.cwd())
    try:
        return _run(options, paths)
    except DevclusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("devcluster: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, paths: Paths) -> int:
    match options.command:
        case "up":
            lifecycle.up(paths, options.durable, options.kwok_nodes, _say)
        case "down":
            lifecycle.down(paths, _say)
        case "status":
            return 0 if lifecycle.status(paths, _say) else 3
        case "build":
            host.require_root()
            with lifecycle.machine_lock(_say):
                lifecycle.prepare(paths, gobuild.ALL, _say)
                images.ensure_system_images(_say)
                images.ensure_base(_say)
        case "image":
            host.require_root()
            images.build(options.tag, options.file, options.context, _say)
        case "load":
            host.require_root()
            for image in options.image:
                images.load(paths, image, _say)
        case "fakeworker":
            # Only this command needs more than the standard library.
            from devcluster.fakeworker import main as play

            play(options.kubeconfig or paths.kubeconfig)
    return 0
