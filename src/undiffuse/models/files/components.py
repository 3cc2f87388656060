"""The components of a saved model according to ``config.json``, as plain data, for all format versions.

In version 1 the options of the model were part of ``config.system``, the options of its objective. Later versions have
a section ``components``; options in both must be equal. Edits are made in ``config.system``, and ``undiffuse seal``
updates the components.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from undiffuse.checksums import changes
from undiffuse.config import ComponentConfig, short_repr, validate
from undiffuse.errors import UsageError

#: The component that is sampled from.
MAIN, _MAIN_WEIGHTS = "model", "model.safetensors"
_DENOISING = (
    *("process", "parameterization", "network", "precision", "class_conditional", "text", "label_dropout", "sampling"),
)
_GAN = ("generator", "discriminator", "latent_size", "precision", "class_conditional", "label_dropout")
#: Objectives of version 1: the kind of model, and which options belong to the model.
_OF_FORMAT_1: dict[str, tuple[str, tuple[str, ...]]] = {
    "diffusion": ("denoising", (*_DENOISING, "learned_variance")),
    "consistency": ("denoising", _DENOISING),
    "mean_flow": ("denoising", _DENOISING),
    "distribution_matching": ("denoising", _DENOISING),
    "progressive": ("progressive", (*_DENOISING, "start_steps")),
    "gan": ("gan", _GAN),
    "wrapped": ("wrapped", ("space", "sampling")),
}
#: Prefixes of tensors that version 1 saved with a model's weights, but that are needed for training only.
_TRAINING_IN_FORMAT_1 = ("importance", "seen", "augment")
#: Default sampling options of objectives in format 1.
_DEFAULT_SAMPLING = {
    "consistency": {"sampler": "consistency", "num_steps": 2, "grid": "angle"},
    "mean_flow": {"sampler": "mean_velocity", "num_steps": 1, "grid": "uniform", "clip_x_0": False},
    "distribution_matching": {"sampler": "consistency", "num_steps": 1, "grid": "angle"},
}
_MOST_COMPONENTS, _LONGEST_NAME = 64, 80


class ComponentEntry(BaseModel):
    """An entry of ``components``.

    Args:
        config: an entry of ``models.MODEL_CONFIGS`` with its options; None for a part, which the model builds.
        weights: name of the weights file; None for a part to download.
        sha256: SHA-256 of that file or of the download; None if training rewrites the file.
        source: where it came from; None if it was trained with undiffuse.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    config: dict[str, Any] | None = None
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    source: str | None = None


def components_of(record: Mapping[str, Any]) -> dict[str, ComponentEntry]:
    """The components in ``config.json`` by name, including ``model``.

    Raises:
        UsageError: if components are missing, or inconsistent with ``config.system``.
    """
    training_options = model_options_of_training(training_section(record))
    if record["format_version"] == 1:
        return {MAIN: ComponentEntry(config=training_options, weights=_MAIN_WEIGHTS)}
    listed = record.get("components")
    if not isinstance(listed, Mapping) or MAIN not in listed or len(listed) > _MOST_COMPONENTS:
        raise UsageError("config.json lacks components.model; it is damaged or not from undiffuse")
    if invalid := [name for name in listed if not name.isidentifier() or len(name) > _LONGEST_NAME]:
        raise UsageError(f"the name of a component must be an identifier, got {short_repr(invalid[0])}")
    components = {name: validate(ComponentEntry, entry, f"component {name!r}") for name, entry in listed.items()}
    main = components[MAIN]
    if main.config is None or main.weights != _MAIN_WEIGHTS or main.sha256 is not None:
        raise UsageError(f"components.model must have a config and the weights {_MAIN_WEIGHTS}; config.json is damaged")
    _check_consistent(main.config, training_options)
    return components


