"""Write docs/reference/cli.md from the command line itself.

    python tools/make_cli_reference.py

A test compares the page with what this makes, so the page is never older than the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from undiffuse.app.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"

HEAD = """# Command line

Made by `python tools/make_cli_reference.py` from the program itself; do not edit.

`--debug`, anywhere on the line, shows a traceback where an error would be one line. `undiffuse --version` shows the
version. Exit codes: 0 for success, 2 for what the caller can mend (a wrong option, key, file), 1 for a failure while
running, 130 after an interruption.
"""


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command, those of sub-groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def section(name: str, command: Any) -> str:
    """One command: what it does, how it is called, its arguments and options."""
    context = command.context_class(command, info_name=name)
    records = [parameter.get_help_record(context) for parameter in command.params if parameter.name != "help"]
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", command.help.strip(), "", f"    {usage}", ""]
    if records:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{cell(what)}` | {cell(meaning)} |" for what, meaning in records]
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text that fits a table's cell."""
    return " ".join(text.replace("|", "\\|").split())


def page() -> str:
    """The whole page."""
    group = typer.main.get_command(app)
    return "\n".join([HEAD, *(section(name, command) for name, command in commands(group, "undiffuse"))])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
