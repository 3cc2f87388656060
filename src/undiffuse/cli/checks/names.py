"""What a command line says wrongly, found before anything heavy is imported: it is answered at once.

Only what is certain by names alone is refused here, in the words of the rooms that would refuse it later; whatever
passes is looked at again there, with its values.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.api.arguments import EXACT, check_process
from undiffuse.api.loading import check_device as check_device  # next to the others, for the commands
from undiffuse.api.loading import find_model, names_run
from undiffuse.cli.checks.configuration import check_configuration, names_system, recipe_settings
from undiffuse.cli.checks.data import check_data
from undiffuse.cli.checks.outline import (
    UNKNOWN,
    Option,
    Place,
    defaults_in,
    definition,
    names_in,
    options_of,
    renamed_keys_of,
    resolved,
    rows_at,
)
from undiffuse.cli.checks.values import check_value
from undiffuse.errors import UsageError
from undiffuse.models.classes import requested_classes
from undiffuse.models.rules import check_guidance, no_guide
from undiffuse.observer import SILENT, observing
from undiffuse.registry import nearest, parse_options
from undiffuse.sealed import read_json
from undiffuse.studies.option_parsing import sampler_words
from undiffuse.zoo import bundled_folder

#: Registries by the word for a row.
REGISTRIES = {
    "sampler": "undiffuse.samplers:SAMPLERS",
    "time grid": "undiffuse.samplers.grids:GRIDS",
    "process": "undiffuse.core.processes:PROCESSES",
    "parameterization": "undiffuse.core.parameterization:PARAMETERIZATIONS",
    "metric": "undiffuse.evaluation:METRICS",
    "pair metric": "undiffuse.evaluation.compare:PAIR_METRICS",
    "features": "undiffuse.metrics.features:FEATURES",
    "distance": "undiffuse.metrics.set_distance:SET_DISTANCES",
    "distillation method": "undiffuse.recipes.few_step:DISTILLATIONS",
    "exact distribution": "undiffuse.studies.theory.ground_truth:TRUTHS",
    "public data set": "undiffuse.data.download.sets:SETS",
}
#: What the rooms themselves call a row, where that is another word.
_SAID = {"pair metric": "metric", "features": "feature extractor"}
#: Keys of a system's configuration whose values name rows.
_NAMING = {"sampling.sampler": "sampler", "sampling.grid": "time grid", "parameterization": "parameterization"}
#: Annotations of components, whose models their registry tells.
_OF_COMPONENTS = ("ComponentConfig", "AugmentConfig", "SourceConfig")
_RUN = "undiffuse.training.config:RunConfig"
#: Files of weights by what they are called; see ``models.files.weights``.
_WEIGHTS = ("ema", "raw")


def check_model(model: str | Path, device: str = "auto", weights: str = "ema") -> Path:
    """The folder of a model, or of a run, with a configuration in it.

    Raises:
        UsageError: no such model, or no such device or kind of weights.
    """
    check_device(device)
    if weights not in _WEIGHTS:
        raise UsageError(f"unknown kind of weights {weights!r}; {nearest(weights, _WEIGHTS)}")
    folder = find_model(model)
    check_run(folder)
    return folder


def check_run(folder: Path) -> None:
    """Refuse a folder that holds neither a run nor a model.

    Raises:
        UsageError: it has no configuration.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no run or model folder: it has no config.json")


def check_bundled(name: str | None) -> None:
    """Refuse what names no bundled model."""
    if name is not None:
        bundled_folder(name)


def check_spec(kind: str, spec: str | None) -> None:
    """Refuse ``name:option=value`` of an unknown row, an option that it does not have, or a value of another type."""
    if spec is None:
        return
    name, _, rest = spec.partition(":")
    check_name(kind, name)
    known = defaults_in(REGISTRIES[kind], name)
    read = None if kind != "time grid" and UNKNOWN not in known.values() else _as_text
    parse_options(known, rest, name, kind, read)


