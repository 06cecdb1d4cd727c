"""The chart gives the operator the writes that it makes, and no others."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = "\n".join(path.read_text() for path in (ROOT / "operator" / "questline_operator").rglob("*.py"))
RIGHTS = (ROOT / "charts" / "questline" / "templates" / "operator-rbac.yaml").read_text()


def verbs(resources: str, names: str = "") -> list[str]:
    named = f"  resourceNames: \\[{names}\\]\n" if names else ""
    found = re.search(f"  resources: \\[{re.escape(resources)}\\]\n{named}  verbs: \\[(.*)\\]", RIGHTS)
    assert found is not None
    return found[1].split(", ")


def test_what_is_never_updated_or_patched_needs_no_right_to_it() -> None:
    assert set(re.findall(r"api\.replace\((\w+)", SOURCES)) == {"LEASES", "CONFIG_MAPS"}
    assert re.findall(r"api\.patch\((\w+).*", SOURCES) == [
        "resource"
    ]  # the writer's: of a status, by its caller's kind
    assert "patch_status" in SOURCES
    assert verbs("leases", "questline-operator") == ["get", "update"]
    assert verbs("configmaps", "questline-fence") == ["get", "update"]
    assert verbs("questqueues/status, questworkers/status, questschedules/status") == ["patch"]
    assert "update" in verbs("questjobs/status")  # by which the policies know the operator
