"""Early checks of the names on a command line, before any heavy import, so that errors are immediate.

Only errors that are certain from names alone are raised here, with the messages of the packages that would raise them
later; these packages check everything again, with the values.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.api.arguments import EXACT, check_process
from undiffuse.api.loading import check_device as check_device  # re-exported for the commands
from undiffuse.api.loading import find_model, names_run
from undiffuse.checksums import read_json
from undiffuse.cli.checks.configuration import check_configuration, names_system, recipe_settings
from undiffuse.cli.checks.data import check_data
from undiffuse.cli.checks.outline import (
    UNKNOWN,
    Option,
    Place,
    defaults_in,
    definition,
    main_option_of,
    names_in,
    options_of,
    renamed_keys_of,
    resolved,
    rows_at,
)
from undiffuse.cli.checks.values import check_value
from undiffuse.errors import UsageError
from undiffuse.models.classes import requested_classes
from undiffuse.models.prompts import check_prompts as check_requested
from undiffuse.models.rules import (
    GUIDING_ONLY,
    check_classifier_options,
    check_guidance,
    check_noise_aware,
    check_refinement,
    check_same_classes,
    missing_guide_error,
    not_a_generator,
)
from undiffuse.observer import SILENT, observing
from undiffuse.registry import nearest, parse_options
from undiffuse.studies.option_parsing import sampler_words
from undiffuse.zoo import bundled_folder

#: Kind of row, as in messages -> registry.
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
#: Kinds that have another name in messages.
_MESSAGE_KINDS = {"pair metric": "metric", "features": "feature extractor"}
#: Keys of a system's configuration whose values are names of rows.
_ROW_KEYS = {
    "sampling.sampler": "sampler",
    "sampling.grid": "time grid",
    "knot_grid": "time grid",
    "parameterization": "parameterization",
}
#: Annotations of components, whose models are in their registry.
_COMPONENT_TYPES = ("ComponentConfig", "AugmentConfig", "SourceConfig")
_RUN = "undiffuse.training.config:RunConfig"
#: Kinds of weights; see ``models.files.weights``.
_WEIGHTS = ("ema", "raw")


def check_model(model: str | Path, device: str = "auto", weights: str = "ema") -> Path:
    """The folder of a model or a run; checks that it has a configuration.

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
    """Check that a folder is a run or a model.

    Raises:
        UsageError: it has no configuration.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a run or model folder: it has no config.json")


def check_bundled(name: str | None) -> None:
    """Check the name of a bundled model."""
    if name is not None:
        bundled_folder(name)


def check_spec(kind: str, spec: str | None) -> None:
    """Check ``name:option=value``: the name of the row, its options and the types of their values."""
    if spec is None:
        return
    name, _, rest = spec.partition(":")
    check_name(kind, name)
    known = defaults_in(REGISTRIES[kind], name)
    read = None if kind != "time grid" and UNKNOWN not in known.values() else _as_text
    parse_options(known, rest, name, kind, read)


def check_name(kind: str, name: str) -> None:
    """Check the name of a row."""
    names = names_in(REGISTRIES[kind])
    if name not in names:
        raise UsageError(f"unknown {_MESSAGE_KINDS.get(kind, kind)} {name!r}; {nearest(name, names)}")


def check_features(name: str) -> None:
    """Check the value of ``--features``."""
    if name != "auto":
        check_name("features", name)


def check_classes(folder: Path, requested: Iterable[str], classifier: Path | None = None) -> None:
    """Check that a model, or the classifier of one without classes, has the requested classes.

    A configuration that cannot be read is not checked.

    Args:
        folder: the folder of the model.
        requested: names of classes.
        classifier: the folder of the classifier that guides it; None for none.
    """
    names = class_names(folder)
    if names == () and classifier is not None:
        names = class_names(classifier)
    if names is None or not (given := list(requested)):
        return
    with observing(SILENT):  # notes are shown when the model is sampled
        requested_classes(given, names)


def check_prompts(
    folder: Path, texts: Sequence[str], negatives: Sequence[str] = (), classifier: Path | None = None
) -> None:
    """Check the syntax of prompts, and that the model in ``folder`` takes texts, if its configuration can be read.

    Args:
        folder: the folder of the model.
        texts: prompts.
        negatives: negative prompts.
        classifier: the folder of the classifier that guides it; None for none. A contrastive one takes texts.
    """
    system, guide = _system_in(folder), None if classifier is None else _system_in(classifier)
    takes_text = system is None or system.get("text") is not None
    guided = guide is not None and guide.get("name") == "contrastive"
    check_requested(texts, takes_text or guided, class_names(folder) or ())
    check_requested(negatives, takes_text, class_names(folder) or ())


def check_classifier(folder: Path, requested: Mapping[str, Any]) -> Path | None:
    """The folder of the classifier in the sampling options; checks that it is one, and knows the model's classes.

    Args:
        folder: the folder of the guided model.
        requested: sampling options by name, as on the command line.
    Raises:
        UsageError: no such classifier, other classes, or options of a classifier without one.
    """
    name = requested.get("classifier")
    check_classifier_options(name, requested, requested.get("cache_interval") or 1)
    if name is None:
        return None
    classifier = find_model(name)
    check_run(classifier)
    system, known, own = _system_in(classifier), class_names(classifier), class_names(folder)
    if system is not None and system.get("name") not in GUIDING_ONLY:
        raise UsageError(
            f"{name} is a {system.get('name')} model and not a classifier; train one with classifier-mnist"
        )
    if system is not None and system.get("name") == "contrastive":
        check_noise_aware(system.get("noise", True), requested.get("classifier_through") or "x_t")
        return classifier
    if known is not None and own is not None:
        check_same_classes(known, own)
    return classifier


def check_generates(folder: Path) -> None:
    """Check that the model in ``folder`` generates samples, if its configuration can be read."""
    system = _system_in(folder)
    if system is not None and system.get("name") in GUIDING_ONLY:
        kinds = {"contrastive": "contrastive model"}
        raise not_a_generator(kinds.get(system["name"], system["name"]))


def check_guided(folder: Path, requested: Mapping[str, Any]) -> None:
    """Check that the model in ``folder`` supports the requested guidance, if its configuration can be read.

    Args:
        folder: the folder of the model.
        requested: sampling options by name, as on the command line.
    """
    weight, auto, system = requested.get("guidance"), requested.get("autoguidance"), _system_in(folder)
    if system is None or "sampling" not in system:
        return
    if weight is not None:
        conditional = bool(system.get("class_conditional", False)) or system.get("text") is not None
        check_guidance(weight, conditional, system.get("label_dropout", 0.1))
    own = system["sampling"].get("guidance", 1.0)
    check_refinement(own if weight is None else weight, requested)
    if auto is not None and auto != 1 and system.get("guide_images") is None:
        raise missing_guide_error(auto)


def check_recipe(name: str | None) -> None:
    """Check the name of a recipe; for a path instead of a recipe, training raises an error with advice."""
    from undiffuse.recipes import RECIPES

    if name is not None and name not in RECIPES and not Path(name).expanduser().exists():
        raise UsageError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")


def check_subject(subject: str) -> None:
    """Check that ``subject`` is a model or data."""
    if not names_run(subject):
        check_data(subject)


def check_theory(model: str, process: str | None, device: str, weights: str) -> None:
    """Check a model or an exact distribution, and a process."""
    check_spec("process", process)
    if not model.startswith(EXACT):
        check_process(process)
        check_model(model, device, weights)
    elif (name := model.removeprefix(EXACT)) not in (names := names_in(REGISTRIES["exact distribution"])):
        raise UsageError(f"no exact distribution {name!r}; {nearest(name, names)}")


def check_training_study(recipe: str, overrides: Sequence[str], data: str | None, device: str) -> None:
    """Check the arguments of a study that trains models."""
    check_device(device)
    check_recipe(recipe)
    check_data(data)
    check_overrides(overrides, recipe, data)


def check_study_options(name: str, options: Sequence[str]) -> None:
    """Check the options of the study ``name``."""
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
    """Check the keys, row names and values of overrides.

    Without a recipe, a key of a component is valid if any row of its registry has it, and a value if any of these rows
    accepts it. With a recipe, the rows are known, and the configuration is validated as a whole.

    Args:
        overrides: ``key=value`` strings.
        recipe: name of the recipe, if known.
        data: value of ``--data``, which replaces the recipe's data.
    """
    requested = [(_current_key(key), text) for key, text in map(_split, overrides)]
    settings = recipe_settings().get(recipe) if recipe is not None else None
    if settings is not None:
        replaced = {_section_of(key) for key, _ in requested} | ({("data",)} if data is not None else set())
        for key, _ in requested:
            _check_recipe_key(key, settings, replaced)
    changes_system = any(map(names_system, overrides))
    if settings is not None and changes_system:  # first, because its messages name the new system
        for key in ("system", "system.name"):
            for _, text in (one for one in requested if one[0] == key):
                _check_key(key, text)
        check_configuration(settings, overrides, data)
    is_complete = settings is not None and not changes_system
    for key, text in requested:
        _check_key(key, text, plain=not is_complete)
    if settings is not None and requested and is_complete:
        check_configuration(settings, overrides, data)


def _split(override: str) -> tuple[str, str]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"expected key=value, got {override!r}; for example num_images=50000")
    return key, text


def _current_key(key: str) -> str:
    """The key with deprecated parts replaced by their current names."""
    path: list[str] = []
    for part in key.split("."):
        renamed = {
            old: new for place in _contents_at(tuple(path)).models for old, new in renamed_keys_of(place).items()
        }
        path.append(renamed.get(part, part))
    return ".".join(path)


def _section_of(key: str) -> tuple[str, ...]:
    """The section that an override of this key replaces; empty for a key inside a section."""
    path = tuple(key.removesuffix(".name").split("."))
    return path if _contents_at(path).models else ()


def _check_recipe_key(key: str, settings: Mapping[str, Any], replaced: Set[tuple[str, ...]]) -> None:
    """Check a key against the rows of a recipe, with the messages of the configuration itself.

    Args:
        key: the overridden key.
        settings: the recipe's settings; see ``recipe_settings``.
        replaced: sections that other overrides replace, whose rows are therefore unknown.
    """
    path, what, start, section = tuple(key.split(".")), "config", 0, settings
    for depth, part in enumerate(path):
        within = path[:depth]
        if not _contents_at(within).models or (within and within in replaced):
            return
        if within and "name" in section and _contents_at(within).component:
            row = section["name"]
            what = f"{what} key {'.'.join(path[start:depth])!r}: {_kind_at(within)} {row!r}"
            start = depth
        fields = _fields_of(within, section)
        if depth == len(path) - 1:
            if part not in fields:
                hint = nearest(part, fields) if depth else _nearest_key(part)
                raise UsageError(f"{what} has no key {'.'.join(path[start:])!r}; {hint}")
            return
        if isinstance(section.get(part), dict):
            section = section[part]
        elif part not in fields or not _contents_at((*within, part)).models:
            known = [name for name, inner in section.items() if isinstance(inner, dict)]
            raise UsageError(f"config has no section {part!r} (in {key!r}); {nearest(part, known)}")
        else:
            return  # set to None by the recipe


def _kind_at(path: tuple[str, ...]) -> str:
    """The kind of the rows under this key, as in messages."""
    calls = [call for option in _contents_at(path[:-1]).fields[path[-1]] for call in _components(option)]
    return str(ast.literal_eval(calls[0].args[1]))


def _fields_of(path: tuple[str, ...], section: Mapping[str, Any]) -> list[str]:
    """The keys of a section: those of the row that it names, or of its only model."""
    contents = _contents_at(path)
    place = contents.every_row[section["name"]] if contents.component else contents.models[0]
    return [*options_of(place), *(["name"] if contents.component and "name" not in options_of(place) else [])]


def is_key(key: str) -> bool:
    """Whether this is a key of a run's configuration, for any choice of rows."""
    try:
        _known_path(key)
    except UsageError:
        return False
    return True


