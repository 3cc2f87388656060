"""The objective that a loaded model was trained with, for its loss."""

from __future__ import annotations

from undiffuse.config import Component
from undiffuse.errors import UsageError
from undiffuse.models.files.components import MAIN, components_of
from undiffuse.models.saved import Model, config_of
from undiffuse.objectives import OBJECTIVE_CONFIGS
from undiffuse.objectives.base import AnyObjective, ObjectiveConfig


def objective_of(opened: Model) -> AnyObjective | None:
    """What a model was trained with, around it; None where it was not trained here.

    Raises:
        UsageError: a configuration of a loss that does not go with that of the model.
    """
    trained = opened.config["config"]["system"]
    if trained.get("name") not in OBJECTIVE_CONFIGS:
        return None
    config = Component(OBJECTIVE_CONFIGS, "system").pick(trained)
    assert isinstance(config, ObjectiveConfig)
    described = components_of(opened.config)[MAIN]
    if config.component() != config_of(described):
        raise UsageError(
            f"{opened.path}/config.json describes a model that config.system={config.name} does not train; put a sound "
            "copy back"
        )
    return config.around(opened.module)
