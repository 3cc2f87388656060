"""The mutation check keeps up with the code, and does find out what it is for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation_check", ROOT / "tools" / "mutation_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_mutation_still_finds_its_formula(tool: ModuleType) -> None:
    assert len({mutation.name for mutation in tool.MUTATIONS}) == len(tool.MUTATIONS) >= 25
    for mutation in tool.MUTATIONS:
        text = tool.mutated(mutation, ROOT / "src" / "undiffuse")
        if mutation.file.endswith(".py"):
            compile(text, mutation.file, "exec")


def test_its_tests_exist(tool: ModuleType) -> None:
    for mutation in tool.MUTATIONS:
        assert all((ROOT / test).is_file() for test in tool.tests_of(mutation)), mutation.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bridge: c_t not squared", "heun: whole for half", "term: half forgotten"])
def test_a_broken_formula_fells_a_test(tool: ModuleType, name: str) -> None:
    assert tool.check([mutation for mutation in tool.MUTATIONS if mutation.name == name])[name] is not None