def _known_path(key: str) -> tuple[str, ...]:
    """The parts of a key, without a final ``name``, which selects the row of a section.

    Raises:
        UsageError: no row has it.
    """
    path = tuple(key.split("."))
    names = path[:-1] if path[-1] == "name" and _contents_at(path[:-1]).component else path
    for depth in range(len(names)):
        contents = _contents_at(names[:depth])
        if not contents.models:
            break  # a free-form dictionary
        if names[depth] not in contents.fields:
            raise UsageError(_unknown(key, names[: depth + 1], last=depth == len(path) - 1))
    return names


def _check_key(key: str, text: str, *, plain: bool = True) -> None:
    """Check a key, the name of a row and, if ``plain``, a value, for any choice of rows."""
    path, names = tuple(key.split(".")), _known_path(key)
    if not all(_contents_at(names[:depth]).models for depth in range(len(names))):
        return
    rows = _contents_at(names).rows
    name = text.strip('"')
    row, colon, _ = name.partition(":")
    if colon and row in rows and main_option_of(rows[row]):
        name = row
    if rows and name not in rows and not (name in ("null", "None") or name.startswith("{")):
        kind = _KINDS.get(names[-1], names[-1])
        raise UsageError(f"config key {key!r}: unknown {kind} {name!r}; {nearest(name, rows)}")
    if path[0] == "system" and ".".join(path[1:]) in _ROW_KEYS:
        check_spec(_ROW_KEYS[".".join(path[1:])], name)
    contents = _contents_at(names)
    if plain and names == path and not contents.component and not contents.models:
        check_value(key, text, _contents_at(names[:-1]).fields[names[-1]])


