"""The deliberate bugs: one patch file each, and a copy of the operator's package that a patch is applied to.

A patch is a unified diff below a header whose first line says which promise it breaks. It stands as it would be applied
at the root of the checkout (`git apply tests/mutants/<name>.patch`), though that is never done here: only a copy of the
package is changed.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
PACKAGE = Path("operator/questline_operator")
HEADER = "Breaks: "


class PatchError(Exception):
    """A patch file is not as it should be, or does not apply to the sources as they are."""


@dataclass(frozen=True)
class Mutant:
    """One deliberate bug.

    Attributes:
        name: the patch file's, without its ending: `07-duplicate-admitted`.
        breaks: the promise that the operator no longer keeps with it.
    """

    name: str
    breaks: str
    path: Path

    @classmethod
    def read(cls, path: Path) -> Self:
        """The mutant of a patch file.

        Raises:
            PatchError: its first line does not say what it breaks.
        """
        first = path.read_text().partition("\n")[0]
        if not first.startswith(HEADER) or first == HEADER:
            raise PatchError(f"{path.name}: the first line must say which promise it breaks, as `{HEADER}...`")
        return cls(path.stem, first.removeprefix(HEADER), path)

    @property
    def number(self) -> int:
        """The number that its name begins with."""
        return int(self.name.partition("-")[0])

    def apply(self, folder: Path) -> None:
        """Change the copy of the package that `copy_package` put into the folder.

        Raises:
            PatchError: the patch does not apply; the copy is as it was.
        """
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", str(self.path)],
            cwd=folder,
            # A copy in a checkout's own folder is no part of that checkout: git would skip what lies outside of it.
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PatchError(f"{self.path.name} does not apply to {PACKAGE}: {done.stderr.strip()}; write it anew")


def all_mutants() -> list[Mutant]:
    """Every mutant there is, by number.

    Raises:
        PatchError: of one of the files.
    """
    return [Mutant.read(path) for path in sorted(Path(__file__).parent.glob("*.patch"))]


def copy_package(folder: Path) -> Path:
    """Copy the operator's package into the folder; returns what a process needs on its import path to import it."""
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return (folder / PACKAGE).parent
