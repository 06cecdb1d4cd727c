"""What the test kit itself has to say; what a task or an enqueue says comes as it would on a cluster."""

# Names without the suffix "Error", as in questline.errors; none begins with "Test", which pytest would collect.
# ruff: noqa: N818

from questline.errors import QuestlineError


class KitError(QuestlineError):
    """The test asks for what the kit cannot do, or not here."""


class NoCluster(KitError):
    """No cluster of the kit is there to work on."""


class Endless(KitError):
    """Attempts go on and on: a task that snoozes for ever, or Jobs that enqueue each other."""


class JobsFailed(KitError, AssertionError):
    """Jobs failed, and the test has asked for none to."""
