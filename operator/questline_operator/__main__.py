"""`python -m questline_operator`: run the operator; `python -m questline_operator apply-crds DIR`: install the CRDs."""

import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    # The first process of a container ignores SIGTERM unless it handles it, and the imports below take a second.
    signal.signal(signal.SIGTERM, _leave)
    from questline_operator.main import main

    raise SystemExit(main())
