"""Every function and every test that docs/theory/coverage.md names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT

from undiffuse.registry import resolve

TEXT = (ROOT / "docs" / "theory" / "coverage.md").read_text(encoding="utf-8")
SYMBOLS = sorted(set(re.findall(r"`(undiffuse[\w.]*:[\w.]+)`", TEXT)))
TESTS = sorted(set(re.findall(r"`(tests/[\w./]+\.py(?:::\w+)?)`", TEXT)))
THEORY = (ROOT / "docs" / "theory" / "diffusion.md").read_text(encoding="utf-8")
FORMULAS = sorted(set(re.findall(r"\b((?:core|losses|samplers)[\w.]*:[A-Za-z][\w.]+)", THEORY)))
#: A row of the features: source, feature, functions, tests.
ROWS = re.findall(r"^\| 00\d.*\|$", TEXT.split("## Slips")[0], re.MULTILINE)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_functions_exist(symbol: str) -> None:
    module, attributes = symbol.split(":")
    first, *rest = attributes.split(".")
    found: Any = resolve(f"{module}:{first}")
    for name in rest:
        found = found.model_fields[name] if name in getattr(found, "model_fields", {}) else getattr(found, name)


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
        _, _, functions, tests = [cell.strip() for cell in row.strip("|").split("|")]
        if functions == "open":
            assert tests == "open", row
        else:
            assert "`undiffuse" in functions, row
            assert "`tests/" in tests or tests == "open", row


@pytest.mark.parametrize("symbol", FORMULAS)
def test_functions_of_the_formulas_exist(symbol: str) -> None:
    test_functions_exist(f"undiffuse.{symbol}")
