"""Models of a run's configuration without the modules whose import takes seconds.

A model of a module that imports nothing heavy is itself, with all that it refuses. For another, one is made of its
text: its fields with their types and defaults, and what it checks by functions of ``_LIMITS``. It refuses what the
model itself would refuse, in the same words, for the same code finds them. What cannot be made so is left for later.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, create_model, model_validator

from undiffuse.cli.checks.outline import (
    Option,
    Place,
    definition,
    imported_from,
    options_of,
    renamed_keys_of,
    resolved,
    rows_at,
)
from undiffuse.config import Component, ComponentConfig, FrozenModel

if TYPE_CHECKING:
    from undiffuse.training.config import RunConfig

#: Modules that hold nothing but types.
_OF_TYPES = ("typing", "collections.abc", "pydantic")
#: Modules of ours that import nothing heavy, by what their names begin with.
_LIGHT = (
    *("undiffuse.config", "undiffuse.data.config", "undiffuse.data.config.loader", "undiffuse.augment.config"),
    *("undiffuse.networks.config", "undiffuse.networks.gan.config", "undiffuse.training.config"),
    *("undiffuse.models.options", "undiffuse.studies.option_parsing"),
)
#: Modules with checks of options, which rows call as they begin, and with rules of models and objectives.
_LIMITS = (
    "undiffuse.core.process_limits",
    "undiffuse.losses.limits",
    "undiffuse.models.rules",
    "undiffuse.objectives.rules",
)
_PLAIN = ("bool", "dict", "float", "int", "list", "str", "tuple")
_BASES = ("BaseModel", "FrozenModel", "ComponentConfig", "ObjectiveConfig", "ModelConfig")
_POWER: dict[type[ast.operator], Callable[[Any, Any], Any]] = {ast.Pow: operator.pow, ast.BitOr: operator.or_}


#: Asks one thing of a configuration, or of what stands in for it.
Check: TypeAlias = Callable[[Any], None]


class UnresolvedError(Exception):
    """Something that needs its own module."""


@cache
def run_model() -> type[RunConfig]:
    """The model of a run's configuration, with what stands in for its system."""
    from undiffuse.training.config import RunConfig

    systems = Component(Rows(definition("undiffuse.objectives:OBJECTIVE_CONFIGS")), "system")
    return create_model("RunConfig", __base__=RunConfig, system=(Annotated[ComponentConfig, systems], ...))


class Rows(Mapping[str, type[ComponentConfig]]):
    """The models of a registry's rows, each made when it is asked for.

    Args:
        registry: where its literal dict stands.
    """

    def __init__(self, registry: Place) -> None:
        self._rows = rows_at(registry)

    def __getitem__(self, name: str) -> type[ComponentConfig]:
        return _row(name, self._rows[name])

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _RowConfig(ComponentConfig):
    """Stands in for the options of a row that is a function or a class, as ``config.model_of`` makes them."""

    checks: ClassVar[Sequence[Check]] = ()

    def check_row(self) -> None:
        for check in self.checks:
            check(self)


@cache
def _row(name: str, place: Place) -> type[ComponentConfig]:
    if _is_model(place):
        found: type[ComponentConfig] = model_at(place)
        return found
    fields: dict[str, Any] = {**_fields(place), "name": (Literal[name], name)}
    row: type[_RowConfig] = create_model(name, __base__=_RowConfig, **fields)
    row.checks = _checks_of(place)
    return row


@cache
def model_at(place: Place) -> Any:
    """The model that is defined there, or what stands in for it.

    Raises:
        UnresolvedError: a default that only its module knows.
    """
    assert isinstance(place.node, ast.ClassDef)
    if place.module.startswith(_LIGHT):
        return getattr(importlib.import_module(place.module), place.node.name)
    base = ComponentConfig if "name" in options_of(place) else FrozenModel
    checks = _checks_of(place)

    def requested(self: BaseModel) -> BaseModel:
        for _, part in self:
            if isinstance(part, ComponentConfig):  # a model that builds its rows as it is made asks them so
                part.check_row()
        for check in checks:
            check(self)
        return self

    validators: dict[str, Any] = {"requested": model_validator(mode="after")(requested)}
    made = create_model(place.node.name, __base__=base, __validators__=validators, **_fields(place))
    made.renamed_keys = renamed_keys_of(place)  # type: ignore[attr-defined]
    return made


def _fields(place: Place) -> dict[str, Any]:
    return {key: (_annotation(option), _default(option)) for key, option in options_of(place).items()}


