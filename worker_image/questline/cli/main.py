"""The entry point of `questline` and `kubectl-questline`."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Runs the command and ends the process with its exit status."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        sys.exit(f"questline: {error.name} is not installed: pip install 'questline[cli]'")
    from questline.cli import enqueue, follow, jobs, local, schedules, steer  # noqa: F401  each registers its own commands
    from questline.cli.app import app

    name = Path(sys.argv[0]).name
    app(prog_name="kubectl questline" if name == "kubectl-questline" else "questline")


if __name__ == "__main__":
    main()
