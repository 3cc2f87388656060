"""Whether a value can be one of a key of the configuration, by the key's annotation as it stands in the text.

The modules of systems and of rows import torch; what their annotations are made of does not: plain types, ``Literal``,
``Annotated`` with pydantic's ``Field``, and short names for these. What is made of anything else is left for later.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Sequence
from typing import Any

from undiffuse.app.outline import Option, Place, imported_from, resolved
from undiffuse.app.parsing import read_value
from undiffuse.errors import UsageError

#: Modules that hold nothing but types, and those of ours that import nothing heavy, whose own checks may be asked.
_OF_TYPES = ("typing", "collections.abc", "pydantic")
_LIGHT = ("undiffuse.data.config", "undiffuse.data.loading")
_PLAIN = ("bool", "dict", "float", "int", "list", "str", "tuple")


class _OtherError(Exception):
    """An annotation that needs its own module."""


def check_value(key: str, text: str, options: Sequence[Option]) -> None:
    """Refuse what none of the options that a key may stand for takes.

    Args:
        options: one of each row that has the key.
    Raises:
        UsageError: in pydantic's words for the first of them.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    found: ValidationError | None = None
    for option in options:
        try:
            kind = _kind(option)
            TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(read_value(text))
        except _OtherError:
            return
        except ValidationError as error:
            found = found or error
        else:
            return
    if found is not None:
        first = found.errors()[0]
        where = ".".join([key, *map(str, first["loc"])])
        if first["type"] == "value_error":  # our own message, which already says what was received
            raise UsageError(f"config key {where!r}: {first['ctx']['error']}")
        raise UsageError(f"config key {where!r}: {first['msg']}, got {first.get('input')!r}")


def _kind(option: Option) -> Any:
    if option.annotation is None:
        raise _OtherError
    return _made(option.module, option.annotation)


def _made(module: str, node: ast.AST) -> Any:
    """What an expression of types stands for."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _named(module, node)
        case ast.Tuple():
            return tuple(_made(module, one) for one in node.elts)
        case ast.Subscript():
            return _made(module, node.value)[_made(module, node.slice)]
        case ast.BinOp(op=ast.BitOr()):
            return _made(module, node.left) | _made(module, node.right)
        case ast.UnaryOp(op=ast.USub()):
            return -_made(module, node.operand)
        case ast.BinOp(op=ast.Pow()):
            return _made(module, node.left) ** _made(module, node.right)
        case ast.Call():
            keywords = {one.arg: _made(module, one.value) for one in node.keywords if one.arg}
            return _made(module, node.func)(*(_made(module, one) for one in node.args), **keywords)
    raise _OtherError


def _named(module: str, node: ast.Name) -> Any:
    if node.id in _PLAIN:
        return getattr(builtins, node.id)
    place = resolved(module, node)
    if place != Place(module, node) and isinstance(place.node, ast.expr):
        return _made(place.module, place.node)
    origin = imported_from(module, node.id) or module
    if origin not in _OF_TYPES and not origin.startswith(_LIGHT):
        raise _OtherError
    return getattr(importlib.import_module(origin), node.id)
