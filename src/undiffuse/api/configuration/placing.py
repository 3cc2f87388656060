"""Set values under dotted keys of a configuration: names first, then the options of what is named.

A *section* is a mapping; one with a ``name`` is a row of a registry with its options. Another name selects another row;
non-default options of the old one are carried over if the new row has the key and accepts the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from undiffuse.config import Component, ComponentConfig, inner_model
from undiffuse.data.config import SourceConfig
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.errors import UsageError
from undiffuse.registry import lookup, nearest, resolve

#: Never carried over: they identify the row or its data.
_OF_THE_ROW_ALONE = frozenset({"name", "path"})


class Override(NamedTuple):
    """A value for the last key of ``path``; ``key`` is the dotted key as written."""

    path: tuple[str, ...]
    value: Any
    key: str

    def inside(self) -> Override:
        """The same, relative to the first section of the path."""
        return self._replace(path=self.path[1:])

    def named_now(self, model: type[BaseModel] | None) -> Override:
        """The same with an earlier name of the first key replaced, see ``config.FrozenModel``."""
        head, *rest = self.path
        renamed: Mapping[str, str] = getattr(model, "renamed_keys", {})
        return self._replace(path=(renamed.get(head, head), *rest))


def set_values(
    model: type[BaseModel] | None, values: dict[str, Any], requested: Sequence[Override], notes: list[str]
) -> None:
    """Write the overrides into ``values``, the plain values of a section.

    Args:
        model: of the section; None for a section without one.
        values: of the section, changed in place.
        requested: overrides in this section.
        notes: receives a line for each option of the recipe that is dropped.
    Raises:
        UsageError: no such section or row.
    """
    requested = [part for one in requested for part in _with_main_option(one.named_now(model), model)]
    for head in dict.fromkeys(one.path[0] for one in requested):
        own = [one for one in requested if one.path[0] == head]
        field = model.model_fields.get(head) if model is not None else None
        if field is not None and any(len(one.path) > 1 or _component(field) for one in own):
            _default_section(field, values, head, own)
        if isinstance(values.get(head), dict):
            _set_section(field, values, head, own, notes)
        else:
            _set_plain(values, head, own)


def _default_section(field: FieldInfo, values: dict[str, Any], head: str, own: Sequence[Override]) -> None:
    """Initialise a section with its default; one that is None, with the defaults of its model or of the named row."""
    if head not in values:
        values[head] = to_jsonable_python(field.get_default(call_default_factory=True))
    if values[head] is not None:
        return
    names = [one.value for one in own if one.path[1:] in ((), ("name",)) and isinstance(one.value, str)]
    if inner_model(field) is not None:
        values[head] = {}
    elif _component(field) is not None and names:
        values[head] = {"name": names[-1]}


def _with_main_option(one: Override, model: type[BaseModel] | None) -> list[Override]:
    """An override such as ``text=frozen:minilm`` as one of the name and one of the row's main option."""
    field = model.model_fields.get(one.path[0]) if model is not None else None
    component = _component(field)
    if component is None or one.path[1:] not in ((), ("name",)) or not isinstance(one.value, str):
        return [one]
    name, colon, value = one.value.partition(":")
    option = component.model(name).main_option if colon and name in component.registry else ""
    if not option:
        return [one]
    return [one._replace(value=name), one._replace(path=(one.path[0], option), value=value)]


def _set_plain(values: dict[str, Any], head: str, own: Sequence[Override]) -> None:
    for one in own:
        if len(one.path) > 1:
            known = [name for name, entry in values.items() if isinstance(entry, dict)]
            raise UsageError(f"config has no section {head!r} (in {one.key!r}); {nearest(head, known)}")
        values[head] = one.value


def _set_section(
    field: FieldInfo | None, values: dict[str, Any], head: str, own: Sequence[Override], notes: list[str]
) -> None:
    """Set the whole section if given, then its name, then its other keys."""
    named = "name" in values[head]
    for one in own:
        if len(one.path) == 1 and not (named and isinstance(one.value, str)):
            values[head] = one.value
    names = [one for one in own if one.path[1:] == ("name",) or (len(one.path) == 1 and isinstance(one.value, str))]
    if names and named and isinstance(values[head], dict):
        given: list[str] = []
        _rename(_component(field), values, head, names[-1], given)
        rated = any(one.path[1:] == ("learning_rate",) for one in own)  # the user chose it: no note
        notes += [note for note in given if not (rated and "learning_rate" in note)]
    inner = [one for one in own if len(one.path) > 1 and not (named and one.path[1:] == ("name",))]
    if not inner:
        return
    if not isinstance(values[head], dict):
        _set_plain(values, head, inner)
    set_values(_section_model(field, values[head]), values[head], [one.inside() for one in inner], notes)