def check_name(kind: str, name: str) -> None:
    """Refuse an unknown row."""
    names = names_in(REGISTRIES[kind])
    if name not in names:
        raise UsageError(f"unknown {_SAID.get(kind, kind)} {name!r}; {nearest(name, names)}")


def check_features(name: str) -> None:
    """Refuse what ``--features`` does not know."""
    if name != "auto":
        check_name("features", name)


def check_classes(folder: Path, requested: Iterable[str]) -> None:
    """Refuse classes that the model in ``folder`` does not have, where its configuration says so."""
    names = class_names(folder)
    if names is None or not (given := list(requested)):
        return
    with observing(SILENT):  # said when it is acted on
        requested_classes(given, names)


def check_guided(folder: Path, requested: Mapping[str, Any]) -> None:
    """Refuse guidance of a model that was not taught it, where its configuration says so.

    Args:
        requested: options of sampling by name, as they were typed.
    """
    weight, auto, system = requested.get("guidance"), requested.get("autoguidance"), _system_in(folder)
    if system is None or "sampling" not in system:
        return
    if weight is not None:
        check_guidance(weight, bool(system.get("class_conditional", False)), system.get("label_dropout", 0.1))
    if auto is not None and auto != 1 and system.get("guide_images") is None:
        raise no_guide(auto)


def check_recipe(name: str | None) -> None:
    """Refuse an unknown recipe; of data in a recipe's place, training says what to type."""
    from undiffuse.recipes import RECIPES

    if name is not None and name not in RECIPES and not Path(name).expanduser().exists():
        raise UsageError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")


def check_subject(subject: str) -> None:
    """Refuse what is neither a model nor data."""
    if not names_run(subject):
        check_data(subject)


def check_theory(model: str, process: str | None, device: str, weights: str) -> None:
    """Refuse what is neither a model nor the exact one of a source, or a process that is none."""
    check_spec("process", process)
    if not model.startswith(EXACT):
        check_process(process)
        check_model(model, device, weights)
    elif (name := model.removeprefix(EXACT)) not in (names := names_in(REGISTRIES["exact distribution"])):
        raise UsageError(f"no exact distribution {name!r}; {nearest(name, names)}")


def check_training_study(recipe: str, overrides: Sequence[str], data: str | None, device: str) -> None:
    """Refuse what no training of a study could be made of."""
    check_device(device)
    check_recipe(recipe)
    check_data(data)
    check_overrides(overrides, recipe, data)


def check_study_options(name: str, options: Sequence[str]) -> None:
    """Refuse options that the study of this name does not have."""
    from undiffuse.studies import MODEL_STUDIES

    known = options_of(definition(MODEL_STUDIES[name].options))
    for option in options:
        key, equals, text = option.partition("=")
        if equals and key and key not in known:
            raise UsageError(f"study {name!r} has no key {key!r}; {nearest(key, known)}")
        for sampler in sampler_words(text) if key in ("sampler", "samplers") else ():
            check_spec("sampler", sampler)
        if key == "features":
            check_features(text)
    if options:
        from undiffuse.api.configuration.overrides import read_options
        from undiffuse.cli.checks.models import model_at

        read_options(model_at(definition(MODEL_STUDIES[name].options)), options, f"study {name!r}")


def check_overrides(overrides: Sequence[str], recipe: str | None = None, data: str | None = None) -> None:
    """Refuse keys that a run's configuration does not have, names of rows that are none, and values.

    Without a recipe a key of a component is known if any row of its registry has it, and a value is one if it is for
    any of them; of a recipe the chosen rows are known, and what goes together.

    Args:
        recipe: whose configuration is overridden, where that is known.
        data: what replaces the recipe's own data.
    """
    requested = [(_named_now(key), text) for key, text in map(_split, overrides)]
    said = recipe_settings().get(recipe) if recipe is not None else None
    if said is not None:
        chosen = {_section_of(key) for key, _ in requested} | ({("data",)} if data is not None else set())
        for key, _ in requested:
            _check_chosen(key, said, chosen)
    whole = said is not None and not any(map(names_system, overrides))
    for key, text in requested:
        _check_key(key, text, plain=not whole)
    if said is not None and requested and whole:
        check_configuration(said, overrides, data)


