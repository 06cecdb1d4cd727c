"""docs/testing.md: its tests pass, in a pytest of their own, and it names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from questline import testing as kit
from questline.testing._cluster import LIMIT

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE, re.DOTALL)


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    assert PAGE.count("```python") == len(BLOCKS)
    for _, name in BLOCKS:
        (tmp_path / name).write_text("\n\n".join(code for code, of in BLOCKS if of == name))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = -p no:cacheprovider\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "test_shop.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    tests = sum(len(re.findall(r"^def test_", code, re.MULTILINE)) for code, _ in BLOCKS)
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr


def test_the_code_of_the_page_is_typed(tmp_path: Path) -> None:
    for _, name in BLOCKS:
        (tmp_path / name).write_text("\n\n".join(code for code, of in BLOCKS if of == name))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--disable-error-code=empty-body"]
    root = DOCS.parent
    paths = f"{root / 'worker_image'}:{root / 'operator'}:{tmp_path}"
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", "shop.py", "test_shop.py"],
        cwd=tmp_path,
        env={"MYPYPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_the_page_names_what_there_is() -> None:
    for name in set(re.findall(r"`(?:testing|cluster)\.(\w+)", PAGE)):
        assert hasattr(kit, name) or hasattr(kit.Cluster, name), name
    for name in ("run", "enqueued", "drain", "advance", "now", "jobs", "job"):
        assert f"testing.{name}(" in PAGE or f"`{name}" in PAGE
    assert f"after {LIMIT:,} attempts" in PAGE
    for field in ("reason", "message", "exception", "manifest", "run_at"):
        assert field in kit.Job.__dataclass_fields__
