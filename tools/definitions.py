"""Locate the definition of a function, class or constant by name in a file's text, without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate


def places(text: str, suffix: str, name: str) -> list[slice]:
    """The lines of each definition of ``name`` in a file with this suffix, ``.py`` or that of a C++ file.

    Python's names are dotted from the outside in, ``Process.bridge`` or ``ddim.step``; a constant of a module or of a
    class is a definition too.
    """
    found = _in_python(text) if suffix == ".py" else _in_braces(text, name)
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    return [slice(starts[first - 1], starts[last]) for known, first, last in found if known == name]


def definitions(node: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """(dotted name, statement) of all definitions in ``node``, without local variables of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield outer + child.name, child
            yield from definitions(child, f"{outer}{child.name}.")
            continue
        if isinstance(child, ast.Assign | ast.AnnAssign) and isinstance(node, ast.Module | ast.ClassDef):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from ((outer + target.id, child) for target in targets if isinstance(target, ast.Name))
        yield from definitions(child, outer)


@lru_cache(maxsize=512)
def _in_python(text: str) -> list[tuple[str, int, int]]:
    found = []
    for name, node in definitions(ast.parse(text)):
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)])
        found.append((name, first, node.end_lineno or node.lineno))
    return found


def _in_braces(text: str, name: str) -> Iterator[tuple[str, int, int]]:
    """Functions in C-like languages: a name, parentheses and a body in braces."""
    for match in re.finditer(rf"\b{re.escape(name)}\s*\([^;{{}}]*\)[^;{{}}()]*\{{", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield name, text.count("\n", 0, match.start()) + 1, text.count("\n", 0, end) + 1
