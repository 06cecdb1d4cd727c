from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CASES = Path(__file__).with_name("typing_cases.py")


def mypy(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--no-error-summary", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_tasks_keep_their_signatures_under_mypy_strict() -> None:
    done = mypy(CASES)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_signature_that_is_lost_would_be_seen(tmp_path: Path) -> None:
    broken = tmp_path / "cases.py"
    right = 'configured.enqueue(b"a")  # type: ignore[arg-type]'
    text = CASES.read_text()
    assert right in text
    broken.write_text(text.replace(right, 'configured.enqueue(b"a")'))
    done = mypy(broken)
    assert done.returncode == 1
    assert 'Argument 1 to "enqueue" of "Task" has incompatible type "bytes"; expected "str"' in done.stdout
