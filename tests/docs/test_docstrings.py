"""Every example in a docstring runs, and everything public says what it is."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "undiffuse"
#: Rooms whose public functions, classes and methods all carry a docstring.
DOCUMENTED = ["core", "samplers", "losses", "networks", "data", "metrics", "systems", "training"]

FILES = sorted(PACKAGE.rglob("*.py"))
WITH_EXAMPLES = [path for path in FILES if ">>> " in path.read_text(encoding="utf-8")]
IN_DOCUMENTED_ROOMS = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in DOCUMENTED]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def short(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=short)
def test_examples_run(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(module_name(path)))
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0] for path in WITH_EXAMPLES}
    assert "core" in rooms


def public_parts(module: ModuleType) -> Iterator[tuple[str, object]]:
    """(name, object) of the functions and classes that the module defines, and of the classes' public methods."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield name, thing
        # the members of a protocol are described by its class
        if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
            for method, member in vars(thing).items():
                if not method.startswith("_") and isinstance(
                    member, FunctionType | property | classmethod | staticmethod
                ):
                    yield f"{name}.{method}", getattr(thing, method)


@pytest.mark.parametrize("path", IN_DOCUMENTED_ROOMS, ids=short)
def test_everything_public_says_what_it_is(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    assert module.__doc__ or not path.read_text(encoding="utf-8").strip(), "the module says nothing"
    # getdoc: a method that overrides another is described where it was first declared
    silent = [name for name, thing in public_parts(module) if not inspect.getdoc(thing)]
    assert not silent
