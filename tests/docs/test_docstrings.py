"""Every example in a docstring runs, everything public says what it is, and its arguments are stated with shapes."""

from __future__ import annotations

import doctest
import importlib
import inspect
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "undiffuse"
#: Rooms whose public functions, classes and methods all carry a docstring.
DOCUMENTED = [
    *("core", "samplers", "losses", "guidance", "networks", "conditioning", "models", "objectives"),
    *("data", "augment", "metrics", "training"),
]
#: Rooms of which ``tools/docstring_coverage.py`` counts what arguments and shapes are stated.
COUNTED = ["core", "samplers", "losses", "guidance", "networks", "conditioning", "models", "objectives", "api"]

FILES = sorted(PACKAGE.rglob("*.py"))
WITH_EXAMPLES = [path for path in FILES if ">>> " in path.read_text(encoding="utf-8")]
IN_DOCUMENTED_PACKAGES = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in DOCUMENTED]


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
    packages = {path.relative_to(PACKAGE).parts[0] for path in WITH_EXAMPLES}
    assert "core" in packages


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
                if getattr(member, "__name__", "") == "<lambda>":  # a field's default, which the class describes
                    continue
                if not method.startswith("_") and isinstance(
                    member, FunctionType | property | classmethod | staticmethod
                ):
                    yield f"{name}.{method}", getattr(thing, method)


@pytest.mark.parametrize("path", IN_DOCUMENTED_PACKAGES, ids=short)
def test_everything_public_reports_what_it_is(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    assert module.__doc__ or not path.read_text(encoding="utf-8").strip(), "the module says nothing"
    # getdoc: a method that overrides another is described where it was first declared
    silent = [name for name, thing in public_parts(module) if not inspect.getdoc(thing)]
    assert not silent


@pytest.fixture(scope="module")
def coverage() -> dict[str, Any]:
    return runpy.run_path(str(PACKAGE.parents[1] / "tools" / "docstring_coverage.py"))


@pytest.mark.parametrize("package", COUNTED)
def test_arguments_and_shapes_are_stated(package: str, coverage: dict[str, Any]) -> None:
    functions, documented, tensors, shaped = coverage["shares"](coverage["count"](package))
    assert documented >= 0.95 * functions and shaped >= 0.95 * tensors, "\n".join(coverage["missing"](package))


def test_what_is_not_reported_is_counted_as_missing(coverage: dict[str, Any]) -> None:
    """Neither a line that repeats the name nor a tensor without a shape counts."""
    message = coverage["said_in"](
        "Do.\n\nArgs:\n    x: (B, C) data.\n    y, scale: the scale.\n        Of (B,) rows.\nReturns: z"
    )
    assert message == {"x": "(B, C) data.", "y": "the scale. Of (B,) rows.", "scale": "the scale. Of (B,) rows."}
    assert coverage["says_nothing"]("learning_rate", "The learning rate.")
    assert not coverage["says_nothing"]("learning_rate", "of the optimizer")
    assert coverage["SHAPE"].search("(B, ...) noise") and not coverage["SHAPE"].search("the noise [0, 1]")
