"""What a user of the command did wrong, or was refused: one message, no traceback."""

from questline.errors import QuestlineError

EXIT_REFUSED = 2
"""The command could not do what it was told: a mistake, a refusal, no cluster. Usage errors end so, too."""


class CommandError(QuestlineError):
    """The command cannot go on. The message says what is wrong, where, and what to do."""
