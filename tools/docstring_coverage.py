"""Count public functions with documented arguments, and tensor arguments with a documented shape.

    python tools/docstring_coverage.py                      # the table
    python tools/docstring_coverage.py --missing samplers   # the gaps, by file and line

It counts public functions and methods with two or more arguments (without ``self``) of the packages for users. A
function is documented if its ``Args:`` section describes every argument with more than its name. A method without such
a section is documented if the method that it overrides has one. Every ``Tensor`` argument of a public function needs a
shape such as ``(B, C, H, W)``, or "any shape".
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "undiffuse"
PACKAGES = ("core", "samplers", "losses", "guidance", "models", "objectives", "conditioning", "networks", "api")
REQUIRED = 0.90
#: ``(B, C, H, W)``, ``(B,)``, ``()``, ``(...)``, or in words
SHAPE = re.compile(
    r"\((?:\s*|\.\.\.|[\w*+/ .^-]+(?:,\s*[\w*+/ .^-]*)*)\)|any shape|a scalar|same shape|shape of", re.IGNORECASE
)
ARGUMENT = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:\s*(.*)$")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Counted(NamedTuple):
    """One function: its location and the gaps of its docstring."""

    path: Path
    line: int
    name: str
    tensors: int
    unsaid: tuple[str, ...]
    shapeless: tuple[str, ...]
    arguments: int


def arguments_of(function: Function) -> dict[str, str]:
    """Argument → annotation as text, without ``self`` and ``cls``."""
    given = function.args
    listed = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    found = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in listed if a is not None}
    return {name: annotation for name, annotation in found.items() if name not in ("self", "cls")}


def said_in(docstring: str | None) -> dict[str, str]:
    """Argument → its description in the ``Args:`` section; arguments on one line share a description."""
    said: dict[str, str] = {}
    names: tuple[str, ...] = ()
    margin = None
    lines = iter((docstring or "").expandtabs().splitlines())
    for line in lines:
        if line.strip() in ("Args:", "Attributes:"):
            break
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        margin = indent if margin is None else margin
        if indent < margin:
            break
        matched = ARGUMENT.match(line.strip()) if indent == margin else None
        if matched:
            names = tuple(name.lstrip("*") for name in matched[1].split(", "))
            said.update(dict.fromkeys(names, matched[2]))
        else:
            for name in names:
                said[name] += " " + line.strip()
    return said


def says_nothing(name: str, text: str) -> bool:
    """Whether a description is empty or only repeats the argument's name."""
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in ("the", "a", "an", "its", "of")]
    return not set(words) - set(re.findall(r"[a-z0-9]+", name.lower()))


def is_tensor(annotation: str) -> bool:
    """Whether an annotation is a tensor or an optional tensor, not a function or a collection of tensors."""
    return bool(re.fullmatch(r"(torch\.)?Tensor( \| None)?|None \| (torch\.)?Tensor", annotation.strip("'\"")))


class Classes:
    """All classes of the package by name, to find overridden methods."""

    def __init__(self, trees: dict[Path, ast.Module]) -> None:
        nodes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        self._by_name = {node.name: node for node in nodes}

    def inherited(self, owner: ast.ClassDef, method: str) -> dict[str, str]:
        """The argument descriptions of the nearest base class that documents this method."""
        for base in owner.bases:
            name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
            parent = self._by_name.get(name)
            if parent is None or parent is owner:
                continue
            for node in parent.body:
                if isinstance(node, Function) and node.name == method and said_in(ast.get_docstring(node)):
                    return said_in(ast.get_docstring(node))
            if found := self.inherited(parent, method):
                return found
        return {}


def functions_of(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    """Public functions and methods of public classes; ``__init__`` and ``__call__`` are public too."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield None, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, Function) and (
                    not inner.name.startswith("_") or inner.name in ("__init__", "__call__")
                ):
                    yield node, inner


def count_noun(path: Path, owner: ast.ClassDef | None, function: Function, classes: Classes) -> Counted:
    """Documentation of one function; constructor arguments may be described in the docstring of the class."""
    said = said_in(ast.get_docstring(function))
    if owner is not None and function.name == "__init__":
        said = {**said_in(ast.get_docstring(owner)), **said}
    if owner is not None and function.name != "__init__":
        said = {**classes.inherited(owner, function.name), **said}
    arguments = arguments_of(function)
    unsaid = tuple(name for name in arguments if says_nothing(name, said.get(name, "")))
    tensors = [name for name, annotation in arguments.items() if is_tensor(annotation)]
    shapeless = tuple(name for name in tensors if not SHAPE.search(said.get(name, "")))
    name = function.name if owner is None else f"{owner.name}.{function.name}"
    return Counted(path, function.lineno, name, len(tensors), unsaid, shapeless, len(arguments))


@cache
def parsed() -> tuple[dict[Path, ast.Module], Classes]:
    """All files of the package, and their classes."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    return trees, Classes(trees)


def count(package: str) -> list[Counted]:
    """All public functions of one package that have arguments."""
    trees, classes = parsed()
    mine = {path: tree for path, tree in trees.items() if path.relative_to(PACKAGE).parts[0] == package}
    found = [
        count_noun(path, owner, function, classes)
        for path, tree in mine.items()
        for owner, function in functions_of(tree)
    ]
    return [function for function in found if function.arguments]


def shares(functions: list[Counted]) -> tuple[int, int, int, int]:
    """(functions with two or more arguments, fully documented ones, tensor arguments, those with a shape)."""
    several = [function for function in functions if function.arguments >= 2]
    tensors = sum(function.tensors for function in functions)
    shaped = tensors - sum(len(function.shapeless) for function in functions)
    return len(several), sum(not function.unsaid for function in several), tensors, shaped


def table() -> tuple[str, bool]:
    """The counts of all packages as text, and whether their sum reaches the required coverage."""
    lines = [f"{'package':<14}{'functions':>10}{'documented':>12}{'share':>7}{'tensors':>9}{'shaped':>8}{'share':>7}"]
    total = [0, 0, 0, 0]
    for package in PACKAGES:
        numbers = shares(count(package))
        total = [a + b for a, b in zip(total, numbers, strict=True)]
        lines.append(_line(package, numbers))
    lines.append(_line("all", total))
    return "\n".join(lines), min(_share(total[1], total[0]), _share(total[3], total[2])) >= REQUIRED


def _line(name: str, numbers: tuple[int, ...] | list[int]) -> str:
    several, documented, tensors, shaped = numbers
    return (
        f"{name:<14}{several:>10}{documented:>12}{_share(documented, several):>7.0%}"
        f"{tensors:>9}{shaped:>8}{_share(shaped, tensors):>7.0%}"
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def missing(package: str) -> Iterator[str]:
    """One line per function with gaps."""
    for function in count(package):
        unsaid = ", ".join(function.unsaid) if function.arguments >= 2 else ""
        shapeless = ", ".join(function.shapeless)
        if unsaid or shapeless:
            place = f"{function.path.relative_to(PACKAGE.parents[1])}:{function.line}"
            gaps = [f"undocumented: {unsaid}"] * bool(unsaid) + [f"no shape: {shapeless}"] * bool(shapeless)
            yield f"{place} {function.name}: {'; '.join(gaps)}"


def main() -> int:
    """Print the table, or the gaps; return 1 if the coverage is below the requirement."""
    parser = argparse.ArgumentParser(description="counts documented arguments and shapes of public functions")
    parser.add_argument(
        "--missing", nargs="*", choices=PACKAGES, help="list the gaps of these packages (all, if none is named)"
    )
    options = parser.parse_args()
    if options.missing is not None:
        for package in options.missing or PACKAGES:
            print(*missing(package), sep="\n")
        return 0
    text, met = table()
    print(text)
    print(f"required: {REQUIRED:.0%} of both over all packages: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