def training_section(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section ``config.system`` of a record.

    Raises:
        UsageError: if it is missing or has no name.
    """
    trained = record["config"].get("system")
    if not isinstance(trained, Mapping) or not str(trained.get("name")).isidentifier():
        raise UsageError("config.json lacks config.system with its name; it is damaged or not from undiffuse")
    return trained


def model_options_of_training(trained: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model in the configuration of its objective, by the model's names.

    For an unknown objective, all options are returned, and only those that the model has as well are compared.
    """
    if trained["name"] not in _OF_FORMAT_1:
        return {key: value for key, value in trained.items() if key != "name"}
    name, keys = _OF_FORMAT_1[trained["name"]]
    options: dict[str, Any] = {"name": name, **{key: trained[key] for key in keys if key in trained}}
    if trained["name"] == "diffusion":
        density = trained.get("time_density", {"name": "uniform"})
        options |= {"guide": trained.get("guide_images") is not None, "trained_density": density}
    if trained["name"] == "mean_flow":
        options["target_time"] = True
    if trained["name"] in _DEFAULT_SAMPLING:
        options.setdefault("sampling", _DEFAULT_SAMPLING[trained["name"]])
    if trained["name"] == "progressive":
        steps = trained.get("end_steps", 1)
        options.setdefault("sampling", {"sampler": "ddim", "num_steps": steps, "grid": "uniform"})
    return options


def synchronised(record: Mapping[str, Any], component: ComponentConfig) -> tuple[dict[str, Any], list[str]]:
    """A copy of a record whose ``components.model`` is updated from ``config.system``, and the list of changes.

    Args:
        record: content of ``config.json``; not modified.
        component: the model configuration that results from ``config.system``.
    """
    updated = copy.deepcopy(dict(record))
    listed = updated.get("components")
    if not isinstance(listed, dict) or not isinstance(listed.get(MAIN), dict):
        return updated, []
    before, after = listed[MAIN].get("config"), component.model_dump(mode="json")
    listed[MAIN]["config"] = after
    return updated, list(changes(before if isinstance(before, dict) else {}, after))


def _check_consistent(component: Mapping[str, Any], training_options: Mapping[str, Any]) -> None:
    """Check that options of the model are the same in its objective's configuration."""
    both = component.keys() & training_options.keys()
    for line in changes({key: training_options[key] for key in both}, {key: component[key] for key in both}):
        raise UsageError(
            f"config.system and components.model.config in config.json differ ({line}); make them the same"
        )


def main_component(config: ComponentConfig) -> dict[str, Any]:
    """The entry of the main model, whose weights file is rewritten by training."""
    entry = ComponentEntry(config=config.model_dump(mode="json"), weights=_MAIN_WEIGHTS)
    return entry.model_dump(mode="json")


def part_component(weights: str | None, sha256: str | None, source: str | None) -> dict[str, Any]:
    """The entry of a part.

    Args:
        weights: name of its file; None for a part to download.
        sha256: SHA-256 of that file or of the download.
        source: where it came from; None if it was trained with undiffuse.
    """
    return ComponentEntry(weights=weights, sha256=sha256, source=source).model_dump(mode="json")


def with_sampling(record: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a record with other sampling defaults of the model, in all sections.

    Args:
        record: content of ``config.json``; not modified.
        changed: new values of ``SamplingConfig`` options, by key.
    """
    updated = copy.deepcopy(dict(record))
    sections = [updated["config"]["system"]]
    if "components" in updated:
        sections.append(updated["components"][MAIN]["config"])
    for section in sections:
        section["sampling"] = {**section.get("sampling", {}), **changed}
    return updated


def text_folder(record: Mapping[str, Any]) -> str | None:
    """Folder of the text encoder of a record's model; None if it has none from elsewhere.

    Args:
        record: content of ``config.json``.
    """
    text = training_section(record).get("text")
    return text.get("folder") if isinstance(text, Mapping) else None


def with_text_folder(record: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A copy of a record with another folder of the text encoder, in all sections.

    Args:
        record: content of ``config.json``; not modified.
        folder: path, relative to the folder of the model if it is not absolute.
    """
    updated = copy.deepcopy(dict(record))
    for section in (updated["config"]["system"], updated["components"][MAIN]["config"]):
        section["text"]["folder"] = folder
    return updated


def weights_of_format_1(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A model's weights or shapes from a version 1 file, without tensors that are needed for training only."""
    return {name: value for name, value in tensors.items() if name.split(".")[0] not in _TRAINING_IN_FORMAT_1}


def checkpoint_of_format_1(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint's tensors to the names of format 2, which separates training state from the model's."""
    converted: dict[str, Any] = {}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if rest.split(".")[0] not in _TRAINING_IN_FORMAT_1 or part not in ("model", "ema"):
            converted[name] = value
        elif part == "model":  # those of the average are copies
            converted[f"training.{rest}"] = value
    return converted
