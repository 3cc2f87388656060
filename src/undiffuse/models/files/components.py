"""Of what components a saved model is made, as ``config.json`` says: plain data, whichever version wrote it.

Version 1 knew one component and did not say so: what a model was made of stood among the options of what trained it,
``config.system``. Later versions say it in ``components``; what stands in both has to be the same, and an edit belongs
into ``config.system``: ``undiffuse seal`` has the other follow.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from undiffuse.config import ComponentConfig, short_repr, validate
from undiffuse.errors import UsageError
from undiffuse.sealed import changes

#: The component that is sampled from.
MAIN, _MAIN_WEIGHTS = "model", "model.safetensors"
_DENOISING = (
    *("process", "parameterization", "network", "precision", "class_conditional", "label_dropout", "sampling"),
)
_GAN = ("generator", "discriminator", "latent_size", "precision", "class_conditional", "label_dropout")
#: What version 1 trained: the model that came of it, and which options were the model's.
_OF_FORMAT_1: dict[str, tuple[str, tuple[str, ...]]] = {
    "diffusion": ("denoising", (*_DENOISING, "learned_variance")),
    "consistency": ("denoising", _DENOISING),
    "mean_flow": ("denoising", _DENOISING),
    "distribution_matching": ("denoising", _DENOISING),
    "progressive": ("progressive", (*_DENOISING, "start_steps")),
    "gan": ("gan", _GAN),
    "wrapped": ("wrapped", ("space", "sampling")),
}
#: Names of tensors, by their first part, that version 1 kept among a model's weights and are training's alone.
_TRAINING_IN_FORMAT_1 = ("importance", "seen", "augment")
#: How an objective of format 1 sampled where its configuration did not say so.
_SAMPLED_BY = {
    "consistency": {"sampler": "consistency", "num_steps": 2, "grid": "angle"},
    "mean_flow": {"sampler": "mean_velocity", "num_steps": 1, "grid": "uniform", "clip_x_0": False},
    "distribution_matching": {"sampler": "consistency", "num_steps": 1, "grid": "angle"},
}
_MOST_COMPONENTS, _LONGEST_NAME = 64, 80


class ComponentEntry(BaseModel):
    """An entry of ``components``.

    Args:
        config: a row of ``models.MODEL_CONFIGS`` with its options; None for a part, which the model itself builds.
        weights: the file in this folder that holds them; None for a part that is fetched.
        sha256: of that file, or of what is fetched; None where training writes it anew.
        source: where it came from, None for what was made here.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    config: dict[str, Any] | None = None
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    source: str | None = None


def components_of(record: Mapping[str, Any]) -> dict[str, ComponentEntry]:
    """The components of a read ``config.json`` by name, ``model`` among them.

    Raises:
        UsageError: it does not say, or says it in two ways that are not the same.
    """
    said = model_options_of_training(training_section(record))
    if record["format_version"] == 1:
        return {MAIN: ComponentEntry(config=said, weights=_MAIN_WEIGHTS)}
    listed = record.get("components")
    if not isinstance(listed, Mapping) or MAIN not in listed or len(listed) > _MOST_COMPONENTS:
        raise UsageError("config.json lacks components.model; it is damaged or not from undiffuse")
    if strange := [name for name in listed if not name.isidentifier() or len(name) > _LONGEST_NAME]:
        raise UsageError(f"a component is called by the name of an attribute, got {short_repr(strange[0])}")
    found = {name: validate(ComponentEntry, entry, f"component {name!r}") for name, entry in listed.items()}
    main = found[MAIN]
    if main.config is None or main.weights != _MAIN_WEIGHTS or main.sha256 is not None:
        raise UsageError(f"components.model must have a config and the weights {_MAIN_WEIGHTS}; config.json is damaged")
    _check_consistent(main.config, said)
    return found


