"""Base classes of all configurations: frozen pydantic models that forbid unknown keys, and named components.

A *component* is a registry row with its options in one flat mapping: ``{"name": "unet", "channels": 64}``. Each row is
(or names) a frozen model with the field ``name``; the ``Component`` annotation picks the model by that name, so that a
new row needs no change anywhere else. Any package may import this module; it does not import torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from undiffuse.errors import UsageError
from undiffuse.registry import lookup, nearest, resolve

M = TypeVar("M", bound=BaseModel)
_MAX_REPR = 200


class FrozenModel(BaseModel):
    """An immutable configuration that forbids unknown keys.

    Attributes:
        renamed_keys: deprecated key -> current key; files and command lines may use either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    renamed_keys: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @model_validator(mode="before")
    @classmethod
    def _read_renamed_keys(cls, values: Any) -> Any:
        if not cls.renamed_keys or not isinstance(values, Mapping):
            return values
        for old, new in cls.renamed_keys.items():
            if old in values and new in values:
                raise UsageError(f"{old!r} is the earlier name of {new!r}; give it once, as {new!r}")
        return {cls.renamed_keys.get(key, key): value for key, value in values.items()}


class ComponentConfig(FrozenModel):
    """Base class of the models in a registry of components.

    Attributes:
        main_option: option whose value may follow the name on the command line, as in ``frozen:minilm``.
    """

    main_option: ClassVar[str] = ""

    name: str

    def check_row(self) -> None:
        """Check the options as the row's constructor would, without building it.

        Raises:
            UsageError: incompatible options.
        """


class AsWritten:
    """Annotation of a string option: on the command line ``3`` and ``null`` are strings too, not numbers."""


class Component:
    """Annotation of a field that holds a component: ``Annotated[ComponentConfig, Component(NETWORKS, "network")]``.

    A mapping ``{"name": row, ...}`` is validated against the model of that row of ``registry``.
    """

    def __init__(self, registry: Mapping[str, Any], kind: str) -> None:
        self.registry, self.kind = registry, kind

    def pick(self, value: Any) -> ComponentConfig:
        """The component's configuration, from a mapping or from an instance."""
        if isinstance(value, ComponentConfig):
            return value
        if not isinstance(value, Mapping) or "name" not in value:
            raise UsageError(
                f"expected a mapping with a 'name', one of: {', '.join(sorted(self.registry))}; got {short_repr(value)}"
            )
        return validate(self.model(str(value["name"])), value, f"{self.kind} {value['name']!r}")

    def model(self, name: str) -> type[ComponentConfig]:
        """The model of the row ``name``.

        Raises:
            UsageError: no such row.
        """
        row = lookup(self.registry, name, self.kind)
        return row if isinstance(row, type) and issubclass(row, ComponentConfig) else model_of(name, row)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda model: model.model_dump(mode="json"))
        return core_schema.no_info_plain_validator_function(self.pick, serialization=dump)


@cache
def model_of(name: str, factory: Any) -> type[ComponentConfig]:
    """The model of a row that is a plain function or class: its keyword arguments and their defaults."""
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    options: dict[str, Any] = {
        key: (hints.get(key, Any), ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in inspect.signature(factory).parameters.items()
    }
    options["name"] = (Literal[name], name)
    return create_model(name, __base__=ComponentConfig, **options)


def default_of(name: str, factory: Any) -> ComponentConfig:
    """The configuration of a plain function or class with its default arguments."""
    return model_of(name, factory).model_validate({"name": name})


def build(registry: Mapping[str, Any], config: ComponentConfig) -> Any:
    """Call the registry row that ``config`` names with the options of ``config``."""
    return resolve(registry[config.name])(**config.model_dump(exclude={"name"}))


def validate(model: type[M], values: Mapping[str, Any], what: str = "config") -> M:
    """Validate plain values as a ``model``; the message describes the first error in one line.

    Raises:
        UsageError: names the key, what was received and what was expected; for an unknown key, the nearest one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain(error, model, what)) from None


def explain(error: ValidationError, model: type[BaseModel], what: str) -> str:
    """One line for the first problem that pydantic found."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = nearest(path.rsplit(".", 1)[-1], _fields_at(model, first["loc"][:-1]))
        return f"{what} has no key {path!r}; {known}"
    where = f"{what} key {path!r}" if path else what
    if first["type"] == "value_error":  # a message of this package, which already states what was received
        return f"{where}: {first['ctx']['error']}"
    received = "" if first["type"] == "missing" else f", got {short_repr(first.get('input'))}"
    return f"{where}: {first['msg']}{received}"


def short_repr(value: object) -> str:
    """``repr`` of a value for a message, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_REPR else f"{text[: _MAX_REPR - 3]}..."


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the nested model at ``path`` inside ``model``."""
    for part in path:
        inner = inner_model(model.model_fields[str(part)])
        if inner is None:
            break
        model = inner
    return list(model.model_fields)


def inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model class of a field, also of an optional one; None for a component, whose ``name`` decides."""
    if any(isinstance(mark, Component) for mark in field.metadata):
        return None
    is_union = get_origin(field.annotation) in (Union, UnionType)
    kinds = get_args(field.annotation) if is_union else (field.annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