_KINDS = {
    "data": "data source",
    "augment": "augmentation",
    "times": "time density",
    "objective": "objective",
    "text": "text encoder",
}


class _Contents(NamedTuple):
    """The possible contents of a configuration section.

    Attributes:
        models: the models of the section.
        fields: their options by key.
        rows: the rows of the registry, if the section can only be a component.
        every_row: the rows of the registry, if the section may be a component.
        component: whether the section may be a component, that is a row of a registry.
    """

    models: list[Place]
    fields: dict[str, list[Option]]
    rows: dict[str, Place]
    every_row: dict[str, Place]
    component: bool = False


@cache
def _contents_at(path: tuple[str, ...]) -> _Contents:
    """The possible contents of the section at ``path`` of a run's configuration, for any choice of rows."""
    if not path:
        return _with_fields([definition(_RUN)], {}, {})
    options = _contents_at(path[:-1]).fields.get(path[-1], [])
    registries = [rows for option in options for rows in _registries(option)]
    rows = {name: place for registry in registries for name, place in registry.items()}
    plain = [place for option in options for place in _plain_models(option)]
    every = len(registries) == len(options)
    contents = _with_fields([*plain, *rows.values()], rows if every else {}, rows)
    return contents._replace(component=bool(registries))


def _with_fields(models: list[Place], rows: dict[str, Place], every_row: dict[str, Place]) -> _Contents:
    fields: dict[str, list[Option]] = {}
    for model in models:
        for name, option in options_of(model).items():
            fields.setdefault(name, []).append(option)
    return _Contents(models, fields, rows, every_row)


