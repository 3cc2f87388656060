"""Build the parser of the requested command only: building the parsers of all commands takes 0.2 s."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import typer


def narrowed(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """The application reduced to the command at the start of ``words``; unchanged if they name none."""
    if not words:
        return app
    found = copy(app)
    found.registered_commands = [command for command in app.registered_commands if _name(command) == words[0]]
    found.registered_groups = []
    for group in app.registered_groups:
        if group.name == words[0] and group.typer_instance is not None:
            inner = copy(group)
            inner.typer_instance = narrowed(group.typer_instance, words[1:])
            found.registered_groups = [inner]
    return found if found.registered_commands or found.registered_groups else app


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")
