"""Generate the pages of docs/reference, and the tables for the fast check of command lines, from the program.

    python tools/make_cli_reference.py

Tests compare the files with the output of this script, so they are always up to date.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from undiffuse.cli.main import app
from undiffuse.recipes import RECIPES, get_recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
TABLE = PAGE.parents[2] / "src" / "undiffuse" / "cli" / "checks" / "command_lines.json"
RECIPE_TABLE = TABLE.with_name("recipes.json")

HEAD = """# Command line

Made by `python tools/make_cli_reference.py` from the program itself; do not edit.

`--debug`, anywhere on the line, shows a traceback where an error would be one line. `undiffuse --version` shows the
version. Exit codes: 0 for success, 2 for what the caller can mend (a wrong option, key, file), 1 for a failure while
running, 130 after an interruption.
"""


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command, including sub-groups, without hidden former names."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def section(name: str, command: Any) -> str:
    """One command: help text, usage, arguments and options."""
    context = command.context_class(command, info_name=name)
    found = [parameter.get_help_record(context) for parameter in command.params if parameter.name != "help"]
    records = [record for record in found if record is not None]  # a hidden option has none
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", command.help.strip(), "", f"    {usage}", ""]
    if records:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{cell(what)}` | {cell(meaning)} |" for what, meaning in records]
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text escaped for a table cell."""
    return " ".join(text.replace("|", "\\|").split())


def page() -> str:
    """The complete page."""
    group = typer.main.get_command(app)
    return "\n".join([HEAD, *(section(name, command) for name, command in commands(group, "undiffuse"))])


def table(command: Any = None, name: str = "") -> dict[str, Any]:
    """Parameters of each command, by its full name; empty for the program. See ``undiffuse.cli.checks.lines``."""
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", {})
    found = {name: {"commands": list(inner), **_taken(command)}}
    for one, below in inner.items():
        found |= table(below, f"{name} {one}".strip())
    return found


def _taken(command: Any) -> dict[str, Any]:
    """Arguments in order, options by every spelling, and the names of required parameters."""
    context = command.context_class(command)
    parameters = command.get_params(context)
    taken = {one.name: _taken_by(one, context) for one in parameters}
    return {
        "arguments": [taken[one.name] for one in parameters if one.param_type_name == "argument"],
        "options": {
            word: taken[one.name] for one in parameters if one.param_type_name == "option" for word in one.opts
        },
        "required": [one.name for one in parameters if one.required],
    }


def _taken_by(parameter: Any, context: Any) -> dict[str, str]:
    if parameter.name == "help":
        takes = "help"
    elif getattr(parameter, "is_flag", False):
        takes = "nothing"
    else:
        takes = "many" if parameter.nargs == -1 or getattr(parameter, "multiple", False) else "one"
    shown = parameter.display_type(context)
    kind = next((kind for kind in ("int", "float") if kind in str(shown)), "text")
    return {"name": parameter.name, "takes": takes, "type": kind}


def table_text() -> str:
    """The text of the table's file: one command per line."""
    return _lines(table())


def recipes_text() -> str:
    """Settings of each recipe, one per line; see ``undiffuse.cli.checks.configuration``."""
    return _lines({name: non_defaults(get_recipe(name)) for name in RECIPES})


def non_defaults(config: BaseModel) -> dict[str, Any]:
    """Settings of a configuration that differ from the defaults, with all sections and component names."""
    found, plain = {}, config.model_dump(mode="json")
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if isinstance(value, BaseModel):
            found[key] = non_defaults(value)
        elif isinstance(value, dict) or key == "name" or value != field.get_default(call_default_factory=True):
            found[key] = plain[key]
    return found


def _lines(rows: dict[str, Any]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}\n"


if __name__ == "__main__":
    recipe_page = runpy.run_path(str(Path(__file__).with_name("make_recipe_page.py")))
    PAGE.write_text(page(), encoding="utf-8")
    TABLE.write_text(table_text(), encoding="utf-8")
    RECIPE_TABLE.write_text(recipes_text(), encoding="utf-8")
    recipe_page["PAGE"].write_text(recipe_page["page"](), encoding="utf-8")
    print(f"wrote {PAGE}, {recipe_page['PAGE']}, {TABLE} and {RECIPE_TABLE}")