def _split(override: str) -> tuple[str, str]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"expected key=value, got {override!r}; for example num_images=50000")
    return key, text


def _named_now(key: str) -> str:
    """The same key where a part of it has an earlier name."""
    path: list[str] = []
    for part in key.split("."):
        renamed = {old: new for place in _held(tuple(path)).models for old, new in renamed_keys_of(place).items()}
        path.append(renamed.get(part, part))
    return ".".join(path)


def _section_of(key: str) -> tuple[str, ...]:
    """The section that is replaced by a value for this key, or whose row is; none for a value within one."""
    path = tuple(key.removesuffix(".name").split("."))
    return path if _held(path).models else ()


def _check_chosen(key: str, said: Mapping[str, Any], replaced: Set[tuple[str, ...]]) -> None:
    """Refuse a key that the rows of a recipe do not have, in the words of the configuration itself.

    Args:
        said: by the recipe; see ``recipe_settings``.
        replaced: sections of which the command line says more than some keys, whose rows may be others.
    """
    path, what, begin, section = tuple(key.split(".")), "config", 0, said
    for depth, part in enumerate(path):
        within = path[:depth]
        if not _held(within).models or (within and within in replaced):
            return
        if within and "name" in section and _held(within).component:
            row = section["name"]
            what = f"{what} key {'.'.join(path[begin:depth])!r}: {_kind_at(within)} {row!r}"
            begin = depth
        fields = _fields_of(within, section)
        if depth == len(path) - 1:
            if part not in fields:
                hint = nearest(part, fields) if depth else _nearest_key(part)
                raise UsageError(f"{what} has no key {'.'.join(path[begin:])!r}; {hint}")
            return
        if isinstance(section.get(part), dict):
            section = section[part]
        elif part not in fields or not _held((*within, part)).models:
            known = [name for name, inner in section.items() if isinstance(inner, dict)]
            raise UsageError(f"config has no section {part!r} (in {key!r}); {nearest(part, known)}")
        else:
            return  # switched off by the recipe


def _kind_at(path: tuple[str, ...]) -> str:
    """What a row under this key is called."""
    calls = [call for option in _held(path[:-1]).fields[path[-1]] for call in _components(option)]
    return str(ast.literal_eval(calls[0].args[1]))


def _fields_of(path: tuple[str, ...], section: Mapping[str, Any]) -> list[str]:
    """The keys of the row that a section names, or of the one model that it can be."""
    held = _held(path)
    place = held.every_row[section["name"]] if held.component else held.models[0]
    return [*options_of(place), *(["name"] if held.component and "name" not in options_of(place) else [])]


def is_key(key: str) -> bool:
    """Whether a run's configuration may have this key."""
    try:
        _known_path(key)
    except UsageError:
        return False
    return True


def _known_path(key: str) -> tuple[str, ...]:
    """The parts of a key, without the ``name`` that says which row a section is of.

    Raises:
        UsageError: no row has it.
    """
    path = tuple(key.split("."))
    names = path[:-1] if path[-1] == "name" and _held(path[:-1]).component else path
    for depth in range(len(names)):
        held = _held(names[:depth])
        if not held.models:
            break  # a dictionary of the user's own
        if names[depth] not in held.fields:
            raise UsageError(_unknown(key, names[: depth + 1], last=depth == len(path) - 1))
    return names


def _check_key(key: str, text: str, *, plain: bool = True) -> None:
    """Refuse a key that no row has, a name of no row and, if ``plain``, a value that none takes."""
    path, names = tuple(key.split(".")), _known_path(key)
    if not all(_held(names[:depth]).models for depth in range(len(names))):
        return
    rows = _held(names).rows
    name = text.strip('"')
    if rows and name not in rows and not (name in ("null", "None") or name.startswith("{")):
        kind = _KINDS.get(names[-1], names[-1])
        raise UsageError(f"config key {key!r}: unknown {kind} {name!r}; {nearest(name, rows)}")
    if path[0] == "system" and ".".join(path[1:]) in _NAMING:
        check_spec(_NAMING[".".join(path[1:])], name)
    held = _held(names)
    if plain and names == path and not held.component and not held.models:
        check_value(key, text, _held(names[:-1]).fields[names[-1]])


