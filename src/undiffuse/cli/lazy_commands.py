"""Build the parser of the requested command only: building the parsers of all commands takes 0.2 s."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import typer


def select_command(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """The application reduced to the command at the start of ``arguments``; unchanged if they name none."""
    if not arguments:
        return app
    reduced = copy(app)
    reduced.registered_commands = [command for command in app.registered_commands if _name(command) == arguments[0]]
    reduced.registered_groups = []
    for group in app.registered_groups:
        if group.name == arguments[0] and group.typer_instance is not None:
            inner = copy(group)
            inner.typer_instance = select_command(group.typer_instance, arguments[1:])
            reduced.registered_groups = [inner]
    return reduced if reduced.registered_commands or reduced.registered_groups else app


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")
