"""A cluster of the kit for each test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from questline import testing as kit
from tests.unit.testing import shop

START = datetime(2026, 1, 31, 8, tzinfo=UTC)


@pytest.fixture
def cluster() -> Iterator[kit.Cluster]:
    with kit.cluster(now=START) as entered:
        yield entered


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    shop.log.clear()