def training_section(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part ``config.system`` of a record.

    Raises:
        UsageError: it is none.
    """
    trained = record["config"].get("system")
    if not isinstance(trained, Mapping) or not str(trained.get("name")).isidentifier():
        raise UsageError("config.json lacks config.system with its name; it is damaged or not from undiffuse")
    return trained


def model_options_of_training(trained: Mapping[str, Any]) -> dict[str, Any]:
    """The model's options among those of what trains it, by the model's names for them.

    Of an objective that this table does not know only names that both have are taken for the same.
    """
    if trained["name"] not in _OF_FORMAT_1:
        return {key: value for key, value in trained.items() if key != "name"}
    name, keys = _OF_FORMAT_1[trained["name"]]
    made: dict[str, Any] = {"name": name, **{key: trained[key] for key in keys if key in trained}}
    if trained["name"] == "diffusion":
        density = trained.get("time_density", {"name": "uniform"})
        made |= {"guide": trained.get("guide_images") is not None, "trained_density": density}
    if trained["name"] == "mean_flow":
        made["target_time"] = True
    if trained["name"] in _SAMPLED_BY:
        made.setdefault("sampling", _SAMPLED_BY[trained["name"]])
    if trained["name"] == "progressive":
        steps = trained.get("end_steps", 1)
        made.setdefault("sampling", {"sampler": "ddim", "num_steps": steps, "grid": "uniform"})
    return made


def synchronised(record: Mapping[str, Any], component: ComponentConfig) -> tuple[dict[str, Any], list[str]]:
    """A record whose ``components.model`` is what ``config.system`` makes it, and what of it changed.

    Args:
        record: a read ``config.json``; it stays as it is.
        component: what ``config.system`` makes the model.
    """
    made = copy.deepcopy(dict(record))
    listed = made.get("components")
    if not isinstance(listed, dict) or not isinstance(listed.get(MAIN), dict):
        return made, []
    before, after = listed[MAIN].get("config"), component.model_dump(mode="json")
    listed[MAIN]["config"] = after
    return made, list(changes(before if isinstance(before, dict) else {}, after))


def _check_consistent(component: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Refuse options of the model that are others where training names them."""
    both = component.keys() & said.keys()
    for line in changes({key: said[key] for key in both}, {key: component[key] for key in both}):
        raise UsageError(
            f"config.json says one thing in config.system and another in components.model.config ({line}); make them "
            "the same"
        )


def main_component(config: ComponentConfig) -> dict[str, Any]:
    """The entry of the model itself, whose weights training writes anew."""
    entry = ComponentEntry(config=config.model_dump(mode="json"), weights=_MAIN_WEIGHTS)
    return entry.model_dump(mode="json")


def part_component(weights: str | None, sha256: str | None, source: str | None) -> dict[str, Any]:
    """The entry of a part.

    Args:
        weights: name of its file; None where it is fetched.
        sha256: of that file, or of what is fetched.
        source: where it came from; None for what was made here.
    """
    return ComponentEntry(weights=weights, sha256=sha256, source=source).model_dump(mode="json")


def with_sampling(record: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose model has other defaults of sampling, wherever it says them.

    Args:
        record: a read ``config.json``; it stays as it is.
        changed: options of ``SamplingConfig`` by their keys, with the new values.
    """
    made = copy.deepcopy(dict(record))
    places = [made["config"]["system"], *([made["components"][MAIN]["config"]] if "components" in made else [])]
    for place in places:
        place["sampling"] = {**place.get("sampling", {}), **changed}
    return made


def weights_of_format_1(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A model's weights, or shapes, as version 1 named them, without what was training's alone."""
    return {name: value for name, value in tensors.items() if name.split(".")[0] not in _TRAINING_IN_FORMAT_1}


def checkpoint_of_format_1(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors by the names of format 2: what belongs to training alone is separated from the model's."""
    moved: dict[str, Any] = {}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if rest.split(".")[0] not in _TRAINING_IN_FORMAT_1 or part not in ("model", "ema"):
            moved[name] = value
        elif part == "model":  # the average's are copies of these
            moved[f"training.{rest}"] = value
    return moved
