"""Mounts, found by path, because what made them may be long gone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from devcluster.paths import DevclusterError


def mounts_below(folders: Iterable[Path], mountinfo: str | None = None) -> list[Path]:
    """Mount points at or below the folders, deepest first."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found = []
    for line in text.splitlines():
        # Blanks and backslashes in a path are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split()[4])
        found.append(Path(point))
    below = [point for point in found if any(point.is_relative_to(folder) for folder in folders)]
    return sorted(below, key=lambda point: len(point.parts), reverse=True)


def unmount(folders: Iterable[Path]) -> None:
    """Unmounts everything at or below the folders. Raises DevclusterError when something stays mounted."""
    folders = list(folders)
    for _ in range(10):
        points = mounts_below(folders)
        if not points:
            return
        for start in range(0, len(points), 100):
            batch = [str(point) for point in points[start : start + 100]]
            subprocess.run(["umount", "--lazy", *batch], check=False, capture_output=True)
    raise DevclusterError(f"cannot unmount {mounts_below(folders)[0]}")
