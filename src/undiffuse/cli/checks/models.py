"""Pydantic models of a run's configuration without importing the modules that take seconds.

Models in modules without heavy imports are imported. For the others, a stand-in is built from the source text: its
fields with types and defaults, and its checks by functions of the modules in ``_LIMITS``. A stand-in raises the same
errors with the same messages, because the same code checks them. Anything else is checked later, by the model itself.
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

#: Modules from which only types are imported.
_TYPE_MODULES = ("typing", "collections.abc", "pydantic")
#: Prefixes of modules of this package without heavy imports.
_LIGHT = (
    *("undiffuse.config", "undiffuse.data.config", "undiffuse.data.config.loader", "undiffuse.augment.config"),
    *("undiffuse.networks.config", "undiffuse.networks.gan.config", "undiffuse.training.config"),
    *("undiffuse.models.options", "undiffuse.studies.option_parsing", "undiffuse.conditioning.text.config"),
)
#: Modules with option checks that rows call first, and with rules of models and objectives.
_LIMITS = (
    "undiffuse.core.process_limits",
    "undiffuse.losses.limits",
    "undiffuse.models.rules",
    "undiffuse.objectives.rules",
)
_PLAIN = ("bool", "dict", "float", "int", "list", "str", "tuple")
_BASES = ("BaseModel", "FrozenModel", "ComponentConfig", "ObjectiveConfig", "ModelConfig")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {ast.Pow: operator.pow, ast.BitOr: operator.or_}


#: A check of a configuration or of its stand-in.
Check: TypeAlias = Callable[[Any], None]


class UnresolvedError(Exception):
    """An expression that cannot be evaluated without importing its module."""


@cache
def run_model() -> type[RunConfig]:
    """The model of a run's configuration, with a stand-in for its system."""
    from undiffuse.training.config import RunConfig

    systems = Component(Rows(definition("undiffuse.objectives:OBJECTIVE_CONFIGS")), "system")
    return create_model("RunConfig", __base__=RunConfig, system=(Annotated[ComponentConfig, systems], ...))


class Rows(Mapping[str, type[ComponentConfig]]):
    """The models of a registry's rows, each built on first access.

    Args:
        registry: the definition of its literal dict.
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
    """Stand-in for the options of a row that is a function or a class, like the result of ``config.model_of``."""

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
    """The model defined at ``place``, or its stand-in.

    Raises:
        UnresolvedError: a default that cannot be evaluated without importing the module.
    """
    assert isinstance(place.node, ast.ClassDef)
    if place.module.startswith(_LIGHT):
        return getattr(importlib.import_module(place.module), place.node.name)
    base = ComponentConfig if "name" in options_of(place) else FrozenModel
    checks = _checks_of(place)

    def run_checks(self: BaseModel) -> BaseModel:
        for _, part in self:
            if isinstance(part, ComponentConfig):  # as a model does that builds its rows on creation
                part.check_row()
        for check in checks:
            check(self)
        return self

    validators: dict[str, Any] = {"run_checks": model_validator(mode="after")(run_checks)}
    model = create_model(place.node.name, __base__=base, __validators__=validators, **_fields(place))
    model.renamed_keys = renamed_keys_of(place)  # type: ignore[attr-defined]
    return model


def _fields(place: Place) -> dict[str, Any]:
    return {key: (_annotation(option), _default(option)) for key, option in options_of(place).items()}


def _is_model(place: Place) -> bool:
    if not isinstance(place.node, ast.ClassDef):
        return False
    bases = [base for base in place.node.bases if isinstance(base, ast.Name)]
    return any(base.id in _BASES or _is_model(resolved(place.module, base)) for base in bases)


def _annotation(option: Option) -> Any:
    """The type of a field; ``Any`` if it cannot be evaluated."""
    try:
        return kind_of(option)
    except UnresolvedError:
        return Any


def kind_of(option: Option) -> Any:
    """The type in an option's annotation.

    Raises:
        UnresolvedError: it cannot be evaluated without importing its module.
    """
    if option.annotation is None:
        raise UnresolvedError
    return _evaluate(option.module, option.annotation)


def _default(option: Option) -> Any:
    return ... if option.written is None else _evaluate(option.module, option.written)


def _evaluate(module: str, node: ast.AST) -> Any:
    """Evaluate an expression of types, plain values or models."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _evaluate_name(module, node)
        case ast.Tuple():
            return tuple(_evaluate(module, item) for item in node.elts)
        case ast.Dict():
            return {
                _evaluate(module, key): _evaluate(module, value)
                for key, value in zip(node.keys, node.values, strict=True)
                if key
            }
        case ast.Subscript():
            return _evaluate(module, node.value)[_evaluate(module, node.slice)]
        case ast.UnaryOp(op=ast.USub()):
            return -_evaluate(module, node.operand)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](_evaluate(module, node.left), _evaluate(module, node.right))
        case ast.Call():
            return _evaluate_call(module, node)
    raise UnresolvedError


