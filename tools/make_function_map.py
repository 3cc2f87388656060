"""Generate docs/theory/functions.md from docs/theory/functions.toml, and check that the source defines all functions.

    python tools/make_function_map.py

The pages of docs/theory link to functions through it, so a renamed or moved function changes one line of the table and
no page. A test compares the page with the output of this script. Nothing is imported.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from definitions import places

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "theory"

HEAD = """# Functions

Made by `python tools/make_function_map.py` from [functions.toml](functions.toml); do not edit. The
[theory pages](README.md) call functions by the names on the left; on the right is `module:name` inside `undiffuse`. A
function that is renamed or moved changes one line of the table and none of the pages.
"""


def table() -> dict[str, dict[str, str]]:
    """module -> name on the pages -> dotted name in the module.

    Raises:
        ValueError: if two functions have the same name.
    """
    modules: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "functions.toml").read_text(encoding="utf-8"))
    keys = [key for rows in modules.values() for key in rows]
    if duplicates := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"docs/theory/functions.toml names {', '.join(duplicates)} more than once")
    return modules


def file_of(module: str) -> Path:
    """The file of a module or package of ``undiffuse``.

    Raises:
        LookupError: if there is none.
    """
    path = ROOT.joinpath("src", "undiffuse", *module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise LookupError(f"docs/theory/functions.toml: no module undiffuse.{module}")


def row(key: str, module: str, name: str) -> str:
    """One row: the link name and the function's name, linked to its file.

    Raises:
        LookupError: if the module does not define it.
    """
    file = file_of(module)
    if not places(file.read_text(encoding="utf-8"), ".py", name):
        raise LookupError(f"docs/theory/functions.toml: undiffuse.{module} defines no {name}")
    return f'| <a id="{key}"></a>{key} | [`{module}:{name}`](../../{file.relative_to(ROOT).as_posix()}) |'


def page() -> str:
    """The complete page, ordered by link name."""
    functions = sorted((key, module, name) for module, rows in table().items() for key, name in rows.items())
    return "\n".join([HEAD, "| name | function |", "|---|---|", *(row(*function) for function in functions), ""])


if __name__ == "__main__":
    (FOLDER / "functions.md").write_text(page(), encoding="utf-8")