_KINDS = {"data": "data source", "augment": "augmentation", "times": "time density", "objective": "objective"}


class _Held(NamedTuple):
    """What may lie under a key of a configuration: models and their fields.

    ``component`` says that it may hold a row of a registry, one of ``every_row``; ``rows`` are the same where it holds
    nothing else.
    """

    models: list[Place]
    fields: dict[str, list[Option]]
    rows: dict[str, Place]
    every_row: dict[str, Place]
    component: bool = False


@cache
def _held(path: tuple[str, ...]) -> _Held:
    """What a run's configuration may hold under these keys, whatever rows are chosen."""
    if not path:
        return _with_fields([definition(_RUN)], {}, {})
    options = _held(path[:-1]).fields.get(path[-1], [])
    registries = [rows for option in options for rows in _registries(option)]
    rows = {name: place for registry in registries for name, place in registry.items()}
    plain = [place for option in options for place in _plain_models(option)]
    every = len(registries) == len(options)
    held = _with_fields([*plain, *rows.values()], rows if every else {}, rows)
    return held._replace(component=bool(registries))


def _with_fields(models: list[Place], rows: dict[str, Place], every_row: dict[str, Place]) -> _Held:
    fields: dict[str, list[Option]] = {}
    for model in models:
        for name, option in options_of(model).items():
            fields.setdefault(name, []).append(option)
    return _Held(models, fields, rows, every_row)


def _unknown(key: str, path: tuple[str, ...], *, last: bool) -> str:
    """The last of ``path`` is no key."""
    fields = _held(path[:-1]).fields
    if last:
        known = nearest(path[-1], fields) if len(path) > 1 else _nearest_key(path[-1])
        return f"config has no key {key!r}; {known}"
    sections = [name for name in fields if _held((*path[:-1], name)).models]
    return f"config has no section {path[-1]!r} (in {key!r}); {nearest(path[-1], sections)}"


def _nearest_key(key: str) -> str:
    """A hint for a key without its section: of the options of data, say, which data's own commands take bare."""
    fields = _held(()).fields
    whole = [f"{section}.{key}" for section in fields if key in _held((section,)).fields]
    known = nearest(key, fields)
    return f"did you mean {' or '.join(map(repr, whole))}? {known[known.index('known:') :]}" if whole else known


def _registries(option: Option) -> list[dict[str, Place]]:
    return [rows_at(resolved(option.module, call.args[0])) for call in _components(option)]


def _components(option: Option) -> list[ast.Call]:
    """Calls ``Component(registry, kind)`` in an annotation."""
    nodes = ast.walk(option.annotation) if option.annotation is not None else ()
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Component"]


def _plain_models(option: Option) -> list[Place]:
    nodes = list(ast.walk(option.annotation)) if option.annotation is not None else []
    names = [node for node in nodes if isinstance(node, ast.Name) and node.id.endswith("Config")]
    places = [resolved(option.module, name) for name in names if name.id not in _OF_COMPONENTS]
    return [place for place in places if isinstance(place.node, ast.ClassDef)]


def _system_in(folder: Path) -> Mapping[str, Any] | None:
    """The section of a model's configuration; None where nothing can be understood."""
    try:
        system = read_json(folder / "config.json")["config"]["system"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return system if isinstance(system, dict) else None


def class_names(folder: Path) -> Sequence[str] | None:
    """What a model's configuration says of its classes; None where it says nothing that can be understood."""
    try:
        record = read_json(folder / "config.json")
        conditional = record["config"]["system"].get("class_conditional", False)
        return tuple(map(str, record["model"]["class_names"])) if conditional else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _as_text(text: str, default: object, what: str) -> str:
    return text
