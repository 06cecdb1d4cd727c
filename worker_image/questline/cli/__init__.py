"""The command `questline`, also `kubectl questline`: the extra `questline[cli]`. docs/command.md is its reference."""