def _unknown(key: str, path: tuple[str, ...], *, last: bool) -> str:
    """The message for an unknown key, the last part of ``path``."""
    fields = _contents_at(path[:-1]).fields
    if last:
        known = nearest(path[-1], fields) if len(path) > 1 else _nearest_key(path[-1])
        return f"config has no key {key!r}; {known}"
    sections = [name for name in fields if _contents_at((*path[:-1], name)).models]
    return f"config has no section {path[-1]!r} (in {key!r}); {nearest(path[-1], sections)}"


def _nearest_key(key: str) -> str:
    """A hint for a key without its section, such as data options, which the data commands take without ``data.``."""
    fields = _contents_at(()).fields
    full_keys = [f"{section}.{key}" for section in fields if key in _contents_at((section,)).fields]
    known = nearest(key, fields)
    return f"did you mean {' or '.join(map(repr, full_keys))}? {known[known.index('known:') :]}" if full_keys else known


def _registries(option: Option) -> list[dict[str, Place]]:
    return [rows_at(resolved(option.module, call.args[0])) for call in _components(option)]


def _components(option: Option) -> list[ast.Call]:
    """Calls ``Component(registry, kind)`` in an annotation."""
    nodes = ast.walk(option.annotation) if option.annotation is not None else ()
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Component"]


def _plain_models(option: Option) -> list[Place]:
    nodes = list(ast.walk(option.annotation)) if option.annotation is not None else []
    names = [node for node in nodes if isinstance(node, ast.Name) and node.id.endswith("Config")]
    places = [resolved(option.module, name) for name in names if name.id not in _COMPONENT_TYPES]
    return [place for place in places if isinstance(place.node, ast.ClassDef)]


def _system_in(folder: Path) -> Mapping[str, Any] | None:
    """The section ``system`` of a model's configuration; None if it cannot be read."""
    try:
        system = read_json(folder / "config.json")["config"]["system"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return system if isinstance(system, dict) else None


def class_names(folder: Path) -> Sequence[str] | None:
    """The class names in a model's configuration; None if it cannot be read."""
    try:
        record = read_json(folder / "config.json")
        system = record["config"]["system"]
        conditional = system.get("class_conditional", False) or system.get("name") == "classifier"
        return tuple(map(str, record["model"]["class_names"])) if conditional else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _as_text(text: str, default: object, what: str) -> str:
    return text
