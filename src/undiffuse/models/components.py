"""Of what components a saved model is made, as ``config.json`` says: plain data, whichever version wrote it.

Version 1 knew one component and did not say so: what a model was made of stood among the options of what trained it,
``config.system``. Later versions say it in ``components``; what stands in both has to be the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from undiffuse.config import ComponentConfig, shown, validate
from undiffuse.errors import UsageError
from undiffuse.registry import lookup
from undiffuse.sealed import changes

#: The component that is sampled from.
MAIN = "model"
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


class ComponentFacts(BaseModel):
    """An entry of ``components``.

    Args:
        config: a row of ``models.MODEL_CONFIGS`` with its options; None for a part that the main component builds.
        weights: the file in this folder that holds them.
        sha256: of that file; None where training writes it anew.
        source: where it came from, None for what was trained here.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    config: dict[str, Any] | None = None
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    source: str | None = None


def components_of(record: Mapping[str, Any], *, alike: bool = True) -> dict[str, ComponentFacts]:
    """The components of a read ``config.json`` by name, ``model`` among them.

    Args:
        alike: refuse a model that is described in two ways.
    Raises:
        UsageError: it does not say, or says it in two ways that are not the same.
    """
    if record["format_version"] == 1:
        return {MAIN: ComponentFacts(config=_of_format_1(record["config"]), weights="model.safetensors")}
    told = record.get("components")
    if not isinstance(told, Mapping) or MAIN not in told:
        raise UsageError("config.json lacks components.model; it is damaged or not from undiffuse")
    found = {name: validate(ComponentFacts, facts, f"component {name!r}") for name, facts in told.items()}
    if alike:
        _check_said_once(found[MAIN].config, record["config"])
    return found


def _of_format_1(config: Mapping[str, Any]) -> dict[str, Any]:
    trained = config["system"]
    name, keys = lookup(_OF_FORMAT_1, str(trained["name"]), "system")
    made: dict[str, Any] = {"name": name, **{key: trained[key] for key in keys if key in trained}}
    if trained["name"] == "diffusion":
        made |= {"guide": trained.get("guide_images") is not None, "trained_density": trained.get("time_density")}
    if trained["name"] == "mean_flow":
        made["target_time"] = True
    return made


def said_alike(record: Mapping[str, Any], kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """A record in which both places that say an option of the model say what is meant.

    Args:
        kept: the copy that was saved with the weights: of two values the one that is not the kept one is meant.
    Raises:
        UsageError: both were changed, and not alike.
    """
    made = copy.deepcopy(dict(record))
    if "components" not in made:
        return made
    components_of(made, alike=False)
    trained, model = made["config"]["system"], made["components"][MAIN]["config"]
    before = {} if kept is None else kept["config"]["system"]
    for key in (model.keys() & trained.keys()) - {"name"}:
        if model[key] != trained[key] and trained[key] == before.get(key):
            trained[key] = model[key]
        elif model[key] != trained[key] and model[key] == before.get(key, model[key]):
            model[key] = trained[key]
    components_of(made)
    return made


def _check_said_once(component: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """Refuse options of the model that are others where training names them."""
    trained = config.get("system")
    if not isinstance(component, Mapping) or not isinstance(trained, Mapping):
        raise UsageError("config.json lacks config.system or components.model.config; it is damaged")
    if not str(trained.get("name")).isidentifier():
        raise UsageError(f"config.system.name is no name, got {shown(trained.get('name'))}; config.json is damaged")
    both = (component.keys() & trained.keys()) - {"name"}
    for line in changes({key: trained[key] for key in both}, {key: component[key] for key in both}):
        raise UsageError(
            f"config.json says one thing in config.system and another in components.model.config ({line}); make them "
            "the same"
        )


def main_component(config: ComponentConfig) -> dict[str, Any]:
    """The entry of the model itself, whose weights training writes anew."""
    facts = ComponentFacts(config=config.model_dump(mode="json"), weights="model.safetensors")
    return facts.model_dump(mode="json")


def part_component(weights: str, sha256: str, source: str | None) -> dict[str, Any]:
    """The entry of a part that the model builds and that has a file of its own."""
    return ComponentFacts(weights=weights, sha256=sha256, source=source).model_dump(mode="json")


def with_sampling(record: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose model has other defaults of sampling, wherever it says them."""
    made = copy.deepcopy(dict(record))
    places = [made["config"]["system"], *([made["components"][MAIN]["config"]] if "components" in made else [])]
    for place in places:
        place["sampling"] = {**place["sampling"], **changed}
    return made


def weights_of_format_1(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A model's weights, or shapes, as version 1 named them, without what was training's alone."""
    return {name: value for name, value in tensors.items() if name.split(".")[0] not in _TRAINING_IN_FORMAT_1}


def checkpoint_of_format_1(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors as they are named since: what was training's alone is told from the model's."""
    moved: dict[str, Any] = {}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if rest.split(".")[0] not in _TRAINING_IN_FORMAT_1 or part not in ("model", "ema"):
            moved[name] = value
        elif part == "model":  # the average's are copies of these
            moved[f"training.{rest}"] = value
    return moved
