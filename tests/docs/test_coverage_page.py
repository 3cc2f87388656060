"""Every function and every test that the pages of docs/theory name exists."""

from __future__ import annotations

import ast
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT

from undiffuse.samplers import SAMPLERS, make_sampler

FOLDER = ROOT / "docs" / "theory"
TEXT = (FOLDER / "coverage.md").read_text(encoding="utf-8")
FORMULA_TABLES = (FOLDER / "formulas.md").read_text(encoding="utf-8")
ALL_TEXT = "\n".join(page.read_text(encoding="utf-8") for page in sorted(FOLDER.glob("*.md")))
#: What the pages call functions, each a row of the map.
CALLED = set(re.findall(r"\]\(functions\.md#([^)\s]+)\)", ALL_TEXT))
TESTS = sorted(set(re.findall(r"`(tests/[\w./]+\.py(?:::\w+)?)`", ALL_TEXT)))
#: A function given by its own name, which would have to be changed with it.
BARE = re.compile(r"(?<![\w./])[a-z_]+(?:\.[a-z_]+)+:[A-Za-z_]\w*")
#: A row of the features: source, feature, functions, tests.
ROWS = re.findall(r"^\| 00\d.*\|$", TEXT.split("## Errors in the documents")[0], re.MULTILINE)
#: A row of the formulas: which, corrected form, functions, tests.
FORMULA_ROWS = [line for line in FORMULA_TABLES.splitlines() if re.match(r"\| (?!formula \||---)", line)]


@pytest.fixture(scope="module")
def tool() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return runpy.run_path(str(ROOT / "tools" / "make_function_map.py"))


def test_the_map_of_functions_is_current(tool: Any) -> None:
    """Making it looks each function up in the source, so all that it holds exist."""
    assert (FOLDER / "functions.md").read_text(encoding="utf-8") == tool["page"](), (
        "run: python tools/make_function_map.py"
    )


def test_pages_call_functions_by_the_map_and_the_map_holds_no_other(tool: Any) -> None:
    known = {key for rows in tool["table"]().values() for key in rows}
    assert sorted(CALLED - known) == []
    assert sorted(known - CALLED) == []


def test_pages_give_no_function_by_its_own_name() -> None:
    for page in sorted(FOLDER.glob("*.md")):
        if page.name != "functions.md":
            assert BARE.findall(page.read_text(encoding="utf-8")) == [], page.name


def test_a_renamed_function_is_missed(tool: Any) -> None:
    assert tool["row"]("bridge", "core.process", "Process.bridge")
    with pytest.raises(LookupError, match=r"undiffuse\.core\.process defines no Process\.gone"):
        tool["row"]("bridge", "core.process", "Process.gone")
    with pytest.raises(LookupError, match=r"no module undiffuse\.core\.gone"):
        tool["row"]("bridge", "core.gone", "Process.bridge")


@pytest.mark.parametrize("test", TESTS)
def test_tests_exist(test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file()
    assert not name or name in functions_of(ROOT / path)


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_feature_is_held_by_a_function_and_a_test_or_is_open() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        check_row(row)


def test_every_formula_has_a_function_and_a_test_or_is_open() -> None:
    assert len(FORMULA_ROWS) > 40
    for row in FORMULA_ROWS:
        check_row(row)
    assert all(f"## 00{number}" in FORMULA_TABLES for number in range(5))


def check_row(row: str) -> None:
    """Two cells of words, one of functions, one of tests; or open, open."""
    _, _, functions, tests = [cell.strip() for cell in row.strip("|").split("|")]
    if functions == "open":
        assert tests == "open", row
    else:
        assert "](functions.md#" in functions, row
        assert "`tests/" in tests or tests == "open", row


def test_pages_are_linked_from_the_index_and_the_index_from_the_readme() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in FOLDER.glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
    assert "](docs/theory/README.md)" in readme
    for guide in (ROOT / "docs" / "guides").glob("*.md"):
        assert f"](docs/guides/{guide.name})" in readme, guide.name


def test_every_sampler_has_a_row_in_the_table_of_solvers() -> None:
    solvers = (FOLDER / "solvers.md").read_text(encoding="utf-8")
    for name in SAMPLERS:
        row = re.search(rf"^\| `{name}` \| (\d)", solvers, re.MULTILINE)
        assert row is not None, name
        assert int(row[1]) == make_sampler(name).order, name
