"""What the CRDs have in common, and what their rules let through, where no API server is needed to tell."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "crds"


def spec_of(plural: str) -> dict[str, Any]:
    crd = yaml.safe_load((FOLDER / f"{plural}.yaml").read_text())
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def test_a_schedules_job_is_a_jobs_spec_without_parent_cancel_and_rerun() -> None:
    """After a change of crds/questjobs.yaml copy the fields into crds/questschedules.yaml."""
    job = spec_of("questjobs")["properties"]
    mine = spec_of("questschedules")["properties"]["job"]["properties"]

    assert mine == {name: schema for name, schema in job.items() if name not in ("parent", "cancel", "rerun")}


RULES = [rule["rule"] for rule in spec_of("questschedules")["x-kubernetes-validations"]]
FIVE = re.findall(r"matches\('(.*?)'\)", RULES[0])[0]
FIELDS = [re.findall(r"\[\d\]\.matches\('(.*?)'\)", rule)[0].replace("(?i:", "(?:") for rule in RULES[1:]]


def taken(cron: str) -> bool:
    """Whether the CRD's rules take the line, which the API server evaluates with the same regular expressions."""
    if not re.search(FIVE, cron):
        return False
    return all(re.search(rx, field, re.IGNORECASE) for rx, field in zip(FIELDS, cron.split(" "), strict=True))


@pytest.mark.parametrize(
    "cron",
    [
        "* * * * *",
        "*/5 * * * *",
        "0-59/10,7 1,2,3 1-31 JAN-dec sun",
        "00 08 01 01 07",
        "5 4 L,15 * 0",
        "5 4 LW * *",
        "0 9 * * MON#2,FRI#5",
        "0 9 * * 5L",
        "0 22-4 * * *",
    ],
)
def test_a_line_that_may_be_one_is_taken(cron: str) -> None:
    assert taken(cron)


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "@daily",
        "* * * *",
        "0 * * * * *",
        "*  * * * *",
        " * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * 0 *",
        "* * * * 8",
        "*/0 * * * *",
        "1- * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "* * * FOO *",
        "* * * * MON#6",
        "* * L/2 * *",
        "x * * * *",
    ],
)
def test_a_line_that_cannot_be_one_is_refused(cron: str) -> None:
    assert not taken(cron)
