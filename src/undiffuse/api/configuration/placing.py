"""Values put under dotted keys of a configuration, in an order of its own: names first, then what is said of them.

A *section* is a mapping; one with a ``name`` is a row of a registry with its options. Another name brings another row:
what was said of the old one, beyond its defaults, is carried over where the new row has that key and takes the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from undiffuse.config import Component, ComponentConfig, inner_model
from undiffuse.data.config import SourceConfig
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.errors import UsageError
from undiffuse.registry import lookup, nearest, resolve

#: Never carried over: where other data lie says nothing of these.
_OF_THE_ROW_ALONE = frozenset({"name", "path"})


class Override(NamedTuple):
    """A value for the key at the end of ``path``; ``key`` is the whole as it was written."""

    path: tuple[str, ...]
    value: Any
    key: str

    def inside(self) -> Override:
        """The same as seen from the section that the path begins with."""
        return self._replace(path=self.path[1:])

    def named_now(self, model: type[BaseModel] | None) -> Override:
        """The same where the path begins with a key's earlier name, see ``config.FrozenModel``."""
        head, *rest = self.path
        renamed: Mapping[str, str] = getattr(model, "renamed_keys", {})
        return self._replace(path=(renamed.get(head, head), *rest))


def put(model: type[BaseModel] | None, values: dict[str, Any], requested: Sequence[Override], notes: list[str]) -> None:
    """Write all that is asked into ``values``, plain values of ``model``, where that is known.

    Args:
        model: of the section; None for a section without one.
        values: of the section, changed in place.
        requested: the overrides that belong into it.
        notes: gets a line for each thing of the recipe's that found no place.
    Raises:
        UsageError: a section or a row that there is not.
    """
    requested = [one.named_now(model) for one in requested]
    for head in dict.fromkeys(one.path[0] for one in requested):
        own = [one for one in requested if one.path[0] == head]
        field = model.model_fields.get(head) if model is not None else None
        if field is not None and any(len(one.path) > 1 for one in own):
            _default_section(field, values, head)
        if isinstance(values.get(head), dict):
            _put_section(field, values, head, own, notes)
        else:
            _put_values(values, head, own)


def _default_section(field: FieldInfo, values: dict[str, Any], head: str) -> None:
    """What a key of is said begins as its default; a section that is switched off, with its own defaults."""
    if head not in values:
        values[head] = to_jsonable_python(field.get_default(call_default_factory=True))
    if values[head] is None and inner_model(field) is not None:
        values[head] = {}


def _put_values(values: dict[str, Any], head: str, own: Sequence[Override]) -> None:
    for one in own:
        if len(one.path) > 1:
            known = [name for name, entry in values.items() if isinstance(entry, dict)]
            raise UsageError(f"config has no section {head!r} (in {one.key!r}); {nearest(head, known)}")
        values[head] = one.value


def _put_section(
    field: FieldInfo | None, values: dict[str, Any], head: str, own: Sequence[Override], notes: list[str]
) -> None:
    """The whole section if it is given at once, then its name, then the rest."""
    named = "name" in values[head]
    for one in own:
        if len(one.path) == 1 and not (named and isinstance(one.value, str)):
            values[head] = one.value
    names = [one for one in own if one.path[1:] == ("name",) or (len(one.path) == 1 and isinstance(one.value, str))]
    if names and named and isinstance(values[head], dict):
        given: list[str] = []
        _rename(_component(field), values, head, names[-1], given)
        rated = any(one.path[1:] == ("learning_rate",) for one in own)  # the user has chosen: nothing to say
        notes += [note for note in given if not (rated and "learning_rate" in note)]
    inner = [one for one in own if len(one.path) > 1 and not (named and one.path[1:] == ("name",))]
    if not inner:
        return
    if not isinstance(values[head], dict):
        _put_values(values, head, inner)
    put(_section_model(field, values[head]), values[head], [one.inside() for one in inner], notes)


def _component(field: FieldInfo | None) -> Component | None:
    marks = field.metadata if field is not None else ()
    return next((mark for mark in marks if isinstance(mark, Component)), None)


def _section_model(field: FieldInfo | None, section: Mapping[str, Any]) -> type[BaseModel] | None:
    """The model of a section; nothing for a plain mapping."""
    component = _component(field)
    if component is not None:
        name = str(section.get("name"))
        return component.model(name) if name in component.registry else None
    return inner_model(field) if field is not None else None


def _rename(
    component: Component | None, values: dict[str, Any], head: str, requested: Override, notes: list[str]
) -> None:
    """Another row in ``values[head]``, with what was said of the old one where it takes that."""
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
    said = component.pick(old).model_dump(mode="json", exclude_defaults=True)
    values[head] = {**_carried(component, name, said, key, notes), "name": name}


def _note_of_rate(old: Mapping[str, Any], name: str, key: str) -> list[str]:
    """A learning rate means something else to another optimizer."""
    if "learning_rate" not in old:
        return []
    return [
        f"{key}.learning_rate={old['learning_rate']:g} was chosen for {old['name']} and stays with {name}; say another "
        "if it does not suit"
    ]


def _carried(component: Component, name: str, said: Mapping[str, Any], key: str, notes: list[str]) -> dict[str, Any]:
    """What the row ``name`` takes of what was said of another."""
    wanted = {option: value for option, value in said.items() if option not in _OF_THE_ROW_ALONE}
    taken = {option: value for option, value in wanted.items() if _takes(component, name, option, value)}
    taken = _together(component, name, taken)
    left = [f"{option}={_shown(value)}" for option, value in wanted.items() if option not in taken]
    if left:
        notes.append(f"{key}={name} does not take what was set before and is left out: {', '.join(left)}")
    return taken


def _together(component: Component, name: str, taken: dict[str, Any]) -> dict[str, Any]:
    """Without the first option that the row takes alone but not with the others; without all if that is none."""
    if _is_compatible(component, name, taken):
        return taken
    parts = [{key: value for key, value in taken.items() if key != left} for left in taken]
    return next((part for part in parts if _is_compatible(component, name, part)), {})


def _is_compatible(component: Component, name: str, options: Mapping[str, Any]) -> bool:
    """Whether a row has nothing to say against these options; what else it needs may be said yet."""
    try:
        component.model(name).model_validate({"name": name, **options})
    except ValidationError as error:
        return all(problem["type"] == "missing" for problem in error.errors())
    return True


def _takes(component: Component, name: str, option: str, value: Any) -> bool:
    """Whether the row has this option and the value is one for it, all others at their defaults."""
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


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", "..."))
    return value if isinstance(value, str) else json.dumps(value)


def merged_source(old: ComponentConfig, new: SourceConfig, notes: list[str]) -> dict[str, Any]:
    """``new`` with what ``old`` says beyond its own defaults, which are not those of another source.

    Args:
        old: the data of the recipe.
        new: the data that replaces it.
        notes: receives a line for each option that the new source does not have.
    """
    said, chosen = old.model_dump(mode="json", exclude_defaults=True), new.model_dump(mode="json", exclude_unset=True)
    rest = {key: value for key, value in said.items() if key not in chosen}
    return {
        **_carried(Component(SOURCE_CONFIGS, "data source"), new.name, rest, "data", notes),
        **chosen,
        "name": new.name,
    }