def _component(field: FieldInfo | None) -> Component | None:
    if field is None:
        return None
    optional = [mark for kind in get_args(field.annotation) for mark in getattr(kind, "__metadata__", ())]
    marks = [*field.metadata, *optional]
    return next((mark for mark in marks if isinstance(mark, Component)), None)


def _section_model(field: FieldInfo | None, section: Mapping[str, Any]) -> type[BaseModel] | None:
    """The model of a section; None for a plain mapping."""
    component = _component(field)
    if component is not None:
        name = str(section.get("name"))
        return component.model(name) if name in component.registry else None
    return inner_model(field) if field is not None else None


def _rename(
    component: Component | None, values: dict[str, Any], head: str, requested: Override, notes: list[str]
) -> None:
    """Select another row in ``values[head]``, keeping the old row's options as far as it accepts them."""
    old, name = values[head], requested.value
    key = requested.key.removesuffix(".name")
    if old["name"] == name:
        return
    if component is None:  # one model for all names, such as the optimizer's: every key is known
        values[head] = {**old, "name": name}
        notes += _note_of_rate(old, name, key)
        return
    if not isinstance(name, str) or name not in component.registry:
        try:
            lookup(component.registry, str(name), component.kind)
        except UsageError as error:
            raise UsageError(f"config key {requested.key!r}: {error}") from None
    set_options = component.pick(old).model_dump(mode="json", exclude_defaults=True)
    values[head] = {**_carried(component, name, set_options, key, notes), "name": name}


def _note_of_rate(old: Mapping[str, Any], name: str, key: str) -> list[str]:
    """Note that the learning rate was chosen for another optimizer."""
    if "learning_rate" not in old:
        return []
    return [
        f"{key}.learning_rate={old['learning_rate']:g} was chosen for {old['name']} and is kept for {name}; set "
        "another if it is not suitable"
    ]


def _carried(
    component: Component, name: str, set_options: Mapping[str, Any], key: str, notes: list[str]
) -> dict[str, Any]:
    """The options of another row that the row ``name`` accepts."""
    wanted = {option: value for option, value in set_options.items() if option not in _OF_THE_ROW_ALONE}
    taken = {option: value for option, value in wanted.items() if _accepts(component, name, option, value)}
    taken = _compatible_options(component, name, taken)
    left = [f"{option}={_format(value)}" for option, value in wanted.items() if option not in taken]
    if left:
        notes.append(f"{key}={name} does not take what was set before and is left out: {', '.join(left)}")
    return taken


def _compatible_options(component: Component, name: str, taken: dict[str, Any]) -> dict[str, Any]:
    """Drop the first option that the row does not accept together with the others; all, if that does not help."""
    if _is_compatible(component, name, taken):
        return taken
    parts = [{key: value for key, value in taken.items() if key != left} for left in taken]
    return next((part for part in parts if _is_compatible(component, name, part)), {})


def _is_compatible(component: Component, name: str, options: Mapping[str, Any]) -> bool:
    """Whether a row accepts these options; required ones may still be missing."""
    try:
        component.model(name).model_validate({"name": name, **options})
    except ValidationError as error:
        return all(problem["type"] == "missing" for problem in error.errors())
    return True


def _accepts(component: Component, name: str, option: str, value: Any) -> bool:
    """Whether the row has this option and accepts the value, with all others at their defaults."""
    model = component.model(name)
    if option not in model.model_fields:
        return False
    try:
        found = model.model_validate({"name": name, option: value})
    except ValidationError as error:
        return not any(problem["loc"][:1] == (option,) for problem in error.errors())
    row = resolve(component.registry[name])
    try:
        found.check_row()
        if not (isinstance(row, type) and issubclass(row, ComponentConfig)):
            row(**{option: value})
    except (UsageError, TypeError):
        return False
    return True


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", "..."))
    return value if isinstance(value, str) else json.dumps(value)


def merged_source(old: ComponentConfig, new: SourceConfig, notes: list[str]) -> dict[str, Any]:
    """``new`` with the non-default options of ``old``.

    Args:
        old: data of the recipe.
        new: data that replaces it.
        notes: receives a line for each option that the new source does not have.
    """
    set_options, chosen = (
        old.model_dump(mode="json", exclude_defaults=True),
        new.model_dump(mode="json", exclude_unset=True),
    )
    rest = {key: value for key, value in set_options.items() if key not in chosen}
    return {
        **_carried(Component(SOURCE_CONFIGS, "data source"), new.name, rest, "data", notes),
        **chosen,
        "name": new.name,
    }
