"""`python -m questline run` runs the attempt that this pod was made for."""

import sys


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    if arguments != ["run"]:
        help_asked = arguments in (["--help"], ["-h"], ["help"])
        print(
            "usage: python -m questline run\n\nRuns the attempt of the worker pod that it is started in.",
            file=sys.stdout if help_asked else sys.stderr,
        )
        return 0 if help_asked else 64
    from questline.pid1 import run_below_pid1

    return run_below_pid1(_run)


def _run() -> int:
    from questline.runner import run

    return run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