def _is_model(place: Place) -> bool:
    if not isinstance(place.node, ast.ClassDef):
        return False
    bases = [base for base in place.node.bases if isinstance(base, ast.Name)]
    return any(base.id in _BASES or _is_model(resolved(place.module, base)) for base in bases)


def _annotation(option: Option) -> Any:
    """The type of a field; what cannot be made of the text may be anything here."""
    try:
        return kind_of(option)
    except UnresolvedError:
        return Any


def kind_of(option: Option) -> Any:
    """The type that an option's annotation stands for.

    Raises:
        UnresolvedError: it needs its own module.
    """
    if option.annotation is None:
        raise UnresolvedError
    return _made(option.module, option.annotation)


def _default(option: Option) -> Any:
    return ... if option.written is None else _made(option.module, option.written)


def _made(module: str, node: ast.AST) -> Any:
    """What an expression of types, of plain values or of models stands for."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _named(module, node)
        case ast.Tuple():
            return tuple(_made(module, one) for one in node.elts)
        case ast.Dict():
            return {
                _made(module, key): _made(module, one) for key, one in zip(node.keys, node.values, strict=True) if key
            }
        case ast.Subscript():
            return _made(module, node.value)[_made(module, node.slice)]
        case ast.UnaryOp(op=ast.USub()):
            return -_made(module, node.operand)
        case ast.BinOp() if type(node.op) in _POWER:
            return _POWER[type(node.op)](_made(module, node.left), _made(module, node.right))
        case ast.Call():
            return _called(module, node)
    raise UnresolvedError


def _called(module: str, node: ast.Call) -> Any:
    match node.func:
        case ast.Name(id="Component"):
            registry, kind = node.args
            return Component(Rows(resolved(module, registry)), _made(module, kind))
        case ast.Name(id="default_of"):  # a row with its own defaults, by its name
            return {"name": _made(module, node.args[0])}
        case ast.Attribute(attr="model_validate"):
            return _made(module, node.args[0])
    keywords = {one.arg: _made(module, one.value) for one in node.keywords if one.arg}
    return _made(module, node.func)(*(_made(module, one) for one in node.args), **keywords)


def _named(module: str, node: ast.Name) -> Any:
    if node.id in _PLAIN:
        return getattr(builtins, node.id)
    place = resolved(module, node)
    if place != Place(module, node) and isinstance(place.node, ast.expr):
        return _made(place.module, place.node)
    if _is_model(place):
        return model_at(place)
    origin = imported_from(module, node.id) or module
    if origin not in _OF_TYPES and not origin.startswith(_LIGHT):
        raise UnresolvedError
    return getattr(importlib.import_module(origin), node.id)


def _checks_of(place: Place) -> list[Check]:
    """What a row or a model checks by functions of the modules of limits, of its own options or of itself."""
    return [
        found for node in _own_and_inherited(place) for call in _calls(node) if (found := _check(node.module, call))
    ]


def _own_and_inherited(place: Place) -> Iterator[Place]:
    """Those it derives from first, as their validators run first."""
    for base in getattr(place.node, "bases", ()):
        if isinstance((inner := resolved(place.module, base)).node, ast.ClassDef):
            yield from _own_and_inherited(inner)
    yield place


def _calls(place: Place) -> Iterator[ast.Call]:
    """Calls that stand as statements of their own at the top of a function, of ``__init__`` or of a validator."""
    inner = [] if isinstance(place.node, ast.FunctionDef) else getattr(place.node, "body", [])
    functions = [one for one in inner if isinstance(one, ast.FunctionDef)]
    beginning = [one for one in functions if one.name == "__init__" or one.decorator_list]
    for function in [place.node] if isinstance(place.node, ast.FunctionDef) else beginning:
        for statement in function.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                yield statement.value


def _check(module: str, call: ast.Call) -> Check | None:
    if not isinstance(call.func, ast.Name) or imported_from(module, call.func.id) not in _LIMITS:
        return None
    function = getattr(importlib.import_module(str(imported_from(module, call.func.id))), call.func.id)

    def check(config: Any) -> None:
        keywords = {one.arg: _value(config, one.value) for one in call.keywords if one.arg}
        function(*(_value(config, one) for one in call.args), **keywords)

    return check


def _value(config: Any, node: ast.expr) -> Any:
    """An argument of a check: a constant, an option, or the configuration itself."""
    if isinstance(node, ast.Name):
        return config if node.id == "self" else getattr(config, node.id)
    return ast.literal_eval(node)
