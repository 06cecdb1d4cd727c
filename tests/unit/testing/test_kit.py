"""What the kit is made of: the operator's core, the SDK, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import questline
import questline_operator
from questline import testing as kit

SDK = Path(questline.__file__).parent
PATHS = [str(SDK.parent), str(Path(questline_operator.__file__).parents[1]), str(Path(__file__).parents[3])]
LEAN = [sys.executable, "-I", "-S", "-c"]
USE = """
from questline import testing
from tests.unit.testing import shop
with testing.cluster():
    shop.process_upload.enqueue("f", failures=1)
    shop.later.enqueue()
    shop.send_broadcast.enqueue("m", ["a@example.com"])
    assert {job.state for job in testing.drain()} == {"Succeeded", "Skipped"}
"""


def modules_after(code: str) -> set[str]:
    code = f"import sys; sys.path += {PATHS!r}\n{code}\nimport json; print(json.dumps(list(sys.modules)))"
    return set(json.loads(subprocess.run([*LEAN, code], capture_output=True, check=True).stdout))


def test_it_runs_with_nothing_but_the_standard_library_the_sdk_and_the_core() -> None:
    roots = {name.partition(".")[0] for name in modules_after(USE)}
    assert roots - set(sys.stdlib_module_names) <= {
        "__main__",
        "questline",
        "questline_operator",
        "tests",
        "_distutils_hack",
    }
    assert not any(name.startswith("questline_operator.shell") for name in modules_after(USE))


def test_nobody_pays_for_it_who_does_not_import_it() -> None:
    after = modules_after("import questline, questline.runner, questline.enqueue")
    assert not any(name.startswith(("questline.testing", "questline_operator")) for name in after)


def test_no_decision_is_made_in_it_but_by_the_core() -> None:
    """What becomes of a Job is written by the core's transitions alone: the kit sets none of these fields."""
    for path in (SDK / "testing").glob("*.py"):
        fields = "nextAttemptAt|succeededAttempts|finishes|finishedAt|conditions|duplicateOf|upstream|armed"
        found = re.findall(rf'"({fields})":', path.read_text())
        assert set(found) <= ({"conditions"} if path.name == "_store.py" else set()), path  # a Worker's, Ready


def test_every_public_name_is_documented() -> None:
    for name in kit.__all__:
        assert getattr(kit, name).__doc__, name
    for name, value in vars(kit.Cluster).items():
        assert name.startswith("_") or value.__doc__, name