def _evaluate_call(module: str, node: ast.Call) -> Any:
    match node.func:
        case ast.Name(id="Component"):
            registry, kind = node.args
            return Component(Rows(resolved(module, registry)), _evaluate(module, kind))
        case ast.Name(id="default_of"):  # a row with its defaults, by name
            return {"name": _evaluate(module, node.args[0])}
        case ast.Attribute(attr="model_validate"):
            return _evaluate(module, node.args[0])
    keywords = {keyword.arg: _evaluate(module, keyword.value) for keyword in node.keywords if keyword.arg}
    return _evaluate(module, node.func)(*(_evaluate(module, argument) for argument in node.args), **keywords)


def _evaluate_name(module: str, node: ast.Name) -> Any:
    if node.id in _PLAIN:
        return getattr(builtins, node.id)
    place = resolved(module, node)
    if place != Place(module, node) and isinstance(place.node, ast.expr):
        return _evaluate(place.module, place.node)
    if _is_model(place):
        return model_at(place)
    origin = imported_from(module, node.id) or module
    if origin not in _TYPE_MODULES and not origin.startswith(_LIGHT):
        raise UnresolvedError
    return getattr(importlib.import_module(origin), node.id)


def _checks_of(place: Place) -> list[Check]:
    """The checks of a row or a model by functions of the modules in ``_LIMITS``."""
    return [found for node in _with_bases(place) for call in _calls(node) if (found := _check(node.module, call))]


def _with_bases(place: Place) -> Iterator[Place]:
    """A definition after its base classes, because their validators run first."""
    for base in getattr(place.node, "bases", ()):
        if isinstance((inner := resolved(place.module, base)).node, ast.ClassDef):
            yield from _with_bases(inner)
    yield place


def _calls(place: Place) -> Iterator[ast.Call]:
    """Calls that are top-level statements of a function, of ``__init__`` or of a validator."""
    inner = [] if isinstance(place.node, ast.FunctionDef) else getattr(place.node, "body", [])
    functions = [statement for statement in inner if isinstance(statement, ast.FunctionDef)]
    on_creation = [function for function in functions if function.name == "__init__" or function.decorator_list]
    for function in [place.node] if isinstance(place.node, ast.FunctionDef) else on_creation:
        for statement in function.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                yield statement.value


def _check(module: str, call: ast.Call) -> Check | None:
    if not isinstance(call.func, ast.Name) or imported_from(module, call.func.id) not in _LIMITS:
        return None
    function = getattr(importlib.import_module(str(imported_from(module, call.func.id))), call.func.id)

    def check(config: Any) -> None:
        keywords = {keyword.arg: _value(config, keyword.value) for keyword in call.keywords if keyword.arg}
        function(*(_value(config, argument) for argument in call.args), **keywords)

    return check


def _value(config: Any, node: ast.expr) -> Any:
    """Evaluate an argument of a check: a constant, an option, or the configuration itself."""
    if isinstance(node, ast.Name):
        return config if node.id == "self" else getattr(config, node.id)
    return ast.literal_eval(node)
