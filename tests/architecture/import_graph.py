"""Which module needs which, read from the source itself; nothing is imported to find out.

An import within a function and a ``"module:name"`` string count as any other: they put off the import and not the need.
A package that is imported on the way to a module within it does not count, for that says nothing of who knows whom.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

MODULE_AND_NAME = re.compile(r"undiffuse(\.\w+)+:\w+")

#: module -> what it needs, each with a line that says so
Graph = Mapping[str, Mapping[str, int]]


class Need(NamedTuple):
    """One import: its line, what is imported, ``from a import b`` as ``a.b``, and whether types alone need it.

    A name that ends in a dot stands for all modules that begin so.
    """

    line: int
    name: str
    for_types: bool


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def needs(source: str) -> tuple[Need, ...]:
    """All imports of a module, those put off among them."""
    tree = ast.parse(source)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return tuple(
        Need(getattr(node, "lineno", 0), name, id(node) in guarded) for node in ast.walk(tree) for name in _named(node)
    )


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_AND_NAME.fullmatch(node.value):
        yield node.value.replace(":", ".")
    elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        beginning = str(node.values[0].value)
        if re.fullmatch(r"undiffuse(\.\w+)*\.", beginning):
            yield beginning


def graph_of(sources: Mapping[str, str], *, with_types: bool) -> dict[str, dict[str, int]]:
    """Who needs whom among these modules.

    Args:
        sources: text by dotted name.
        with_types: whether an import under ``TYPE_CHECKING`` counts.
    """
    graph: dict[str, dict[str, int]] = {}
    for module, source in sources.items():
        wanted = (need for need in needs(source) if with_types or not need.for_types)
        found = ((target, need.line) for need in wanted for target in _targets(need.name, sources))
        graph[module] = {target: line for target, line in found if target != module}
    return graph


def _targets(name: str, modules: Iterable[str]) -> list[str]:
    """The module that a name is, or that it is in; those below where the name ends in a dot."""
    if name.endswith("."):
        return [module for module in modules if module.startswith(name)]
    return [module for module in (name, name.rpartition(".")[0]) if module in modules][:1]


def circles(graph: Graph) -> list[list[str]]:
    """The sets of modules each of which needs all others of its set, directly or not."""
    reached = {module: _reached(graph, module) for module in graph}
    knots = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return sorted(sorted(knot) for knot in knots if len(knot) > 1)


def _reached(graph: Graph, start: str) -> set[str]:
    found, waiting = set[str](), [start]
    while waiting:
        new = graph[waiting.pop()].keys() - found
        found |= new
        waiting += new
    return found


def described(graph: Graph, circle: Iterable[str]) -> str:
    """The arrows of a circle, each with its line."""
    inside = set(circle)
    return "\n".join(
        f"    {module}:{line} needs {target}"
        for module in sorted(inside)
        for target, line in sorted(graph[module].items())
        if target in inside
    )
