"""Static analysis of this package's source: names, options and defaults of registry rows, without importing them.

The rows of the registries are in modules that import torch, which takes seconds; with this, the error for a misspelt
name is immediate. The modules themselves remain the only place where rows are listed (ADR 0040).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

_PACKAGE = Path(__file__).resolve().parents[2]
#: Placeholder for a default that is not a literal.
UNKNOWN = ...
#: Base classes whose fields are not options.
_BASES = {"BaseModel", "FrozenModel", "ComponentConfig"}

Definition: TypeAlias = ast.FunctionDef | ast.ClassDef


class Place(NamedTuple):
    """A definition and the module that contains it."""

    module: str
    node: ast.AST


class Option(NamedTuple):
    """An option: its default, its annotation, their module, and the expression of the default."""

    default: object
    annotation: ast.expr | None
    module: str
    written: ast.expr | None


def names_in(registry: str) -> tuple[str, ...]:
    """The names of the rows of a literal dict.

    Args:
        registry: ``module:NAME``.
    Example:
        >>> names_in("undiffuse.samplers.grids:GRIDS")[:2]
        ('uniform', 'quadratic')
    """
    return tuple(rows_of(registry))


def defaults_in(registry: str, name: str) -> dict[str, object]:
    """The options of a row that have a default, with their defaults."""
    found = options_of(rows_of(registry)[name])
    return {key: option.default for key, option in found.items()}


@cache
def rows_of(registry: str) -> dict[str, Place]:
    """The definitions of the rows of a literal dict; unpacked dicts (``**OTHER``) are left out."""
    module, name = registry.split(":")
    place = _definition(module, name)
    assert place is not None and isinstance(place.node, ast.Dict), registry
    return {
        ast.literal_eval(key): _resolved(place.module, value)
        for key, value in zip(place.node.keys, place.node.values, strict=True)
        if key is not None
    }


@cache
def options_of(place: Place) -> dict[str, Option]:
    """Options of a function (arguments with a default), a class (those of ``__init__``) or a model (its fields)."""
    module, node = place
    if isinstance(node, ast.FunctionDef):
        return dict(_arguments(module, node))
    if not isinstance(node, ast.ClassDef):
        return {}
    inherited: dict[str, Option] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id not in _BASES:
            inherited |= options_of(_resolved(module, base))
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return dict(_arguments(module, statement))
    return inherited | dict(_fields(module, node))


def renamed_keys_of(place: Place) -> dict[str, str]:
    """``renamed_keys`` of a model, see ``config.FrozenModel``."""
    found: dict[str, str] = _class_value(place, "renamed_keys") or {}
    return found


def main_option_of(place: Place) -> str:
    """``main_option`` of a model, see ``config.ComponentConfig``; "" if it has none."""
    return _class_value(place, "main_option") or ""


def _class_value(place: Place, name: str) -> Any:
    """The literal value of a class variable; None if the class itself does not set it."""
    statements = place.node.body if isinstance(place.node, ast.ClassDef) else []
    for statement in statements:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name and statement.value:
            return ast.literal_eval(statement.value)
    return None


def definition(place: str) -> Place:
    """The definition ``module:NAME``."""
    module, name = place.split(":")
    found = _definition(module, name)
    assert found is not None, place
    return found


def imported_from(module: str, name: str) -> str | None:
    """The module that a top-level name of ``module`` is imported from, if it is imported."""
    node = _names(module).get(name)
    return node.module if isinstance(node, ast.ImportFrom) else None


def resolved(module: str, node: ast.expr) -> Place:
    """The definition that an expression in ``module`` refers to; the expression itself if it is not in this package."""
    return _resolved(module, node)


def rows_at(registry: Place) -> dict[str, Place]:
    """The rows of a registry by name: a literal dict, or a dict comprehension over the items of another registry."""
    if isinstance(registry.node, ast.DictComp):
        (items,) = [node for node in ast.walk(registry.node.generators[0].iter) if isinstance(node, ast.Name)]
        return rows_at(resolved(registry.module, items))
    assert isinstance(registry.node, ast.Dict)
    keys = [ast.literal_eval(key) for key in registry.node.keys if key is not None]
    return dict(zip(keys, (resolved(registry.module, value) for value in registry.node.values), strict=True))


def _resolved(module: str, node: ast.AST) -> Place:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("undiffuse."):
        return definition(node.value)
    if isinstance(node, ast.Name):
        return _definition(module, node.id) or Place(module, node)
    if isinstance(node, ast.Call) and node.args:  # ``Source(DigitsConfig, ...)`` stands for its configuration
        first = _resolved(module, node.args[0])
        return first if isinstance(first.node, ast.ClassDef) else Place(module, node)
    if isinstance(node, ast.Attribute):
        owner = _resolved(module, node.value)
        if isinstance(owner.node, ast.ClassDef):
            for statement in owner.node.body:
                if isinstance(statement, ast.FunctionDef) and statement.name == node.attr:
                    return Place(owner.module, statement)
    return Place(module, node)


def _definition(module: str, name: str) -> Place | None:
    """The definition of ``name``, followed through imports; None if it is not in this package."""
    node = _names(module).get(name)
    if isinstance(node, ast.ImportFrom):
        if node.module is None or not node.module.startswith("undiffuse"):
            return None
        alias = next(alias for alias in node.names if (alias.asname or alias.name) == name)
        return _definition(node.module, alias.name)
    if isinstance(node, ast.Name | ast.Constant | ast.Attribute):
        return _resolved(module, node)
    return Place(module, node) if node is not None else None


@cache
def _names(module: str) -> dict[str, ast.AST]:
    """The top-level names of a module with the nodes that they are bound to."""
    found: dict[str, ast.AST] = {}
    for statement in _statements(ast.parse(_file_of(module).read_bytes()).body):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            found |= {alias.asname or alias.name: statement for alias in statement.names}
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            found[statement.target.id] = statement.value
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = statement.value
    return found


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, including those under ``TYPE_CHECKING``, where a package imports its lazy names."""
    for statement in body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from statement.body
        else:
            yield statement


def _file_of(module: str) -> Path:
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _arguments(module: str, node: ast.FunctionDef) -> Iterator[tuple[str, Option]]:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)
    for argument, default in (*pairs, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)):
        if default is not None:
            yield argument.arg, Option(_value(module, default), argument.annotation, module, default)


def _fields(module: str, node: ast.ClassDef) -> Iterator[tuple[str, Option]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if "ClassVar" in ast.unparse(statement.annotation):
                continue
            default = UNKNOWN if statement.value is None else _value(module, statement.value)
            yield statement.target.id, Option(default, statement.annotation, module, statement.value)


def _value(module: str, node: ast.expr) -> object:
    if isinstance(node, ast.Name):
        found = _definition(module, node.id)
        node = found.node if found is not None and isinstance(found.node, ast.expr) else node
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN
