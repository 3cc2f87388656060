"""What the package's messages advise, read from its source: commands, options and ``key=value``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "undiffuse"

#: Tables of names, no messages: earlier ones, which are no advice.
_NO_ADVICE = ("cli/renamed.py",)
#: Stands for what a message fills in.
HOLE = "\0"

_COMMAND = re.compile(r"undiffuse ((?:(?:data|study) )?[a-z][a-z-]*)((?: (?:[^\s,;:)'\"`]+))*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
_KEY = r"(?<![\w.:=/-])((?:[a-z][a-z_0-9]*:)?[a-z][a-z_0-9.]*)"
_PAIR = re.compile(_KEY + r"""=(\[[^]]*\]|'[^']*'|[^\s,;:)'"]*(?::[\w=]+)?)""")
_CALL = re.compile(r"undiffuse\.([a-z_]+)\(([^)]*)\)")
_VALUE = re.compile(r"\d+|[A-Z][A-Z|_]*|\0")


class Message(NamedTuple):
    """A text of the source that may be shown."""

    place: str
    text: str


class Advice(NamedTuple):
    """Something that a message tells a person to type."""

    message: Message
    kind: str
    words: tuple[str, ...]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def messages() -> Iterator[Message]:
    """Every text of the package's source that is no docstring and no help of an option."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix() in _NO_ADVICE:
            continue
        tree = tree_of(path)
        passed_over = set(_docstrings(tree)) | set(_helps(tree))
        name = path.relative_to(PACKAGE).as_posix()
        for node in _texts(tree, passed_over):
            text = _written(node)
            if _COMMAND.search(text) or _OPTION.search(text) or _PAIR.search(text):
                yield Message(f"{name}:{node.lineno}", text)


def _docstrings(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield id(first.value)


def _helps(tree: ast.AST) -> Iterator[int]:
    """Declarations of options: they name what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_of_typer(node.func, "Option", "Argument"):
            yield from map(id, ast.walk(node))


def _is_of_typer(node: ast.expr, *names: str) -> bool:
    is_member = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return is_member and node.value.id == "typer" and node.attr in names


def _texts(node: ast.AST, passed_over: set[int]) -> Iterator[ast.expr]:
    """Whole texts, from the outside in: parts of an f-string are no texts of their own."""
    if id(node) in passed_over:
        return
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, passed_over)


def _written(node: ast.AST) -> str:
    """A text with a hole for what is filled in; what ``command(...)`` puts together stands written out."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_written, node.values))
    if isinstance(node, ast.FormattedValue):
        return _written(node.value) if _is_command(node.value) else HOLE
    if isinstance(node, ast.Call) and _is_command(node):
        return " ".join(["undiffuse", *map(_word, node.args)])
    return HOLE


def _is_command(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command"


def _word(node: ast.AST) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else HOLE


def built_commands() -> Iterator[Message]:
    """Every call of ``wording.command``, wherever its text goes."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if _is_command(node):
                yield Message(f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}", _written(node))


def advice_in(message: Message) -> Iterator[Advice]:
    """The commands, the options, the pairs and the calls in Python that a message names."""
    for found in _CALL.finditer(message.text):
        yield Advice(message, "call", (found[1], *(key for key, _ in _PAIR.findall(found[2]))))
    message = message._replace(text=_CALL.sub("", message.text))
    for found in _COMMAND.finditer(message.text):
        yield Advice(message, "command", (*found[1].split(), *_arguments(found[2].split())))
    for found in _OPTION.finditer(_COMMAND.sub(_kept_prose, message.text)):
        yield Advice(message, "option", (found[0],))
    for found in _PAIR.finditer(message.text):
        yield Advice(message, "pair", (found[1], found[2].strip("'").rstrip(".")))


def _arguments(words: list[str]) -> Iterator[str]:
    """The words of a command up to where prose goes on."""
    after_option = False
    for word in words:
        if word.startswith("-"):
            after_option = True
        elif not (after_option or "=" in word or _VALUE.fullmatch(word) or word in _NAMES):
            return
        else:
            after_option = False
        yield word


_NAMES = {"flow-mnist", "flow-swissroll", "ddpm-church48", "photos-32", "photos-48", "photos-64", "scenes", "."}


def _kept_prose(found: re.Match[str]) -> str:
    """A command's own words are looked at with the command; what follows is prose again."""
    rest = found[2].split()[len(list(_arguments(found[2].split()))) :]
    return " ".join(rest)
